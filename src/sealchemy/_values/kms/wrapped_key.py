"""A wrapped key: the text of a key that only a key management service (KMS) can open.

    sealchemy-wrapped-key-v1.<key id>.<URI of the KMS>.<what the KMS gave>.<the sealed key>

The last two are unpadded base64url. The KMS wraps 32 random bytes that are used once. These seal the key here, with
AES-256-GCM under a nonce of zeros and the start of the text, up to the key id, as associated data. So what a client of
the KMS logs opens nothing without the text, and a text that is put together from two does not open.
"""

import os
import re
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pybase64 import urlsafe_b64decode, urlsafe_b64encode

from sealchemy._values.secret import SecretBytes
from sealchemy.errors import KeyFormatError

ONCE_SIZE = 32

_PREFIX = "sealchemy-wrapped-key-v1."
_URI = r"([a-z][a-z0-9-]*)://[A-Za-z0-9:/._@-]+"
_TEXT = re.compile(rf"{re.escape(_PREFIX)}([0-9a-f]{{12}})\.({_URI})\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{{64}})")
_NONCE = bytes(12)  # the key is used once


class WrappedKey(NamedTuple):
    """The parts of a wrapped key.

    Attributes:
        key_id: the id of the key.
        uri: the key of the KMS.
        wrapped: what the KMS made of the bytes that are used once.
        sealed: the key, sealed with these: 48 bytes.
    """

    key_id: str
    uri: str
    wrapped: SecretBytes
    sealed: SecretBytes

    def __str__(self) -> str:
        """Return the text."""
        return f"{_PREFIX}{self.key_id}.{self.uri}.{_encode(self.wrapped)}.{_encode(self.sealed)}"


def is_wrapped(text: object) -> bool:
    """Return whether a text is meant to be a wrapped key."""
    return isinstance(text, str) and text.startswith(_PREFIX)


def parse(text: str) -> WrappedKey:
    """Return the parts of a hidden text; raises `KeyFormatError`, which does not show it."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise KeyFormatError(
            f"it starts with {_PREFIX} but is not a wrapped key: a part is missing, or has characters that it cannot"
            " have (a second key without a comma?); copy it again from where it is stored"
        )
    wrapped, sealed = match[4], match[5]
    if len(wrapped) % 4 == 1:  # no number of bytes gives that
        wrapped = ""
    found = WrappedKey(match[1], match[2], _decode(wrapped), _decode(sealed))
    if str(found) != text:
        raise KeyFormatError(
            "the wrapped key is damaged: the end of a part is missing; copy it again from where it is stored"
        )
    return found


def scheme_of(uri: object) -> str:
    """Return the scheme of the URI of a KMS; raises `KeyFormatError` if it is none."""
    match = re.fullmatch(_URI, uri) if isinstance(uri, str) else None
    if match is None:
        raise KeyFormatError(
            "the URI of a KMS is scheme://name-of-a-key, of A-Z a-z 0-9 : / . _ @ -, such as"
            " vault-transit://transit/sealchemy"
        )
    return match[1]


def draw() -> SecretBytes:
    """Return 32 random bytes, to be used once."""
    return SecretBytes(os.urandom(ONCE_SIZE))


def seal(once: bytes, secret: bytes, key_id: str) -> SecretBytes:
    """Return the 32 bytes of a key, sealed: 48 bytes."""
    return SecretBytes(AESGCM(once).encrypt(_NONCE, secret, (_PREFIX + key_id).encode()))


def open_sealed(once: bytes, found: WrappedKey) -> SecretBytes | None:
    """Return the 32 bytes of a sealed key; None if these bytes do not open it."""
    try:
        return SecretBytes(AESGCM(once).decrypt(_NONCE, found.sealed, (_PREFIX + found.key_id).encode()))
    except (InvalidTag, ValueError):
        return None


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> SecretBytes:
    return SecretBytes(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
