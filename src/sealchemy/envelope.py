"""The stored value as text, and its parts.

    sealchemy:v1:<key id>:<base64>
    └───┬───┘ └┬┘ └──┬──┘ └──┬──┘
        │      │     │       └ standard alphabet, padded: nonce (24) || ciphertext || tag (16)
        │      │     └──────── 12 lower-case hex digits, derived from the key
        │      └────────────── version of everything behind it
        └───────────────────── what starts like this is ours: it authenticates, or it is an error

"Envelope" is this line; it has nothing to do with the envelope encryption of a key management service.
Reserved for values that are bound to their row: the header `sealchemy:v1:<key id>:row:`, with the parts
of the row appended to the associated data, each as `0x00 || length (4 bytes, big-endian) || bytes`.

Decoding is strict, because a second spelling of one value would let a stored value change without notice.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from pybase64 import b64decode
from pybase64 import b64encode_as_string as encode

from .errors import ColumnDefinitionError, EnvelopeError, EnvelopeFormatError, UnsupportedVersionError

PREFIX = "sealchemy:"
HEADER_SIZE = len("sealchemy:v1:000000000000:")
PAYLOAD_MINIMUM = 24 + 16

# ASCII classes and `fullmatch`: `$` would take a newline, `\d` and `\w` fullwidth digits and letters.
_CONTEXT = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_HEADER = re.compile(r"sealchemy:v1:([0-9a-f]{12}):")
_VERSION = re.compile(r"sealchemy:(v[0-9]{1,3}):")

# Before padding, the last symbol carries two or four unused bits. They must be zero, which leaves these.
_LAST_BEFORE_TWO = frozenset("AQgw")
_LAST_BEFORE_ONE = frozenset("AEIMQUYcgkosw048")


class Envelope(NamedTuple):
    """A stored value that has the right form; nothing about it is authenticated yet."""

    key_id: str
    payload: bytes


def header(key_id: str) -> str:
    """Return what every value under this key starts with, 26 characters."""
    return f"{PREFIX}v1:{key_id}:"


def check_context(context: str) -> str:
    """Return `context`, or raise `ColumnDefinitionError` if it is not `[A-Za-z0-9_.-]{1,128}`."""
    if isinstance(context, str) and _CONTEXT.fullmatch(context) and not context.startswith("sealchemy-key-"):
        return context
    del context  # not shown: other libraries take a key in this place
    message = (
        "a context is the permanent name of an encrypted column: 1 to 128 characters of A-Z a-z 0-9 _ . -"
        ' (for example "integrations.access_token"), and never a key'
    )
    raise ColumnDefinitionError(message)


def parse(text: str, where: str = "stored value") -> Envelope:
    """Split a stored value; `where` names its column in an error.

    Raises:
        UnsupportedVersionError: another version than v1, or a value that is bound to its row.
        EnvelopeFormatError: anything else that this library did not write.

    """
    try:
        key_id = parse_key_id(text, where)
    except EnvelopeError:
        del text  # error trackers print the variables of a frame, and it may be plaintext
        raise
    return Envelope(key_id, decode(text[HEADER_SIZE:], where))


def parse_key_id(text: str, where: str = "stored value") -> str:
    """Return the key id that a stored value names; raises as `parse` does, for the header."""
    if not isinstance(text, str):
        kind = type(text).__name__
        del text  # error trackers print the variables of a frame
        message = f"{where}: the driver returned {kind}, not text: check the column's type"
        raise EnvelopeFormatError(message)
    match = _HEADER.match(text)
    if match is None:
        _refuse_header(text, where)
    if text.startswith("row:", HEADER_SIZE):
        _refuse_version("v1 with a row", where)
    return match[1]


def _refuse_header(text: str, where: str) -> NoReturn:
    if not text.startswith(PREFIX):
        message = f"{where}: this is no stored value of sealchemy, it does not start with {PREFIX!r}"
        raise EnvelopeFormatError(message)
    version = _VERSION.match(text)
    if version is not None and version[1] != "v1":
        _refuse_version(version[1], where)
    message = (
        f"{where}: a text starts with {PREFIX!r} but is no stored value, its version or key id is malformed;"
        " if an application wrote it as its own, it cannot be kept in an encrypted column"
    )
    raise EnvelopeFormatError(message)


def _refuse_version(version: str, where: str) -> NoReturn:
    message = f"{where}: this release does not read version {version} of stored values: upgrade sealchemy"
    raise UnsupportedVersionError(message)


def decode(text: str, where: str = "stored value") -> bytes:
    """Decode the base64 part: standard alphabet, padded, canonical, at least 40 bytes; raises as `parse`."""
    try:
        payload = b64decode(text, None, True)  # noqa: FBT003 - positional is measurably faster here
    except ValueError:
        payload = b""
    if len(payload) >= PAYLOAD_MINIMUM and is_canonical(text):
        return payload
    if text.startswith("row:"):
        _refuse_version("v1 with a row", where)
    message = (
        f"{where}: a stored value is damaged, what follows its key id is truncated or no canonical base64;"
        " restore it from a backup"
    )
    raise EnvelopeFormatError(message)


def is_canonical(text: str) -> bool:
    """Return whether base64 that decodes is the only spelling of its bytes: unused bits must be zero."""
    if text[-1] != "=":
        return True
    if text[-2] == "=":
        return text[-3] in _LAST_BEFORE_TWO
    return text[-2] in _LAST_BEFORE_ONE


__all__ = [
    "HEADER_SIZE",
    "PREFIX",
    "Envelope",
    "b64decode",
    "check_context",
    "decode",
    "encode",
    "header",
    "is_canonical",
    "parse",
    "parse_key_id",
]
