"""The text form of a key.

    sealchemy-key-v1.<base64url of 32 bytes, unpadded>

The prefix lets secret scanners find it. Problems are described without showing any of the text.
"""

import re

from pybase64 import b64decode, urlsafe_b64encode

KEY_SIZE = 32
PLACEHOLDER = "replace-me-with-the-output-of-sealchemy-generate-key"
HOW_TO_MAKE_ONE = "make a key with: sealchemy generate-key (or: openssl rand -base64 32)"

_PREFIX = "sealchemy-key-v1."
_BASE64_32_BYTES = re.compile(r"(?:[A-Za-z0-9+/]{43}|[A-Za-z0-9_-]{43})=?")
_URL_SAFE_TO_STANDARD = str.maketrans("-_", "+/")
_LAST_SYMBOLS = "AEIMQUYcgkosw048"  # the two bits that 32 bytes leave unused are zero
_DISTINCT_BYTES_MINIMUM = 12


def encode(secret: bytes) -> str:
    """Return the text form of 32 bytes."""
    return _PREFIX + urlsafe_b64encode(secret).decode("ascii").rstrip("=")


def decode(text: str) -> bytes:
    """Return the 32 bytes of a text that `find_problem` accepts."""
    standard = text.removeprefix(_PREFIX).rstrip("=").translate(_URL_SAFE_TO_STANDARD) + "="
    return b64decode(standard, None, True)  # noqa: FBT003 - positional only


def find_problem(text: object) -> str | None:
    """Return why a hidden value is not the text of a key: the prefixed form, or bare base64 in either alphabet."""
    if not isinstance(text, str):
        return "the text of a key is a str"
    if text == PLACEHOLDER:
        return "it is still the placeholder of .env.example"
    encoded = text.removeprefix(_PREFIX)
    if re.fullmatch(r"[A-Za-z0-9+/_=-]*", encoded) is None:
        return "it has characters that are not base64 (quotes, spaces, a second line?)"
    if re.search(r"[+/]", encoded) and re.search(r"[_-]", encoded):
        return "it mixes the two base64 alphabets (+ / and - _)"
    if _BASE64_32_BYTES.fullmatch(encoded) is None:
        return f"it must be 32 bytes in base64, which is 43 characters and '=', not {len(encoded)} characters"
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
