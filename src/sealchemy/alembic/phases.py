"""Which step of a rollout is due for a column: to widen it, to encrypt or bind its values, or to require that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Text, and_, column, literal, not_, select, table

from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.rollout import Rollout
from sealchemy._databases.access import database_of, open_table
from sealchemy._databases.encryption_check import ANY_BOUND_VALUE, ANY_ENCRYPTED_VALUE
from sealchemy._databases.refused import explained
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting.constraint import ExistingConstraint
from sealchemy._values.codecs import Plaintext

from .history import is_in_a_revision
from .operations import BindColumnsOp, ColumnsOp, EncryptColumnsOp, RequireEncryptionOp, WidenColumnsOp

if TYPE_CHECKING:  # Alembic loads this module while it is itself being imported
    from alembic.autogenerate.api import AutogenContext


STEPS: tuple[type[ColumnsOp], ...] = (WidenColumnsOp, EncryptColumnsOp, BindColumnsOp, RequireEncryptionOp)
"""The steps in their order."""


def stage_of(context: AutogenContext, name: str) -> Rollout:
    """Return the rollout stage that `env.py` attached, which says how far the rollout of a context is."""
    return engine_keys(context.dialect).stage(name)


@dataclass(frozen=True)
class EncryptedTable:
    """A table in the database with columns that are encrypted in the models.

    Attributes:
        context: of autogenerate.
        schema: its schema.
        name: its name.
        columns: the contexts of these columns, by name.
        kinds: what their plaintext is.
        bound: those whose values are to be bound to their row.
        checks: the CHECKs of ours that they have.
    """

    context: AutogenContext
    schema: str | None
    name: str
    columns: Mapping[str, str]
    kinds: Mapping[str, Plaintext]
    bound: Collection[str]
    checks: Mapping[str, Collection[ExistingConstraint]]

    def due(self) -> dict[type[ColumnsOp], dict[str, str]]:
        """Return the columns for which the earliest of the steps is due, if one is."""
        due: dict[type[ColumnsOp], dict[str, str]] = {}
        with explained(database_of(self.context.dialect), self.name):  # a role may not be allowed to read the table
            narrow = self._narrow_columns()
            for name, context in self.columns.items():
                if step := self._due(name, is_narrow=name in narrow):
                    due.setdefault(step, {})[name] = context
        return next(({step: due[step]} for step in STEPS if step in due), {})

    def _due(self, name: str, *, is_narrow: bool) -> type[ColumnsOp] | None:
        """Return what is due; None if the column is done, or its rollout waits for the next stage."""
        stage, is_bound = stage_of(self.context, self.columns[name]), name in self.bound
        checks = [item for item in self.checks.get(name, ()) if item.is_validated]
        if any(item.is_bound or not is_bound for item in checks):
            return None
        if is_narrow:
            return WidenColumnsOp
        if stage is Rollout.PREPARE:
            return None
        if not checks and self._may_hold_plaintext(name):
            return EncryptColumnsOp
        if is_bound and stage is not Rollout.BIND_PREPARE and self._may_hold_unbound(name, was_required=bool(checks)):
            return BindColumnsOp
        return RequireEncryptionOp if stage is Rollout.STRICT else None

    def _narrow_columns(self) -> set[str]:
        """Return the columns that `widen_columns` would change."""
        if not self.columns or self.context.connection is None:
            return set()
        kinds = {key: self.kinds[key].name for key in self.columns}
        wanted = TableColumns(self.name, self.columns, self.schema, kinds)
        with open_table(self.context.connection, wanted, any_key=True) as access, access.transaction(write=False):
            return set(access.database.widening(access.connection, access.target))

    def _may_hold_plaintext(self, name: str) -> bool:
        """Return whether there is plaintext, here or in a database that has the rows which this one lacks."""
        is_plaintext = not_(self._matches(name, ANY_ENCRYPTED_VALUE))
        return self._has(is_plaintext) or self._is_untouched(name, EncryptColumnsOp)

    def _may_hold_unbound(self, name: str, *, was_required: bool) -> bool:
        is_unbound = and_(self._matches(name, ANY_ENCRYPTED_VALUE), not_(self._matches(name, ANY_BOUND_VALUE)))
        return self._has(is_unbound) or (was_required and self._is_untouched(name, BindColumnsOp))

    def _is_untouched(self, name: str, operation: type[ColumnsOp]) -> bool:
        """Return whether a column is empty, and no revision has this operation for it."""
        if self._has(column(name).is_not(None)):
            return False
        return not is_in_a_revision(self.context, operation.name, self.schema, self.name, name)

    def _matches(self, name: str, pattern: str) -> ColumnElement[bool]:
        return database_of(self.context.dialect).matches(column(name, Text()), pattern)

    def _has(self, condition: ColumnElement[bool]) -> bool:
        connection = self.context.connection
        if connection is None:
            return False
        found = select(literal(1)).select_from(table(self.name, schema=self.schema)).where(condition).limit(1)
        return connection.scalar(found) is not None
