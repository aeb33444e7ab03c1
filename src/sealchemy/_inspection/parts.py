"""Columns to which values are bound, and which take different texts for equal."""

from sqlalchemy import Text, false, func, literal, select, union
from sqlalchemy.sql.elements import TypeCoerce

from sealchemy._databases.access import Access

from . import findings
from .findings import Finding

_DIFFERENT = ("a", "A", "\u00e1")


def find_inexact_parts(access: Access) -> list[Finding]:
    """Return the text columns whose collation takes different texts for equal; in a transaction.

    `WHERE provider = 'Google'` would find the row of 'google', and what it then writes could not be read there.
    """
    return [
        findings.collation(name)
        for name, text in access.target.parts.items()
        if isinstance(text, TypeCoerce) and not _is_exact(access, name)  # others are numbers and UUIDs
    ]


def _is_exact(access: Access, name: str) -> bool:
    # The first SELECT of a UNION decides by which collation rows count as equal.
    first = select(access.target.parts[name].label("part")).select_from(access.target.table).where(false())
    texts = union(first, *(select(literal(text, Text(), literal_execute=True)) for text in _DIFFERENT)).subquery()
    return access.connection.scalar(select(func.count()).select_from(texts)) == len(_DIFFERENT)
