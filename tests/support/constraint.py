"""The CHECK on encrypted columns, applied as a revision applies it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from sealchemy._databases.access import Access, open_table
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting import constraint
from sealchemy._rewriting.stages import require_strict


@contextmanager
def _opened(bind: Engine | Connection, table: str, columns: Mapping[str, str] | Iterable[str]) -> Iterator[Access]:
    contexts = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "any")
    with open_table(bind, TableColumns(table, contexts)) as access:
        yield access


def require_encryption(bind: Engine | Connection, table: str, columns: Mapping[str, str]) -> None:
    require_strict(bind, columns)
    with _opened(bind, table, columns) as access:
        constraint.require_encryption(access)


def allow_plaintext(bind: Engine | Connection, table: str, columns: Iterable[str]) -> None:
    with _opened(bind, table, columns) as access:
        constraint.allow_plaintext(access)


def is_required(bind: Engine | Connection, table: str, columns: Iterable[str]) -> bool:
    with _opened(bind, table, columns) as access:
        return constraint.is_required(access)


def widen(bind: Engine | Connection, table: str, columns: Mapping[str, str]) -> None:
    with _opened(bind, table, columns) as access:
        constraint.widen(access)
