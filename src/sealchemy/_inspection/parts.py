"""Columns to which values are bound, and which do not name a row exactly."""

from sqlalchemy import ColumnElement, Text, false, func, literal, or_, select, type_coerce, union

from sealchemy._databases.access import Access
from sealchemy._values.rows import SEPARATOR

from . import findings
from .findings import Finding

_DIFFERENT = ("a", "A", "\u00e1")


def find_inexact_parts(access: Access) -> list[Finding]:
    """Return what keeps rows from being named by the columns to which values are bound; in a transaction.

    Where a collation treats texts as equal, `WHERE provider = 'Google'` finds the row of 'google', and what it then
    writes cannot be read there.
    """
    found = []
    for name, text in access.target.parts.items():
        is_text = isinstance(text.type, Text)  # others are numbers and UUIDs
        if is_text and not _is_exact(access, name):
            found.append(findings.collation(name))
        if _has_nameless_rows(access, name, is_text=is_text):
            found.append(findings.part(name))
    return found


def _has_nameless_rows(access: Access, name: str, *, is_text: bool) -> bool:
    column = access.target.table.c[name]
    is_nameless: ColumnElement[bool] = column.is_(None)
    if is_text:
        is_nameless = or_(is_nameless, access.database.matches(access.target.parts[name], f"*{SEPARATOR}*"))
    query = select(literal(1)).select_from(access.target.table).where(is_nameless).limit(1)
    return access.connection.scalar(query) is not None


def _is_exact(access: Access, name: str) -> bool:
    # The first SELECT of a UNION decides by which collation rows count as equal.
    part = type_coerce(access.target.table.c[name], Text())
    first = select(part.label("part")).select_from(access.target.table).where(false())
    texts = union(first, *(select(literal(text, Text(), literal_execute=True)) for text in _DIFFERENT)).subquery()
    return access.connection.scalar(select(func.count()).select_from(texts)) == len(_DIFFERENT)
