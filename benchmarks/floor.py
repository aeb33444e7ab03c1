"""The inline floor: only the steps that no encrypted column can leave out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pybase64 import b64decode, b64encode_as_string
from sqlalchemy import Text
from sqlalchemy.types import TypeDecorator

from sealchemy import SecretString

if TYPE_CHECKING:
    from collections.abc import Callable


def floor() -> tuple[Callable[[str], str], Callable[[str], SecretString]]:
    """Return an encrypting and a decrypting function for the stored format, with one key and one context."""
    cipher = AESGCM(os.urandom(32))
    encrypt, decrypt, urandom = cipher.encrypt, cipher.decrypt, os.urandom
    header, associated_data, prefix = "sealchemy:v1:000000000000:", b"sealchemy:v1:000000000000:bench.a", urandom(12)

    def floor_encrypt(value: str) -> str:
        tail = urandom(12)
        return header + b64encode_as_string(prefix + tail + encrypt(tail, value.encode(), associated_data))

    def floor_decrypt(stored: str) -> SecretString:
        payload = b64decode(stored[26:], None, True)  # noqa: FBT003
        return SecretString(decrypt(payload[12:24], payload[24:], associated_data).decode())

    return floor_encrypt, floor_decrypt


class FloorType(TypeDecorator[str]):
    """The floor as a column type."""

    impl = Text
    cache_ok = True
    encrypt, decrypt = floor()

    def bind_processor(self, dialect: Any) -> Any:
        """Return the function that encrypts a parameter."""
        del dialect
        return type(self).__dict__["encrypt"]

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        """Return the function that decrypts a value."""
        del dialect, coltype
        return type(self).__dict__["decrypt"]
