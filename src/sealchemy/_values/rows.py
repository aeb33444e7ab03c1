"""Values that are bound to their row: what encrypts and decrypts them.

Such a value has the header `sealchemy:v1:<key id>:row:`. Its associated data is the header, the context, and for each
part of the row `0x00 || length (4 bytes, big-endian) || UTF-8`. A part is the text of a column of that row: an integer
in decimal, a UUID as 32 hex digits, text as it is, without NUL and newline.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from sealchemy.errors import PlaintextTypeError, UnsupportedOperationError

from . import batches, data_key, envelope
from .codecs import Codec
from .key_ring import KeyRing, data_keys, refuse_key
from .secret import reveal

SEPARATOR = "\n"
"""What separates a stored value from the parts of its row, where both are read as one text."""

_last_rows: defaultdict[int, list[tuple[str | None, bytes]]] = defaultdict(lambda: [(None, b"")])
"""The row with so many parts that was read last, and its associated data: a row often has several values."""


_NO_ROW = b"\n"
"""The data of no row."""


def associated_data(parts: Iterable[str]) -> bytes:
    """Return the associated data of a row."""
    data = b""
    for part in parts:
        encoded = part.encode()
        data += len(encoded).to_bytes(5, "big") + encoded  # 0x00, and four bytes
    return data


def encryptor(key_ring: KeyRing, context: str, codec: Codec) -> Callable[[Any, bytes], Any]:
    """Return the function that encrypts a value of one context, given the data of its row; None stays None."""
    key = data_keys(key_ring)[key_ring.primary.id]
    encrypt = key.encryptor(envelope.require_context(context), codec, bound=True, size_limit=key_ring.size_limit)
    of_context = key.associated_data(context, bound=True)
    return lambda value, row: encrypt(value, of_context + row)


def batch_encryptor(
    key_ring: KeyRing, context: str, codec: Codec
) -> Callable[[Sequence[Any], Sequence[bytes] | None], list[str]]:
    """Return the function that encrypts many values of one context at once, given the data of their rows."""
    key = data_keys(key_ring)[key_ring.primary.id]
    context, size_limit = envelope.require_context(context), key_ring.size_limit
    encrypt = batches.encryptor(key, context, codec, bound=True, size_limit=size_limit)
    of_context = key.associated_data(context, bound=True)
    return lambda values, rows: encrypt(values, [of_context + row for row in rows or ()])


def decryptor(
    key_ring: KeyRing, context: str, codec: Codec, on_unbound: Callable[[Any], Any]
) -> Callable[[Any, bytes], Any]:
    """Return the function that decrypts a value of one context, given the data of its row; None stays None.

    Args:
        key_ring: the keys.
        context: the name that the values were encrypted for.
        codec: returns the value of decrypted bytes.
        on_unbound: called with the hidden stored value if it is not bound to a row.
    """
    context = envelope.require_context(context)

    def on_other(stored: Any) -> Any:
        if not isinstance(stored, str) or not envelope.is_bound(stored):
            return on_unbound(stored)
        return refuse_key(key_ring, context, envelope.parse(stored, context, bound=True).key_id)

    known = {envelope.header(key_id, bound=True): key for key_id, key in data_keys(key_ring).items()}
    return data_key.decryptor(known, context, codec, on_other, bound=True, size_limit=key_ring.size_limit)


def pair_encryptor(key_ring: KeyRing, context: str, codec: Codec) -> Callable[[Any], Any]:
    """Return `encryptor` for a pair of a value and the data of its row."""
    encrypt = encryptor(key_ring, context, codec)
    return lambda pair: encrypt(*pair)


def text_decryptor(
    key_ring: KeyRing, context: str, codec: Codec, names: Sequence[str], on_unbound: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """Return `decryptor` for a text that is read with the parts of its row behind it."""
    decrypt, count = decryptor(key_ring, context, codec, on_unbound), len(names)
    last_row = _last_rows[count]

    def decrypt_text(text: Any) -> Any:
        if text is None:
            return None
        if isinstance(text, str):
            stored, _, row = text.partition(SEPARATOR)
            before, data = last_row[0]
            if row == before:
                return decrypt(stored, data)
            parts = row.split(SEPARATOR)
            if row and len(parts) == count:
                data = associated_data(parts)
                last_row[0] = row, data
                return decrypt(stored, data)
            if row and stored.startswith(envelope.PREFIX):
                # A part has a newline. To such a row nothing is bound, but the value may not be bound at all.
                return decrypt(stored, _NO_ROW)
        # Plaintext may have newlines of its own, and the parts have none.
        stored, *others = text.rsplit(SEPARATOR, count) if isinstance(text, str) else [text]
        if len(others) == count:
            return decrypt(stored, associated_data(others))
        text = stored = ""
        raise UnsupportedOperationError(
            f"{context}: a value was read without {', '.join(names)}, to which it is bound; select the column of a"
            " table, not text()"
        )

    return decrypt_text


class RowValue:
    """A value for a bound column, with the values of the columns that it is bound to.

    An UPDATE takes it where its WHERE does not say which row it changes, as in
    `update(Account).where(Account.id == 5).values(token=RowValue(text, user_id=7, provider="google"))`. The statement
    changes nothing and raises `sqlalchemy.orm.exc.StaleDataError` if the row has other values in these columns.
    """

    __module__ = "sealchemy"
    __slots__ = ("_value", "row")

    def __init__(self, value: object, /, **row: object) -> None:
        """Name the row of a value.

        Args:
            value: what the column takes.
            row: a value for each name in `bind_to`.

        Raises:
            PlaintextTypeError: one of them is None.
        """
        self._value, self.row = reveal(value), row
        if nothing := [name for name, item in row.items() if item is None]:
            self._value = value = None
            raise PlaintextTypeError(f"RowValue: {', '.join(nothing)} is None; a value is never bound to NULL")

    def reveal(self) -> Any:
        """Return the value without its row."""
        return self._value

    def __str__(self) -> str:
        """Return the text of the value, as `str(token)` does: a listener may see it in place of the value."""
        return str(self._value)

    def __repr__(self) -> str:
        """Return the names of the columns, never the value."""
        return f"RowValue('***', {', '.join(self.row)})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied, with the value in plaintext."""
        message = "a RowValue is not pickled, because its value would be in plaintext"
        raise TypeError(message)
