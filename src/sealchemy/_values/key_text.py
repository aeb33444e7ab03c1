"""The text form of a key.

    sealchemy-key-v1.<base64url of the 32 bytes and the first 4 bytes of their SHA-256>

The prefix lets secret scanners find it, and the checksum shows a character that was mistyped: with another key, an
application would start, and write values that no other process can read. Keys of releases before have no checksum, and
no padding either. Problems are described without showing any of the text.
"""

import hmac
import re
from hashlib import sha256

from pybase64 import b64decode, urlsafe_b64encode

KEY_SIZE = 32
PLACEHOLDER = "replace-me-with-the-output-of-sealchemy-generate-key"
HOW_TO_MAKE_ONE = "make a key with: sealchemy generate-key (or: openssl rand -base64 32)"

_PREFIX = "sealchemy-key-v1."
_CHECKSUM_SIZE = 4
_BASE64_32_BYTES = re.compile(r"(?:[A-Za-z0-9+/]{43}|[A-Za-z0-9_-]{43})=?")
_WITH_CHECKSUM = re.compile(re.escape(_PREFIX) + r"[A-Za-z0-9_-]{48}")
_URL_SAFE_TO_STANDARD = str.maketrans("-_", "+/")
_LAST_SYMBOLS = "AEIMQUYcgkosw048"  # the two bits that 32 bytes leave unused are zero
_DISTINCT_BYTES_MINIMUM = 12


def encode(secret: bytes, *, checksum: bool = True) -> str:
    """Return the text form of 32 bytes; without the checksum, releases before read it as well."""
    content = secret + _checksum(secret) if checksum else secret
    return _PREFIX + urlsafe_b64encode(content).decode("ascii").rstrip("=")


def decode(text: str) -> bytes:
    """Return the 32 bytes of a text that `find_problem` accepts."""
    return _content(text)[:KEY_SIZE]


def has_checksum(text: str) -> bool:
    """Return whether a text has the length of a key with its checksum."""
    return _WITH_CHECKSUM.fullmatch(text) is not None


def _checksum(secret: bytes) -> bytes:
    return sha256(secret).digest()[:_CHECKSUM_SIZE]


def _content(text: str) -> bytes:
    standard = text.removeprefix(_PREFIX).rstrip("=").translate(_URL_SAFE_TO_STANDARD)
    return b64decode(standard + "=" * (-len(standard) % 4), None, True)  # noqa: FBT003 - positional only


def find_problem(text: object) -> str | None:
    """Return why a hidden value is not the text of a key: the prefixed form, or bare base64 in either alphabet."""
    if not isinstance(text, str):
        return "the text of a key is a str"
    if text == PLACEHOLDER:
        return "it is still the placeholder of .env.example"
    if "." in text and not text.startswith(_PREFIX):
        return f"what stands before its dot is not {_PREFIX.rstrip('.')}"
    encoded = text.removeprefix(_PREFIX)
    if re.fullmatch(r"[A-Za-z0-9+/_=-]*", encoded) is None:
        return "it has characters that are not base64 (quotes, spaces, a second line?)"
    if re.search(r"[+/]", encoded) and re.search(r"[_-]", encoded):
        return "it mixes the two base64 alphabets (+ / and - _)"
    if has_checksum(text):
        is_right = hmac.compare_digest(_content(text)[KEY_SIZE:], _checksum(decode(text)))
        return None if is_right else "its checksum is wrong: a character of it is mistyped or missing"
    if _BASE64_32_BYTES.fullmatch(encoded) is None:
        return (
            f"it must be 32 bytes in base64, which is 43 characters and '=' (or 48 characters after {_PREFIX}), not"
            f" {len(encoded)} characters"
        )
    if encoded[42] not in _LAST_SYMBOLS:
        return "its last character cannot end 32 bytes of base64: part of the key is missing or mistyped"
    return None


def find_weakness(secret: bytes) -> str | None:
    """Return why bytes cannot be a key: not 32 of them, or not the output of a random generator."""
    if len(secret) != KEY_SIZE:
        return f"it has {len(secret)} bytes, not {KEY_SIZE}"
    if all(0x20 <= byte < 0x7F for byte in secret):  # noqa: PLR2004 - printable ASCII
        return "its 32 bytes are printable text: an encoded passphrase, not a random key"
    if len(set(secret)) < _DISTINCT_BYTES_MINIMUM:
        return "its 32 bytes repeat: not a random key"
    return None
