"""How many values of a column are in each state, counted in SQL by their start."""

import re
from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Text, case, cast, func, literal, literal_column, select

from sealchemy._databases.access import Access
from sealchemy._databases.base import Database
from sealchemy._databases.encryption_check import ANY_BOUND_VALUE, ANY_ENCRYPTED_VALUE
from sealchemy._databases.stored_text import StoredText
from sealchemy._values.codecs import TEXT
from sealchemy._values.envelope import HEADER_SIZE, PREFIX, ROW
from sealchemy._values.rows import SEPARATOR

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
        samples: one stored value under each key, by key id, with the parts of its row if it is bound to one; the key
            ids of these have `:row:` behind them.
        kind: what the plaintext is, as the models declare it: `text`, `json` or `bytes`.
        bound: encrypted values that are bound to their row.
        bind_to: the columns that the values are to be bound to.
    """

    table: str
    column: str
    context: str
    null: int = 0
    plaintext: int = 0
    keys: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    samples: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    kind: str = TEXT.name
    bound: int = 0
    bind_to: tuple[str, ...] = ()

    @property
    def unbound(self) -> int:
        """The encrypted values that are not bound to their row."""
        return sum(self.keys.values()) - self.bound

    def add(self, state: str, count: int, sample: str) -> None:
        """Count values of one state, as `_state` names it."""
        if found := re.fullmatch("([0-9a-f]{12})(:row:)?", state):
            self.keys[found[1]] += count
            self.bound += count if found[2] else 0
            self.samples[state] = sample
        elif state in {_NULL, _PLAINTEXT}:
            setattr(self, state, getattr(self, state) + count)
        else:
            self.unknown += count


ColumnStatus.__module__ = "sealchemy.status"


def count_states(access: Access) -> list[ColumnStatus]:
    """Count the values of the columns of an open table; the database reads every row once."""
    target = access.target
    states = [_state(access.database, item).label(f"s{index}") for index, item in enumerate(target.columns)]
    values = [_ciphertext(access, index).label(f"c{index}") for index in range(len(target.columns))]
    rows = select(*states, *values).select_from(target.table).subquery()
    groups = [rows.c[f"s{index}"] for index in range(len(states))]
    samples = [func.min(rows.c[f"c{index}"], type_=StoredText()) for index in range(len(states))]
    query = select(*groups, *samples, func.count()).group_by(*groups)
    found = [
        ColumnStatus(target.name, item.name, context, kind=kind.name, bind_to=bind_to)
        for item, context, kind, bind_to in zip(
            target.columns, target.contexts, target.kinds, target.bind_to, strict=True
        )
    ]
    with access.transaction(write=False):
        for *row, count in access.connection.execute(query):
            for index, status in enumerate(found):
                status.add(row[index], count, row[len(found) + index])
    return found


def _ciphertext(access: Access, index: int) -> ColumnElement[str]:
    """Return an encrypted value as text, with its row if the column has one, and NULL for any other."""
    stored = access.target.columns[index]
    text: ColumnElement[str] = cast(stored, Text)
    for part in access.target.bind_to[index]:
        text = text + literal_column(f"'{SEPARATOR}'", Text()) + access.target.parts[part]
    return case((access.database.matches(stored, ANY_ENCRYPTED_VALUE), text))


def _state(database: Database, stored: ColumnElement[str]) -> ColumnElement[str]:
    return case(
        (stored.is_(None), literal(_NULL)),
        (
            database.matches(stored, ANY_BOUND_VALUE),
            func.substr(cast(stored, Text), _KEY_ID_START, HEADER_SIZE - _KEY_ID_START + 1 + len(ROW)),
        ),
        (
            database.matches(stored, ANY_ENCRYPTED_VALUE),
            func.substr(cast(stored, Text), _KEY_ID_START, HEADER_SIZE - _KEY_ID_START),
        ),
        (database.matches(stored, f"{PREFIX}*"), literal(_UNKNOWN)),
        else_=literal(_PLAINTEXT),
    )
