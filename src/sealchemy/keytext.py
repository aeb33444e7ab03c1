"""The text form of a key, and the environment variables and files that hold it.

    sealchemy-key-v1.<base64url of 32 bytes, unpadded>

The prefix is there for secret scanners. Errors name the variable and what is wrong, never the value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pybase64 import b64decode, urlsafe_b64encode

from .errors import KeyFormatError, MissingKeyError
from .redaction import SecretString

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACEHOLDER = "replace-me-with-the-output-of-sealchemy-generate-key"
MAKE_ONE = "make a key with: sealchemy generate-key (or: openssl rand -base64 32)"

_PREFIX = "sealchemy-key-v1."
_BASE64_32_BYTES = re.compile(r"(?:[A-Za-z0-9+/]{43}|[A-Za-z0-9_-]{43})=?")
_URL_SAFE_TO_STANDARD = str.maketrans("-_", "+/")
_LAST_SYMBOLS = "AEIMQUYcgkosw048"  # the two bits that 32 bytes leave unused are zero
_DISTINCT_BYTES_MINIMUM = 12
_FILE_SIZE_MAXIMUM = 65_536


def encode(secret: bytes) -> str:
    """Return the text form of 32 bytes."""
    return _PREFIX + urlsafe_b64encode(secret).decode("ascii").rstrip("=")


def decode(text: str) -> bytes:
    """Return the 32 bytes that `text` writes, with the prefix or as bare base64 in either alphabet.

    Raises:
        KeyFormatError: anything else, and keys that are visibly not random.

    """
    encoded = text.removeprefix(_PREFIX) if isinstance(text, str) else ""
    problem = _what_is_wrong(text, encoded) if isinstance(text, str) else "the text of a key is a str"
    if problem is None:
        standard = encoded.rstrip("=").translate(_URL_SAFE_TO_STANDARD) + "="
        secret = b64decode(standard, None, True)  # noqa: FBT003 - positional only
        problem = what_is_weak(secret)
        if problem is None:
            return secret
        del standard, secret
    del text, encoded  # error trackers print the variables of a frame
    raise KeyFormatError(problem)


def _what_is_wrong(text: str, encoded: str) -> str | None:
    if text == PLACEHOLDER:
        return "it is still the placeholder of .env.example"
    if re.fullmatch(r"[A-Za-z0-9+/_=-]*", encoded) is None:
        return "it has characters that base64 does not have (quotes, spaces, a second line?)"
    if re.search(r"[+/]", encoded) and re.search(r"[_-]", encoded):
        return "it mixes the two base64 alphabets (+ / and - _)"
    if _BASE64_32_BYTES.fullmatch(encoded) is None:
        return f"it must be 32 bytes in base64, which is 43 characters and '=', not {len(encoded)} characters"
    if encoded[42] not in _LAST_SYMBOLS:
        return "its last character cannot end 32 bytes in base64: some of the key is missing or mistyped"
    return None


def what_is_weak(secret: bytes) -> str | None:
    """Say what is wrong with bytes that are not 32, or that no random generator made."""
    if len(secret) != 32:  # noqa: PLR2004 - AES-256
        return f"it has {len(secret)} bytes, not 32"
    if all(0x20 <= byte < 0x7F for byte in secret):  # noqa: PLR2004 - the printable ones
        return "its 32 bytes are printable text: an encoded passphrase, not a random key"
    if len(set(secret)) < _DISTINCT_BYTES_MINIMUM:
        return "its 32 bytes repeat themselves: not a random key"
    return None


def read_variable(environ: Mapping[str, str], name: str) -> tuple[str, SecretString]:
    """Return the variable that is set, `name` or `<name>_FILE`, and its value or its file's content.

    The text is empty if neither is set; an empty variable counts as absent.

    Raises:
        KeyFormatError: both are set, or the file is not ASCII text.
        MissingKeyError: the file is empty or cannot be read.

    """
    file_name = f"{name}_FILE"
    value, path = SecretString(environ.get(name, "")), SecretString(environ.get(file_name, ""))
    del environ  # error trackers print the variables of a frame
    if value and path:
        message = f"both {name} and {file_name} are set: keep one of them"
        raise KeyFormatError(message)
    return (file_name, _read_file(file_name, path)) if path else (name, value)


def _read_file(variable: str, path: SecretString) -> SecretString:
    content, problem = b"", None
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path would stay in the frames of its errors
            content = file.read(_FILE_SIZE_MAXIMUM)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it is not a path"
    if content.strip() and content.isascii():
        return SecretString(content.removesuffix(b"\n").removesuffix(b"\r").decode("ascii"))
    # The path is not shown: it may be the key itself, put into the wrong variable.
    error_type = KeyFormatError if content.strip() else MissingKeyError
    problem = problem or ("it is not ASCII text" if content.strip() else "it is empty")
    del content
    message = f"{variable}: the file that it names cannot be used: {problem}; {MAKE_ONE}"
    raise error_type(message)
