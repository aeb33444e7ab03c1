"""`alembic revision --autogenerate` and `alembic check` for encrypted columns.

A column counts as encrypted where the CHECK of `require_encryption` is: that the database can say of an empty table,
too. `plugin.py` registers what is here; it runs where `env.py` names the plugin.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from alembic.operations.ops import DropConstraintOp, ModifyTableOps
from alembic.util import PriorityDispatchResult
from sqlalchemy.types import String

from .backends import is_supported
from .checks import constraint_name, existing_checks
from .guard import EncryptedType
from .operations import (
    AllowPlaintextOp,
    ColumnsOp,
    DecryptColumnsOp,
    EncryptColumnsOp,
    RequireEncryptionOp,
    render_item,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import AlterColumnOp, UpgradeOps
    from sqlalchemy import Column, Table

GUESSED = "# the database does not know the contexts: put those of the models here, others decrypt nothing"
LIVE = "# with a live application: in a later revision, once every process is at rollout stage strict"


def render_types(context: AutogenContext, _upgrade: UpgradeOps) -> PriorityDispatchResult:
    """Have our types rendered as SQLAlchemy's, after whatever renders items for the user."""
    of_user = context.opts.get("render_item")

    def render(kind: str, item: Any, context: AutogenContext) -> Any:
        rendered = of_user(kind, item, context) if of_user else False
        return render_item(kind, item, context) if rendered is False else rendered

    context.opts["render_item"] = render
    return PriorityDispatchResult.CONTINUE


def keep_type(
    _context: AutogenContext,
    _alter: AlterColumnOp,
    _schema: str | None,
    _table: str,
    _name: str,
    stored: Column[Any],
    declared: Column[Any],
) -> PriorityDispatchResult:
    """Leave the width of text to `encrypt_columns`, which changes it where it matters."""
    is_done = isinstance(declared.type, EncryptedType) and isinstance(stored.type, String)
    return PriorityDispatchResult.STOP if is_done else PriorityDispatchResult.CONTINUE


def compare_table(
    context: AutogenContext,
    modify: ModifyTableOps,
    schema: str | None,
    name: str,
    stored: Table | None,
    declared: Table | None,
) -> PriorityDispatchResult:
    """Add what makes the database agree with the models; what a table loses as a whole needs nothing."""
    if declared is not None and is_supported(context.dialect):
        marked = _marked(context, schema, name, stored)
        marks = {constraint_name(name, column) for column in marked}
        modify.ops[:] = [
            item for item in modify.ops if not (isinstance(item, DropConstraintOp) and item.constraint_name in marks)
        ]
        modify.ops.extend(_operations(context, schema, name, stored, declared, marked))
    return PriorityDispatchResult.CONTINUE


def _operations(
    context: AutogenContext, schema: str | None, name: str, stored: Table | None, declared: Table, marked: set[str]
) -> Iterator[ColumnsOp]:
    columns = {
        item.name: item
        for item in declared.columns
        if context.run_object_filters(item, item.name, "column", False, _find(stored, item.name))  # noqa: FBT003
    }
    contexts = {key: item.type.context for key, item in columns.items() if isinstance(item.type, EncryptedType)}
    unmarked = {key: value for key, value in contexts.items() if key not in marked}
    existing = {key: value for key, value in unmarked.items() if _find(stored, key) is not None}
    if new := {key: value for key, value in unmarked.items() if key not in existing}:
        yield RequireEncryptionOp(name, new, schema=schema)
    if existing:
        yield from _pair(EncryptColumnsOp, RequireEncryptionOp, LIVE, name, existing, schema)
    superfluous = {key: _guess_context(name, key) for key in sorted(marked - contexts.keys())}
    dropped = {key: value for key, value in superfluous.items() if _is_dropped(context, schema, stored, declared, key)}
    if dropped:
        yield AllowPlaintextOp(name, dropped, schema=schema)
    if to_decrypt := {key: value for key, value in superfluous.items() if key in columns}:
        decrypt, allow = _pair(DecryptColumnsOp, AllowPlaintextOp, None, name, to_decrypt, schema)
        decrypt.info["sealchemy_comment"] = GUESSED
        yield from (decrypt, allow)


def _guess_context(table: str, column: str) -> str:
    return re.sub("[^A-Za-z0-9_.-]", "_", f"{table}.{column}")[:128]


def _is_dropped(context: AutogenContext, schema: str | None, stored: Table | None, declared: Table, name: str) -> bool:
    """Return whether Alembic writes that a column is dropped, which some databases refuse while a CHECK names it."""
    found = _find(stored, name)
    return (
        found is not None
        and _find(declared, name) is None
        and context.run_name_filters(name, "column", {"table_name": declared.name, "schema_name": schema})
        and context.run_object_filters(found, name, "column", True, None)  # noqa: FBT003
    )


def _pair(
    first: type[ColumnsOp],
    second: type[ColumnsOp],
    comment: str | None,
    name: str,
    columns: dict[str, str],
    schema: str | None,
) -> tuple[ColumnsOp, ColumnsOp]:
    """Return two operations whose downgrade is in the same order: what may refuse comes first."""
    rewriting, check = first(name, columns, schema=schema), second(name, columns, schema=schema)
    rewriting.mirror, check.mirror = check.reverse(), rewriting.reverse()
    check.info["sealchemy_comment"] = comment
    return rewriting, check


def _marked(context: AutogenContext, schema: str | None, name: str, stored: Table | None) -> set[str]:
    """Return the columns of which the database refuses plaintext."""
    if stored is None or context.connection is None:
        return set()
    names = [item.name for item in stored.columns]
    found = existing_checks(context.connection, schema, name, names)
    return {column for column in names if found.get(constraint_name(name, column)) == "valid"}


def _find(table: Table | None, name: str) -> Column[Any] | None:
    """Return the column of this name in the database, which may not be its key."""
    return next((item for item in table.columns if item.name == name), None) if table is not None else None


def put_in_order(_context: AutogenContext, upgrade: UpgradeOps) -> PriorityDispatchResult:
    """Move our operations out of the changes of a table, which may be rendered as a batch.

    Decrypting comes before all of them and encrypting after all of them: the columns are widest in between.
    """
    ours: list[ColumnsOp] = []
    for modify in [item for item in upgrade.ops if isinstance(item, ModifyTableOps)]:
        ours += [item for item in modify.ops if isinstance(item, ColumnsOp)]
        modify.ops[:] = [item for item in modify.ops if not isinstance(item, ColumnsOp)]
    others = [item for item in upgrade.ops if not (isinstance(item, ModifyTableOps) and item.is_empty())]
    first = [item for item in ours if isinstance(item, AllowPlaintextOp | DecryptColumnsOp)]
    last = [item for item in ours if isinstance(item, EncryptColumnsOp | RequireEncryptionOp)]
    upgrade.ops[:] = [*first, *others, *last]
    return PriorityDispatchResult.CONTINUE
