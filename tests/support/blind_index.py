"""Blind indexes, computed with other code than the library's."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sealchemy import Key


def digest_of(key: Key, context: str, text: str) -> str:
    """Return the digest of a text: RFC 5869 with one block of output, and RFC 2104."""
    secret = base64.urlsafe_b64decode(key.reveal().removeprefix("sealchemy-key-v1.") + "==")[:32]
    extracted = hmac.digest(bytes(32), secret, hashlib.sha256)
    derived = hmac.digest(extracted, f"sealchemy v1 blind index:{context}".encode() + b"\x01", hashlib.sha256)
    mac = hmac.digest(derived, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return "sealchemy-index:v1:" + base64.urlsafe_b64encode(mac[:16]).decode().rstrip("=")
