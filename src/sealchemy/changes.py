"""What a rewriting does with one stored value: encrypt, rekey, decrypt or only verify it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import false, not_

from . import envelope
from .backend import ANY_STORED_VALUE
from .errors import EnvelopeFormatError, PlaintextFoundError
from .redaction import SecretString, hide

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement

    from .backend import Backend
    from .keys import KeyRing


class Cipher(NamedTuple):
    """What a key ring does with the values of one column, and what reads the values that are none of ours."""

    context: str
    encrypt: Callable[[str], str]
    decrypt: Callable[[str], SecretString]
    is_current: Callable[[str], bool]
    read_legacy: Callable[[str], str] | None

    @classmethod
    def of(cls, key_ring: KeyRing, context: str, read_legacy: Callable[[str], str] | None) -> Cipher:
        """Return the functions of a ring for one context."""
        encrypt, decrypt = key_ring.encryptor(context), key_ring.decryptor(context)
        return cls(context, encrypt, decrypt, key_ring.is_current, read_legacy)


class Change(NamedTuple):
    """What is to be stored, and the plaintext that it and the old value stand for; None twice if nothing is."""

    stored: str | None
    plaintext: SecretString | None


UNCHANGED = Change(None, None)


class Operation(NamedTuple):
    """One kind of rewriting.

    `pending` selects, in SQL, the values that may have to change. `change` returns the change of one stored
    value, None if it is to stay, and raises if it cannot be read.
    """

    name: str
    pending: Callable[[Backend, KeyRing, ColumnElement[str]], ColumnElement[bool]]
    change: Callable[[Cipher, str], Change | None]


def _is_plaintext(stored: object) -> bool:
    # What is not even text is left to `decrypt`, which refuses it.
    return isinstance(stored, str) and not stored.startswith(envelope.PREFIX)


def _encrypt(cipher: Cipher, stored: str) -> Change | None:
    if _is_plaintext(stored):
        plaintext = SecretString(stored) if cipher.read_legacy is None else _read_legacy(cipher, stored)
        return Change(cipher.encrypt(plaintext), plaintext)
    cipher.decrypt(stored)
    return None


def _read_legacy(cipher: Cipher, stored: str) -> SecretString:
    plaintext: object = None
    try:
        plaintext = cipher.read_legacy(stored) if cipher.read_legacy else stored
        plaintext = hide(plaintext) if isinstance(plaintext, str) else plaintext
        problem = f"returned {type(plaintext).__name__}, not str"
    except Exception as error:  # noqa: BLE001 - whatever it is, it may hold what was read, and ends here
        problem = f"raised {type(error).__name__}"
    if isinstance(plaintext, SecretString):
        return plaintext
    del plaintext, stored  # error trackers print the variables of a frame
    message = f"{cipher.context}: the legacy reader {problem} for a stored value: it must return its plaintext"
    raise EnvelopeFormatError(message)


def _read(cipher: Cipher, stored: str) -> SecretString:
    if _is_plaintext(stored):
        # Encrypting it in a rekey would authenticate what somebody may have planted.
        message = f"{cipher.context}: plaintext is stored; if it belongs there, encrypt the column first"
        raise PlaintextFoundError(message)
    return cipher.decrypt(stored)


def _rekey(cipher: Cipher, stored: str) -> Change | None:
    plaintext = _read(cipher, stored)
    return None if cipher.is_current(stored) else Change(cipher.encrypt(plaintext), plaintext)


def _decrypt(cipher: Cipher, stored: str) -> Change | None:
    if _is_plaintext(stored):
        return None
    plaintext = cipher.decrypt(stored)
    return Change(plaintext, plaintext)


def _verify(cipher: Cipher, stored: str) -> None:
    _read(cipher, stored)


ENCRYPT = Operation(
    "encrypt",
    pending=lambda backend, _ring, stored: not_(backend.matches(stored, ANY_STORED_VALUE)),
    change=_encrypt,
)
REKEY = Operation(
    "rekey",
    pending=lambda backend, ring, stored: not_(backend.matches(stored, f"{envelope.header(ring.primary.id)}?*")),
    change=_rekey,
)
DECRYPT = Operation(
    "decrypt",
    pending=lambda backend, _ring, stored: backend.matches(stored, f"{envelope.PREFIX}*"),
    change=_decrypt,
)
VERIFY = Operation("verify", pending=lambda _backend, _ring, _stored: false(), change=_verify)
