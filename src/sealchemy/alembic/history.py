"""What the revisions of a project already do to a column, as far as their source shows it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Alembic loads this module while it is itself being imported
    from alembic.autogenerate.api import AutogenContext


def is_in_a_revision(context: AutogenContext, operation: str, table: str, column: str) -> bool:
    """Return whether a revision calls an operation, such as `encrypt_columns`, for a column."""
    environment = context.migration_context and context.migration_context.environment_context
    if not environment:
        return False
    for script in environment.script.walk_revisions():
        source = Path(script.path).read_text("utf-8") if script.path.endswith(".py") else ""
        if operation not in source:
            continue
        for call in _calls(source, operation):
            table_name, columns, *_ = [*(_value(item, script.module) for item in call.args), None, None]
            if table_name == table and columns is not None and column in columns:
                return True
    return False


def _calls(source: str, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
            yield node


def _value(node: ast.expr, module: ModuleType) -> Any:
    """Return what a literal or the name of a constant stands for, or None."""
    if isinstance(node, ast.Name):
        return getattr(module, node.id, None)
    if isinstance(node, ast.Dict):
        return [_value(key, module) for key in node.keys if key]
    return node.value if isinstance(node, ast.Constant) else None
