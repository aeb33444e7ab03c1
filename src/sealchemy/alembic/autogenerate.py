"""`alembic revision --autogenerate` and `alembic check` for encrypted columns.

A column counts as encrypted if it has the CHECK of `require_encryption`: the database knows that even of an empty
table. `plugin.py` registers the functions here; they run where `env.py` names the plugin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import (
    AlterColumnOp,
    DropConstraintOp,
    ExecuteSQLOp,
    MigrateOperation,
    ModifyTableOps,
    UpgradeOps,
)
from alembic.util import PriorityDispatchResult
from sqlalchemy import Column, Table

from sealchemy._column.encrypted_type import encrypted_type
from sealchemy._column.rollout import Rollout
from sealchemy._databases.access import database_of, is_supported
from sealchemy._rewriting.constraint import ExistingConstraint, existing_constraints
from sealchemy._rewriting.declared import part_names
from sealchemy._values.codecs import BYTES, TEXT, Plaintext
from sealchemy.errors import ColumnDefinitionError

from .command_errors import command_errors
from .new_columns import fill_indexes, let_column_be_null
from .operations import (
    AllowPlaintextOp,
    AllowUnboundOp,
    BindColumnsOp,
    ColumnsOp,
    DecryptColumnsOp,
    EncryptColumnsOp,
    RequireEncryptionOp,
    WidenColumnsOp,
)
from .phases import EncryptedTable, stage_of

PLAINTEXT = "# the values are taken for plaintext; if another library encrypted them, add legacy_reader="
GUESSED = "# the database does not know the contexts: replace these by those of the models, or nothing decrypts"
WIDE = "# with a live application: before any process is at rollout stage migrate"
STOPPED = "# becomes text: stop every release that declares it as JSON or bytes first, or use a second column"
BINDS = "# with a live application: only once every process is at rollout stage bind_migrate"
LIVE = "# with a live application: once every process is at rollout stage strict"


def compare_table(
    context: AutogenContext,
    modify: ModifyTableOps,
    schema: str | None,
    name: str,
    stored: Table | None,
    declared: Table | None,
) -> PriorityDispatchResult:
    """Add the operations that make the database agree with the models; a dropped table needs none."""
    if declared is not None and is_supported(context.dialect):
        with command_errors():
            changes = _Changes(context, schema, name, stored, declared)
            modify.ops[:] = [item for item in modify.ops if not changes.replaces(item)]
            modify.ops.extend(changes.operations())
    return PriorityDispatchResult.CONTINUE


class _Changes:
    """The operations that one table needs."""

    def __init__(
        self, context: AutogenContext, schema: str | None, name: str, stored: Table | None, declared: Table
    ) -> None:
        self.context, self.schema, self.name = context, schema, name
        self.database = database_of(context.dialect)
        self.stored = {} if stored is None else {item.name: item for item in stored.columns}
        self.declared = {item.name: item for item in declared.columns}
        self.has_key = bool(declared.primary_key.columns)
        types = {key: encrypted_type(item.type) for key, item in self.declared.items() if self._is_wanted(item)}
        self.contexts = {key: type_.context for key, type_ in types.items() if type_ is not None}
        self.kinds = {key: type_.kind for key, type_ in types.items() if type_ is not None}
        self.bind_to = {
            key: part_names(declared.columns, key, type_) for key, type_ in types.items() if type_ and type_.bind_to
        }
        self.plain = types.keys() - self.contexts.keys()
        self.constraints = self._existing_constraints()
        marked = {key for key, found in self.constraints.items() if any(item.is_validated for item in found)}
        self.unmarked = {key: value for key, value in self.contexts.items() if key not in marked}
        self.superfluous = {key for key, found in self.constraints.items() if found} - self.contexts.keys()

    def _is_wanted(self, item: Column[Any]) -> bool:
        """Ask the user's filters, as Alembic does."""
        stored = self.stored.get(item.name)
        return self.context.run_object_filters(item, item.name, "column", False, stored)  # noqa: FBT003

    def _existing_constraints(self) -> dict[str, list[ExistingConstraint]]:
        names = [key for key, item in self.stored.items() if self.database.kind_of(item.type)]
        if not names or self.context.connection is None:
            return {}
        return existing_constraints(self.context.connection, self.schema, self.name, names)

    def replaces(self, item: MigrateOperation) -> bool:
        """Return whether our operations take the place of Alembic's; `encrypt_columns` changes the width of text."""
        if isinstance(item, DropConstraintOp):
            return item.constraint_name in {
                constraint.name for found in self.constraints.values() for constraint in found
            }
        let_column_be_null(item)
        if isinstance(item, AlterColumnOp) and encrypted_type(item.modify_type):
            is_wide = self.database.is_wide(self.stored[item.column_name].type)
            if item.column_name in self.unmarked or is_wide or not self.database.can_alter_types:
                item.modify_type = None
            return not item.has_changes()
        return False

    def operations(self) -> Iterator[ColumnsOp]:
        """Yield the operations that are due."""
        if self.unmarked:
            self._refuse({key: value for key, value in self.unmarked.items() if key in self.stored})
        new = {key: value for key, value in self.contexts.items() if key not in self.stored}
        yield from self._require({key: value for key, value in new.items() if self._is_strict(value)})
        due = self._existing().due()
        if WidenColumnsOp in due:
            yield from self._widen(due[WidenColumnsOp])
        if self.stored:
            added = [item for key, item in self.declared.items() if key not in self.stored and self._is_wanted(item)]
            yield from fill_indexes(self.name, self.schema, added, self.stored, self.bind_to)
        for type_, comment in ((EncryptColumnsOp, PLAINTEXT), (BindColumnsOp, BINDS)):
            for columns in self._by_binding(due.get(type_, {})):
                yield self._rewrite(type_, columns, comment)
        yield from self._require(due.get(RequireEncryptionOp, {}))
        if dropped := self._guess_contexts(key for key in self.superfluous if self._is_dropped(key)):
            yield AllowPlaintextOp(self.name, dropped, schema=self.schema)
        if plain := self._guess_contexts(self.superfluous & self.plain):
            yield from self._decrypt(plain)

    def _existing(self) -> EncryptedTable:
        columns = {key: value for key, value in self.contexts.items() if key in self.stored}
        return EncryptedTable(
            self.context, self.schema, self.name, columns, self.kinds, self.bind_to.keys(), self.constraints
        )

    def _is_strict(self, context: str) -> bool:
        return stage_of(self.context, context) is Rollout.STRICT

    def _by_binding(self, columns: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """Yield the columns without `bind_to`, and those with it: one CHECK does not fit both."""
        for is_bound in (False, True):
            if some := {key: value for key, value in columns.items() if (key in self.bind_to) is is_bound}:
                yield some

    def _widen(self, names: Iterable[str]) -> Iterator[WidenColumnsOp]:
        texts, others = list[str](), list[str]()
        for name in names:
            (texts if self._kind_in_database(name) is TEXT else others).append(name)
        for some in filter(None, (texts, *([name] for name in others))):
            widen = WidenColumnsOp(self.name, some, schema=self.schema)
            widen.info["sealchemy_comment"] = WIDE if some is texts else STOPPED
            widen.mirror = None if some is texts else self._turn_back(some[0])
            yield widen

    def _turn_back(self, name: str) -> MigrateOperation | None:
        """Return the operation that turns decrypted text into JSON or bytes again, where there is one statement."""
        table, type_ = self.stored[name].table, self.stored[name].type
        sql = self.database.from_text(self.context.dialect, table, name, type_)
        return ExecuteSQLOp(sql) if sql else None

    def _refuse(self, existing: Mapping[str, str]) -> None:
        """Raise an error that would otherwise end the revision halfway."""
        problem = None
        if not self.has_key:
            problem = "it has no primary key, and without one a row cannot be named; add one first"
        elif other := [key for key in existing if self._kind_in_database(key) not in {TEXT, self.kinds[key]}]:
            key = other[0]
            holds = "bytes" if self._kind_in_database(key) is BYTES else f"{self.stored[key].type}"
            problem = (
                f"column {key} holds {holds}, not {self.kinds[key].name}; declare it as EncryptedJSON or EncryptedBytes"
                " if that is what it holds, or turn it into text first"
            )
        if problem:
            raise ColumnDefinitionError(f"table {self.name!r} cannot be encrypted: {problem}")

    def _kind_in_database(self, name: str) -> Plaintext | None:
        return self.database.kind_of(self.stored[name].type)

    def _is_dropped(self, name: str) -> bool:
        """Return whether Alembic drops the column; some databases refuse that while a CHECK names it."""
        parents = {"table_name": self.name, "schema_name": self.schema}
        return (
            name not in self.declared
            and self.context.run_name_filters(name, "column", parents)  # type: ignore[arg-type]
            and self.context.run_object_filters(self.stored[name], name, "column", True, None)  # noqa: FBT003
        )

    def _guess_contexts(self, columns: Iterable[str]) -> dict[str, str]:
        return {key: re.sub("[^A-Za-z0-9_.-]", "_", f"{self.name}.{key}")[:128] for key in sorted(columns)}

    def _kind(self, name: str) -> Plaintext:
        """Return the kind of plaintext that a declared column has, also if it is not encrypted any more."""
        return self.kinds.get(name) or self.database.kind_of(self.declared[name].type) or TEXT

    def _rewrite(self, type_: type[ColumnsOp], columns: Mapping[str, str], comment: str | None) -> ColumnsOp:
        kinds = {key: kind.name for key in columns if (kind := self._kind(key)) is not TEXT}
        bind_to = {key: parts for key, parts in self.bind_to.items() if key in columns}
        operation = type_(self.name, columns, schema=self.schema, kinds=kinds, bind_to=bind_to)
        operation.info["sealchemy_comment"] = comment
        return operation

    def _require(self, columns: Mapping[str, str]) -> Iterator[RequireEncryptionOp]:
        """Yield operations whose downgrade leaves the CHECK that the columns have now."""
        for some in self._by_binding(columns):
            for has_check in (False, True):
                part = {key: value for key, value in some.items() if bool(self.constraints.get(key)) is has_check}
                if part:
                    is_bound = any(key in self.bind_to for key in part)
                    require = RequireEncryptionOp(self.name, part, schema=self.schema, bound=is_bound)
                    require.info["sealchemy_comment"] = LIVE
                    if has_check and is_bound:
                        require.mirror = AllowUnboundOp(self.name, part, schema=self.schema, bound=True)
                    yield require

    def _decrypt(self, columns: Mapping[str, str]) -> tuple[ColumnsOp, ColumnsOp]:
        """Return two operations whose downgrade is in the same order."""
        first = self._rewrite(DecryptColumnsOp, columns, GUESSED)
        second = AllowPlaintextOp(self.name, columns, schema=self.schema)
        first.mirror, second.mirror = second.reverse(), first.reverse()
        return first, second


def put_in_order(_context: AutogenContext, upgrade: UpgradeOps) -> PriorityDispatchResult:
    """Move our operations out of the changes of a table, which may be rendered as a batch.

    Widening and decrypting come first and encrypting comes last: the columns are widest in between.
    """
    ours: list[ColumnsOp] = []
    for modify in [item for item in upgrade.ops if isinstance(item, ModifyTableOps)]:
        ours += [item for item in modify.ops if isinstance(item, ColumnsOp)]
        modify.ops[:] = [item for item in modify.ops if not isinstance(item, ColumnsOp)]
    others = [item for item in upgrade.ops if not (isinstance(item, ModifyTableOps) and item.is_empty())]
    first = [item for item in ours if isinstance(item, WidenColumnsOp | AllowPlaintextOp | DecryptColumnsOp)]
    last = [item for item in ours if item not in first]
    for operation in ours if others else ():
        operation.info["sealchemy_is_mixed"] = True
    upgrade.ops[:] = [*first, *others, *last]
    return PriorityDispatchResult.CONTINUE
