"""`Codec`: a kind of plaintext as the bytes that are encrypted, and back.

Each kind has two codecs: for the value that the application has, and for the text that stands for it in a column which
is not encrypted yet. In a text column, bytes are written as PostgreSQL does: a backslash, an x and hex digits.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from sealchemy.errors import AlreadyEncryptedError, PlaintextTypeError

from . import json_values
from .envelope import SIZE_LIMIT, longest_plaintext
from .json_values import hide_strings
from .secret import SecretBytes, SecretString, has_lone_surrogate, hide, reveal, type_name

_LONGEST = longest_plaintext(SIZE_LIMIT)

RESERVED = b"sealchemy:"
"""How no plaintext starts, because every encrypted value does."""

_HEX = re.compile(r"\\x((?:[0-9A-Fa-f]{2})*)")
_NO_HEX = (
    "the text does not represent bytes: a backslash, an x and hex digits, as `sealchemy widen` and PostgreSQL write"
    " them; for another form, pass a legacy_reader that returns the bytes"
)


class Codec(NamedTuple):
    """One form of plaintext.

    Attributes:
        encode: returns the bytes of a value, fast; raises anything for a value that it does not take.
        decode: returns the value of bytes; raises `ValueError` for bytes that stand for none.
        hide: returns a value in a form that shows nothing; its type if `encode` could not take the value.
        find_problem: returns why a value cannot be encoded, without showing it.
        name: what the value is, for errors.
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    hide: Callable[[Any], Any]
    find_problem: Callable[[Any], str]
    name: str


class Plaintext(NamedTuple):
    """A kind of plaintext: as the application has it, and as an unencrypted text column has it."""

    name: str
    value: Codec
    stored: Codec


def require_encodable(codec: Codec, value: Any, context: str, longest: int = _LONGEST) -> bytes:
    """Return the bytes of a value that may be wrapped, such as pydantic's `SecretStr`.

    Raises:
        PlaintextTypeError: the codec does not take it, or it has more bytes than `longest`.
        AlreadyEncryptedError: it starts as encrypted values do.
    """
    value, problem = reveal(value), ""
    try:
        data = codec.encode(value)
    except (TypeError, ValueError, RecursionError):  # some of them hold the value
        data, problem = b"", codec.find_problem(value)
    value = None  # this frame is in the traceback
    if len(data) > longest:
        problem, data = f"the {codec.name} has {len(data)} bytes; the key ring's size_limit allows {longest}", b""
    if problem:
        raise PlaintextTypeError(f"{context}: {problem}")
    if data.startswith(RESERVED):
        data = b""
        raise AlreadyEncryptedError(
            f"{context}: the {codec.name} starts with 'sealchemy:', as only encrypted values do; pass the plaintext"
        )
    return data


def _text_problem(value: Any) -> str:
    value = hide(value)
    if isinstance(value, str) and has_lone_surrogate(value):
        return "the text has a lone surrogate and no UTF-8 form"
    return f"takes str or None, not {type_name(value)}"


def hide_bytes(value: Any) -> Any:
    """Return bytes as `SecretBytes`, None as None, and anything else as its type."""
    value = reveal(value)
    if isinstance(value, bytes):
        return SecretBytes(value)
    return value if value is None or isinstance(value, type) else type(value)


def _encode_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    raise TypeError


def _bytes_problem(value: Any) -> str:
    return f"takes bytes or None, not {type_name(hide_bytes(value))}"


def _decode_hex(data: bytes) -> SecretString:
    return SecretString("\\x" + data.hex())


def _encode_hex(text: Any) -> bytes:
    if isinstance(text, bytes):  # SQLite keeps them, whatever the type of the column
        return text
    match = _HEX.fullmatch(text)
    if match is None:
        raise ValueError
    return bytes.fromhex(match[1])


def _decode_text(data: bytes) -> SecretString:
    return SecretString(data.decode())


_TEXT = Codec(str.encode, _decode_text, hide, _text_problem, "text")

TEXT = Plaintext("text", _TEXT, _TEXT)
JSON = Plaintext(
    "json",
    Codec(json_values.encode, json_values.decode, hide_strings, json_values.find_problem, "JSON"),
    Codec(json_values.encode_text, json_values.decode_text, hide, lambda _text: "the text is not JSON", "JSON"),
)
BYTES = Plaintext(
    "bytes",
    Codec(
        _encode_bytes,
        SecretBytes,
        hide_bytes,
        lambda value: f"takes bytes or None, not {type_name(hide_bytes(value))}",
        "value",
    ),
    Codec(_encode_hex, _decode_hex, hide, lambda _text: _NO_HEX, "value"),
)

KINDS = {kind.name: kind for kind in (TEXT, JSON, BYTES)}
"""The kinds by name, as revisions and programs name them."""
