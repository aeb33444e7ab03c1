"""`alembic revision --autogenerate` and `alembic check` for encrypted columns.

A column counts as encrypted where the CHECK of `require_encryption` is: that the database can say of an empty table,
too. `plugin.py` registers what is here; it runs where `env.py` names the plugin.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from alembic.operations.ops import AlterColumnOp, DropConstraintOp, ModifyTableOps
from alembic.util import PriorityDispatchResult
from sqlalchemy.types import LargeBinary, NullType, String

from .backends import is_supported
from .checks import existing_checks
from .errors import ColumnDefinitionError
from .guard import encrypted_type
from .operations import (
    AllowPlaintextOp,
    ColumnsOp,
    DecryptColumnsOp,
    EncryptColumnsOp,
    RequireEncryptionOp,
    render_item,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import MigrateOperation, UpgradeOps
    from sqlalchemy import Column, Table

    from .checks import ExistingCheck

PLAINTEXT = "# what is stored is taken for plaintext: for values of another library, add legacy_reader="
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
        changes = _Changes(context, schema, name, stored, declared)
        modify.ops[:] = [item for item in modify.ops if not changes.replaces(item)]
        modify.ops.extend(changes.operations())
    return PriorityDispatchResult.CONTINUE


class _Changes:
    """What one table needs."""

    def __init__(
        self, context: AutogenContext, schema: str | None, name: str, stored: Table | None, declared: Table
    ) -> None:
        self.context, self.schema, self.name = context, schema, name
        self.stored = {} if stored is None else {item.name: item for item in stored.columns}
        self.declared = {item.name: item for item in declared.columns}
        self.has_key = bool(declared.primary_key.columns)
        types = {key: encrypted_type(item.type) for key, item in self.declared.items() if self._is_wanted(item)}
        self.contexts = {key: type_.context for key, type_ in types.items() if type_ is not None}
        self.plain = types.keys() - self.contexts.keys()
        self.checks = self._existing_checks()
        marked = {key for key, checks in self.checks.items() if any(check.is_validated for check in checks)}
        self.unmarked = {key: value for key, value in self.contexts.items() if key not in marked}
        self.superfluous = {key for key, checks in self.checks.items() if checks} - self.contexts.keys()

    def _is_wanted(self, item: Column[Any]) -> bool:
        """Ask the filters of the user, as Alembic does."""
        stored = self.stored.get(item.name)
        return self.context.run_object_filters(item, item.name, "column", False, stored)  # noqa: FBT003

    def _existing_checks(self) -> dict[str, list[ExistingCheck]]:
        names = [key for key, item in self.stored.items() if isinstance(item.type, String | NullType)]
        if not names or self.context.connection is None:
            return {}
        return existing_checks(self.context.connection, self.schema, self.name, names)

    def replaces(self, item: MigrateOperation) -> bool:
        """Return whether what Alembic found is ours to do; the width of text is changed by `encrypt_columns`."""
        if isinstance(item, DropConstraintOp):
            return item.constraint_name in {check.name for checks in self.checks.values() for check in checks}
        if isinstance(item, AlterColumnOp) and encrypted_type(item.modify_type):
            if item.column_name in self.unmarked or self.context.dialect.name == "sqlite":
                item.modify_type = None
            return not item.has_changes()
        return False

    def operations(self) -> Iterator[ColumnsOp]:
        """Yield what is to be added."""
        existing = {key: value for key, value in self.unmarked.items() if key in self.stored}
        if self.unmarked:
            self._refuse(existing)
        if new := {key: value for key, value in self.unmarked.items() if key not in existing}:
            require = RequireEncryptionOp(self.name, new, schema=self.schema)
            require.info["sealchemy_comment"] = LIVE
            yield require
        if existing:
            yield from self._pair(EncryptColumnsOp, RequireEncryptionOp, existing, PLAINTEXT, LIVE)
        if dropped := self._guess_contexts(key for key in self.superfluous if self._is_dropped(key)):
            yield AllowPlaintextOp(self.name, dropped, schema=self.schema)
        if plain := self._guess_contexts(self.superfluous & self.plain):
            yield from self._pair(DecryptColumnsOp, AllowPlaintextOp, plain, GUESSED, None)

    def _refuse(self, existing: Mapping[str, str]) -> None:
        """Raise what would end the revision in its middle."""
        problem = None
        if not self.has_key:
            problem = "it has no primary key, and without one a row cannot be named: add one first"
        elif binary := [key for key in existing if isinstance(self.stored[key].type, LargeBinary)]:
            problem = f"column {binary[0]} is of bytes: turn it into text first, as the guides for other libraries do"
        if problem:
            message = f"table {self.name!r} cannot be encrypted: {problem}"
            raise ColumnDefinitionError(message)

    def _is_dropped(self, name: str) -> bool:
        """Return whether Alembic drops the column, which some databases refuse while a CHECK names it."""
        parents = {"table_name": self.name, "schema_name": self.schema}
        return (
            name not in self.declared
            and self.context.run_name_filters(name, "column", parents)  # type: ignore[arg-type]
            and self.context.run_object_filters(self.stored[name], name, "column", True, None)  # noqa: FBT003
        )

    def _guess_contexts(self, columns: Iterable[str]) -> dict[str, str]:
        return {key: re.sub("[^A-Za-z0-9_.-]", "_", f"{self.name}.{key}")[:128] for key in sorted(columns)}

    def _pair(
        self, first: type[ColumnsOp], second: type[ColumnsOp], columns: dict[str, str], *comments: str | None
    ) -> tuple[ColumnsOp, ColumnsOp]:
        """Return two operations whose downgrade is in the same order: what may refuse comes first."""
        pair = first(self.name, columns, schema=self.schema), second(self.name, columns, schema=self.schema)
        pair[0].mirror, pair[1].mirror = pair[1].reverse(), pair[0].reverse()
        for operation, comment in zip(pair, comments, strict=True):
            operation.info["sealchemy_comment"] = comment
        return pair


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
