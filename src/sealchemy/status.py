"""How many values of a column are plaintext, how many are under which key, and whether this process can read them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, Engine, MetaData, Text, case, cast, func, literal, select

from sealchemy._column.engine_keys import Rollout, engine_keys
from sealchemy._databases.access import open_table
from sealchemy._databases.base import ANY_ENCRYPTED_VALUE, Database
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting.declared import declared_tables
from sealchemy._values.envelope import HEADER_SIZE, PREFIX
from sealchemy.errors import EnvelopeFormatError, PlaintextFoundError, SealchemyError, UnknownKeyError

__all__ = ["ColumnStatus", "check_encryption", "column_status", "declared_status", "find_problems"]

_NULL, _PLAINTEXT, _UNKNOWN = "null", "plaintext", "unknown"
_KEY_ID_START = len(f"{PREFIX}v1:") + 1


@dataclass
class ColumnStatus:
    """How many values of a column are in each state.

    Attributes:
        table: the table's name, with its schema.
        column: the column's name.
        context: its context.
        null: values that are NULL.
        plaintext: values that do not start with `sealchemy:`.
        keys: values under each key, by key id.
        unknown: values that start with `sealchemy:` and are damaged, or of a version that this release does not know.
    """

    table: str
    column: str
    context: str
    null: int = 0
    plaintext: int = 0
    keys: Counter[str] = field(default_factory=Counter)
    unknown: int = 0

    def add(self, state: str, count: int) -> None:
        """Count values of one state, as `_state` names it."""
        if re.fullmatch("[0-9a-f]{12}", state):
            self.keys[state] += count
        elif state in {_NULL, _PLAINTEXT}:
            setattr(self, state, getattr(self, state) + count)
        else:
            self.unknown += count


def column_status(
    bind: Engine | Connection, table: str, columns: Mapping[str, str], *, schema: str | None = None
) -> list[ColumnStatus]:
    """Count the values of columns by state, in SQL and by their start: needs no key, and decrypts nothing.

    The database reads every row once.

    Args:
        bind: an engine or a connection.
        table: the table's name.
        columns: the context of each column, by column name.
        schema: the table's schema, if it is not the default one.

    Raises:
        ColumnDefinitionError: the table or a column does not exist, or is not text.
    """
    return _count(bind, TableColumns(table, columns, schema))


def declared_status(bind: Engine | Connection, metadata: MetaData) -> list[ColumnStatus]:
    """Return the status of every encrypted column that models declare; raises as `column_status` does."""
    return [status for table in declared_tables(metadata) for status in _count(bind, table)]


def find_problems(bind: Engine | Connection, metadata: MetaData) -> Iterator[SealchemyError]:
    """Yield what would keep this process from reading the encrypted columns that models declare."""
    keys = engine_keys(bind.dialect)
    key_ring = keys.require_ring("every encrypted column")
    known = {key.id for key in (key_ring.primary, *key_ring.previous)}
    for status in declared_status(bind, metadata):
        name = f"{status.table}.{status.column}"
        if status.plaintext and keys.stage(status.context) is Rollout.STRICT:
            yield PlaintextFoundError(
                f"{name}: {status.plaintext} values are plaintext, and its rollout stage is strict; encrypt them"
            )
        for key_id in status.keys.keys() - known:
            yield UnknownKeyError(
                f"{name}: {status.keys[key_id]} values are under key {key_id}, which is not in the key ring"
                f" ({', '.join(sorted(known))}); add it to the previous keys",
                key_id=key_id,
            )
        if status.unknown:
            yield EnvelopeFormatError(
                f"{name}: {status.unknown} values start with {PREFIX!r} and are damaged, or of a later version;"
                " `sealchemy verify` names them"
            )


def check_encryption(bind: Engine | Connection, metadata: MetaData) -> None:
    """Raise if this process could not read every value; for the start of an application.

    It counts values by their start, for which the database reads every row once, and decrypts nothing.

    Args:
        bind: an engine with a key ring, or a connection of one.
        metadata: of the models, such as `Base.metadata`.

    Raises:
        KeyRingNotAttachedError: there is no key ring.
        UnknownKeyError: values are under a key that is not in the ring.
        PlaintextFoundError: there is plaintext in a column whose rollout stage is strict.
        EnvelopeFormatError: values are damaged, or of a later version.
        ColumnDefinitionError: a table or a column does not exist.
    """
    for problem in find_problems(bind, metadata):
        raise problem


def _count(bind: Engine | Connection, wanted: TableColumns) -> list[ColumnStatus]:
    with open_table(bind, wanted) as access:
        target = access.target
        states = [_state(access.database, item).label(f"s{index}") for index, item in enumerate(target.columns)]
        rows = select(*states).select_from(target.table).subquery()
        query = select(*rows.c, func.count()).group_by(*rows.c)
        found = [
            ColumnStatus(target.name, item.name, context)
            for item, context in zip(target.columns, target.contexts, strict=True)
        ]
        with access.transaction(write=False):
            for *row, count in access.connection.execute(query):
                for status, state in zip(found, row, strict=True):
                    status.add(state, count)
    return found


def _state(database: Database, stored: ColumnElement[str]) -> ColumnElement[str]:
    return case(
        (stored.is_(None), literal(_NULL)),
        (
            database.matches(stored, ANY_ENCRYPTED_VALUE),
            func.substr(cast(stored, Text), _KEY_ID_START, HEADER_SIZE - _KEY_ID_START),
        ),
        (database.matches(stored, f"{PREFIX}*"), literal(_UNKNOWN)),
        else_=literal(_PLAINTEXT),
    )
