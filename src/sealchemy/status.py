"""What is stored: how many values are plaintext, under which key, and whether this process can read them all."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Text, case, cast, func, literal, select

from . import envelope
from .backend import ANY_STORED_VALUE
from .backends import access
from .declared import declared_tables
from .engine import Rollout, binding
from .errors import (
    EnvelopeFormatError,
    PlaintextFoundError,
    SealchemyError,
    UnknownKeyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import ColumnElement, Connection, Engine, MetaData

    from .backend import Backend

_NULL, _PLAINTEXT, _UNKNOWN = "null", "plaintext", "unknown"
_KEY_ID_START = len(f"{envelope.PREFIX}v1:") + 1


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
        unknown: values that start with `sealchemy:` and are of no version that this library knows, or damaged.

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
    """Count the values of columns by their state, in SQL and by their start: no key is needed, nothing is decrypted.

    Every row is read once, by the database.

    Args:
        bind: an engine or a connection.
        table: the table's name.
        columns: the context of each column, by column name.
        schema: the table's schema, if it is not the default one.

    Raises:
        ColumnDefinitionError: the table or a column does not exist, or is not text.

    """
    with access(bind, table, columns, schema) as opened:
        target = opened.target
        states = [_state(opened.backend, item).label(f"s{index}") for index, item in enumerate(target.columns)]
        rows = select(*states).select_from(target.table).subquery()
        query = select(*rows.c, func.count()).group_by(*rows.c)
        found = [
            ColumnStatus(target.name, item.name, context)
            for item, context in zip(target.columns, target.contexts, strict=True)
        ]
        with opened.transaction(write=False):
            for *row, count in opened.connection.execute(query):
                for status, state in zip(found, row, strict=True):
                    status.add(state, count)
    return found


def _state(backend: Backend, stored: ColumnElement[str]) -> ColumnElement[str]:
    return case(
        (stored.is_(None), literal(_NULL)),
        (
            backend.matches(stored, ANY_STORED_VALUE),
            func.substr(cast(stored, Text), _KEY_ID_START, envelope.HEADER_SIZE - _KEY_ID_START),
        ),
        (backend.matches(stored, f"{envelope.PREFIX}*"), literal(_UNKNOWN)),
        else_=literal(_PLAINTEXT),
    )


def status(bind: Engine | Connection, metadata: MetaData) -> list[ColumnStatus]:
    """Return the status of every encrypted column that models declare; raises as `column_status` does."""
    tables = declared_tables(metadata)
    return [item for table in tables for item in column_status(bind, table.name, table.columns, schema=table.schema)]


def problems(bind: Engine | Connection, metadata: MetaData) -> Iterator[SealchemyError]:
    """Yield what this process could not read of the encrypted columns that models declare."""
    keys = binding(bind.dialect)
    key_ring = keys.require_ring("every encrypted column")
    known = {key.id for key in (key_ring.primary, *key_ring.previous)}
    for item in status(bind, metadata):
        name = f"{item.table}.{item.column}"
        if item.plaintext and keys.stage(item.context) is Rollout.STRICT:
            message = f"{name}: {item.plaintext} values are plaintext, and its rollout stage is strict: encrypt them"
            yield PlaintextFoundError(message)
        for key_id in item.keys.keys() - known:
            message = (
                f"{name}: {item.keys[key_id]} values are under key {key_id}, which is not in the key ring"
                f" ({', '.join(sorted(known))}): add it to the previous keys"
            )
            yield UnknownKeyError(message, key_id=key_id)
        if item.unknown:
            message = (
                f"{name}: {item.unknown} values start with {envelope.PREFIX!r} and are damaged, or of a later version:"
                " `sealchemy verify` names them"
            )
            yield EnvelopeFormatError(message)


def check_encryption(bind: Engine | Connection, metadata: MetaData) -> None:
    """Raise if this process could not read everything that is stored; for the start of an application.

    It counts values by their start, which makes the database read every row once, and decrypts nothing.

    Args:
        bind: an engine with a key ring, or a connection of one.
        metadata: of the models, such as `Base.metadata`.

    Raises:
        KeyRingNotAttachedError: there is no key ring.
        UnknownKeyError: values are under a key that it does not hold.
        PlaintextFoundError: there is plaintext in a column whose rollout stage is strict.
        EnvelopeFormatError: values are damaged, or of a later version.
        ColumnDefinitionError: a table or a column does not exist.

    """
    for problem in problems(bind, metadata):
        raise problem
