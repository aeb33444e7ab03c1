"""The encrypted value as text, and its parts.

    sealchemy:v1:<key id>:<base64>
    └───┬───┘ └┬┘ └──┬──┘ └──┬──┘
        │      │     │       └ standard alphabet, padded: nonce (24) || ciphertext || tag (16)
        │      │     └──────── 12 lower-case hex digits, derived from the key
        │      └────────────── version of everything after it
        └───────────────────── a value that starts with this must authenticate; it is never taken for plaintext

A value that is bound to its row has `row:` before the base64; see `rows`.
"Envelope" means this line; it has nothing to do with the envelope encryption of a key management service.

Decoding is strict, because a second spelling of a value would let someone change it without notice.
"""

import re
from typing import Any, NamedTuple, NoReturn

from pybase64 import b64decode
from pybase64 import b64encode_as_string as encode

from sealchemy.errors import ColumnDefinitionError, EnvelopeFormatError, UnsupportedVersionError

from .secret import hide, type_name

__all__ = [
    "HEADER_SIZE",
    "ONE_PADDING",
    "PREFIX",
    "ROW",
    "SIZE_LIMIT",
    "TWO_PADDINGS",
    "Envelope",
    "b64decode",
    "decode",
    "encode",
    "header",
    "is_bound",
    "longest_plaintext",
    "parse",
    "parse_key_id",
    "require_context",
    "require_size",
]

PREFIX = "sealchemy:"
HEADER_SIZE = len("sealchemy:v1:000000000000:")
ROW = "row:"
"""What an encrypted value has after its header if it is bound to its row."""
PAYLOAD_MINIMUM = 24 + 16
SIZE_LIMIT = 16 * 2**20
"""The longest encrypted value, in characters, unless a key ring says otherwise."""
SMALLEST_LIMIT = 1000

# ASCII classes and `fullmatch`: `$` would take a newline, `\d` and `\w` fullwidth digits and letters.
_CONTEXT = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_HEADER = re.compile(r"sealchemy:v1:([0-9a-f]{12}):")
_VERSION = re.compile(r"sealchemy:(v[0-9]{1,3}):")

# Before padding, the last symbol carries two or four unused bits. They must be zero, or the same bytes would have
# several spellings; that leaves these endings.
ONE_PADDING = frozenset(f"{symbol}=" for symbol in "AEIMQUYcgkosw048")
TWO_PADDINGS = frozenset(f"{symbol}==" for symbol in "AQgw")


class Envelope(NamedTuple):
    """An encrypted value of the right form; nothing in it is authenticated yet."""

    key_id: str
    payload: bytes


def header(key_id: str, *, bound: bool = False) -> str:
    """Return what every value under this key starts with: 26 characters, or 30 if it is bound to its row."""
    return f"{PREFIX}v1:{key_id}:{ROW if bound else ''}"


def require_size(stored: Any, where: str, limit: int) -> None:
    """Raise `EnvelopeFormatError` for an encrypted value that is too long to be decoded."""
    if isinstance(stored, str) and stored.startswith(PREFIX) and len(stored) > limit:
        raise EnvelopeFormatError(
            f"{where}: the stored value has {len(stored)} characters, more than the key ring's size_limit of {limit};"
            " delete it, or raise the limit if an application stored a value of this size"
        )


def longest_plaintext(limit: int) -> int:
    """Return how many bytes a plaintext may have, so that its encrypted value is not too long."""
    return (limit - HEADER_SIZE - len(ROW)) // 4 * 3 - PAYLOAD_MINIMUM


def is_bound(text: str) -> bool:
    """Return whether an encrypted value is bound to its row."""
    return text.startswith(PREFIX) and text.startswith(ROW, HEADER_SIZE)


def require_context(context: Any) -> str:
    """Return a hidden context as a plain `str`, or raise `ColumnDefinitionError`.

    The text is not shown: other libraries take a key in this place.
    """
    if isinstance(context, str) and _CONTEXT.fullmatch(context) and not context.startswith("sealchemy-key-"):
        return str(context)
    raise ColumnDefinitionError(
        "a context is the permanent name of an encrypted column: 1 to 128 characters of A-Z a-z 0-9 _ . -"
        ' (for example "integrations.access_token"), and never a key'
    )


def parse(text: Any, where: str = "encrypted value", *, bound: bool = False) -> Envelope:
    """Split an encrypted value of one form that went through `hide`; `where` names its column in an error.

    Raises:
        UnsupportedVersionError: a version other than v1, or a value that is bound to its row.
        EnvelopeFormatError: anything else that this library did not write.
    """
    key_id = parse_key_id(text, where)
    if bound:
        text = text.replace(ROW, "", 1)
    return Envelope(key_id, decode(text[HEADER_SIZE:], where))


def parse_key_id(text: Any, where: str = "encrypted value") -> str:
    """Return the key id that an encrypted value names; raises as `parse` does, for the header."""
    if not isinstance(text, str):
        raise EnvelopeFormatError(
            f"{where}: the driver returned {type_name(hide(text))}, not text; check the column's type"
        )
    match = _HEADER.match(text)
    if match is None:
        _refuse_header(text, where)
    return match[1]


def _refuse_header(text: str, where: str) -> NoReturn:
    if not text.startswith(PREFIX):
        raise EnvelopeFormatError(f"{where}: this is not an encrypted value: it does not start with {PREFIX!r}")
    version = _VERSION.match(text)
    if version is not None and version[1] != "v1":
        _refuse_version(version[1], where)
    raise EnvelopeFormatError(
        f"{where}: the text starts with {PREFIX!r}, but its version or key id is malformed, so it is not an encrypted"
        " value; if an application stored it as its own text, it cannot be kept in an encrypted column"
    )


def _refuse_version(version: str, where: str) -> NoReturn:
    raise UnsupportedVersionError(
        f"{where}: this release cannot read encrypted values of version {version}; upgrade sealchemy"
    )


def decode(text: str, where: str = "encrypted value") -> bytes:
    """Decode the base64 part: standard alphabet, padded, canonical, at least 40 bytes; raises as `parse`."""
    try:
        payload = b64decode(text, None, True)  # noqa: FBT003 - positional is measurably faster here
    except ValueError:
        payload = b""
    is_canonical = text[-1:] != "=" or text[-2:] in ONE_PADDING or text[-3:] in TWO_PADDINGS
    if len(payload) >= PAYLOAD_MINIMUM and is_canonical:
        return payload
    if text.startswith(ROW):
        raise UnsupportedVersionError(
            f"{where}: an encrypted value of version v1 is bound to its row, and this column is not; declare it with"
            " bind_to, as where the value was written"
        )
    raise EnvelopeFormatError(
        f"{where}: the encrypted value is damaged: the part after its key id is truncated or not canonical base64;"
        " restore it from a backup"
    )
