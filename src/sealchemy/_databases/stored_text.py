"""`StoredText`: the type with which a rewrite reads and writes a column."""

from functools import partial
from typing import Any

from sqlalchemy import Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from sealchemy._values.codecs import BYTES, KINDS, TEXT, Plaintext
from sealchemy._values.envelope import PREFIX
from sealchemy._values.secret import SecretString, StoredPlaintext, hide


class StoredText(TypeDecorator[str]):
    """Text that may still be plaintext, so that neither debug echo nor an error tracker shows it.

    SQLite may return bytes or a number: these become the text that represents them. If the column's type is binary,
    plaintext is written as bytes.
    """

    impl = Text
    cache_ok = True

    def __init__(self, kind: str = TEXT.name, type_: str = TEXT.name) -> None:
        """Name the kind of the plaintext, and the kind that the column's type holds."""
        super().__init__()
        self.kind, self.type_ = kind, type_

    @override
    def bind_processor(self, dialect: Dialect) -> Any:
        """Return the function that writes plaintext as the column has it."""
        return _write_bytes if self.type_ == BYTES.name else None

    @override
    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that hides plaintext; it is called for each value that is read."""
        return partial(_hide_plaintext, KINDS[self.kind])


def _write_bytes(value: Any) -> Any:
    return BYTES.stored.encode(value) if isinstance(value, StoredPlaintext) else value


def hide_values(kind: Plaintext, values: list[Any]) -> list[Any]:
    """Return stored values, of which those that are not encrypted are hidden."""
    try:
        return [
            value if value is None or value.startswith(PREFIX) else SecretString(value)  # faster than `hide`
            for value in values
        ]
    except (AttributeError, TypeError):  # bytes, or a number
        return [_hide_plaintext(kind, value) for value in values]


def _hide_plaintext(kind: Plaintext, value: Any) -> Any:
    if isinstance(value, str):
        return value if value.startswith(PREFIX) else hide(value)
    if value is None or kind is TEXT:
        # Bytes, which SQLite may have in a text column, become their type: they cannot be used, so they are not kept.
        return hide(value)
    try:
        return kind.stored.decode(kind.stored.encode(value))
    except (TypeError, ValueError):  # some of them hold the value
        return hide(value)
