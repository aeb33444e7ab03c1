"""What the revisions of a project already do to a column, as far as their source shows it."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Alembic loads this module while it is itself being imported
    from alembic.autogenerate.api import AutogenContext


def is_in_a_revision(context: AutogenContext, operation: str, schema: str | None, table: str, column: str) -> bool:
    """Return whether the upgrade of a revision calls an operation, such as `encrypt_columns`, for a column."""
    environment = context.migration_context and context.migration_context.environment_context
    if not environment:
        return False
    for script in environment.script.walk_revisions():
        for call in _calls(script.path, operation):
            named = {item.arg: item.value for item in call.keywords}
            named |= dict(zip(("table_name", "columns"), call.args, strict=False))
            values = {name: _value(value, script.module) for name, value in named.items()}
            if None in (values.get("table_name"), values.get("columns")):  # in a loop, for example
                columns = _texts(script.path)
                is_same = table in columns
            else:
                columns = values["columns"]
                is_same = (values["table_name"], values.get("schema")) == (table, schema)
            if is_same and column in columns:
                return True
    return False


def _calls(path: str, name: str) -> Iterator[ast.Call]:
    """Yield the calls of an operation in a file, but for those of its downgrade."""
    if not path.endswith(".py"):
        return
    for part in _parse(path).body:
        if isinstance(part, ast.FunctionDef) and part.name.startswith("downgrade"):
            continue
        for node in ast.walk(part):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
                yield node


def _parse(path: str) -> ast.Module:
    with tokenize.open(path) as file:
        return ast.parse(file.read())


def _texts(path: str) -> set[Any]:
    """Return the constants in a file."""
    return {node.value for node in ast.walk(_parse(path)) if isinstance(node, ast.Constant)}


def _value(node: ast.expr, module: ModuleType) -> Any:
    """Return what a literal or the name of a constant stands for, or None."""
    if isinstance(node, ast.Name):
        return getattr(module, node.id, None)
    if isinstance(node, ast.Dict):
        return [_value(key, module) for key in node.keys if key]
    return node.value if isinstance(node, ast.Constant) else None
