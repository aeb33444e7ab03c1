"""Which columns are too narrow for ciphertext, or not text."""

from sqlalchemy import case, func, not_, select

from sealchemy._databases.access import Access
from sealchemy._values.envelope import PREFIX

from . import findings
from .findings import Finding

_ROOMY = findings.ciphertext_size(2048)
"""The longest access token that Google documents has 2048 bytes; a column with less room is narrow in any case."""


def find_narrow(access: Access, *, measure: bool) -> list[Finding]:
    """Return the columns that are too narrow for ciphertext; in a transaction.

    That is shorter than the ciphertext of 2048 bytes, or, if `measure` is set, than that of the longest plaintext, for
    which the database reads the table once.
    """
    found = []
    for column in access.database.limited_columns(access.connection, access.target):
        longest = _longest_plaintext(access, column.name) if measure else 0
        if column.limit < max(_ROOMY, findings.ciphertext_size(longest) if longest else 0):
            found.append(findings.width(column.name, column.declared, longest))
    return found


def find_other_types(access: Access) -> list[Finding]:
    """Return the columns of JSON and of bytes that have to become text; in a transaction."""
    found = access.database.columns_to_convert(access.connection, access.target)
    return [findings.not_text(name, declared) for name, declared in found.items()]


def count_plaintext_bytes(access: Access) -> int:
    """Return the size of all plaintext values; in a transaction."""
    sizes = [
        func.sum(case((not_(access.database.matches(item, f"{PREFIX}*")), access.database.size(item)), else_=0))
        for item in access.target.columns
    ]
    row = access.connection.execute(select(*sizes).select_from(access.target.table)).one()
    return sum(int(size or 0) for size in row)


def _longest_plaintext(access: Access, name: str) -> int:
    item = access.target.table.c[name]
    query = select(func.max(access.database.size(item))).where(not_(access.database.matches(item, f"{PREFIX}*")))
    return access.connection.scalar(query) or 0
