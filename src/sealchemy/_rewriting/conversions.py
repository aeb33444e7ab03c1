"""`Conversion`: what a rewrite does to one value: encrypt, rekey, decrypt or only verify it."""

import re
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, false, not_

from sealchemy._databases.base import Database
from sealchemy._databases.encryption_check import ANY_BOUND_VALUE, ANY_ENCRYPTED_VALUE
from sealchemy._values import envelope
from sealchemy._values.codecs import BYTES, TEXT, require_encodable
from sealchemy._values.key_ring import KeyRing
from sealchemy._values.secret import SecretString, StoredPlaintext, hide, hide_stored, type_name
from sealchemy.errors import EnvelopeFormatError, PlaintextFoundError, SealchemyError

from .cipher import Cipher, Rows, Values

_starts_as_bytes = methodcaller("startswith", "\\x")
_STANDS_FOR_BYTES = re.compile(r"\\x(?:[0-9A-Fa-f]{2})*")


class Change(NamedTuple):
    """The new value, and the plaintext that it and the old one stand for. Both are None if the value stays as it is."""

    stored: str | None
    plaintext: SecretString | None


UNCHANGED = Change(None, None)


class Changes(NamedTuple):
    """The new values of a column, at these places in it, and the plaintexts that they and the old ones stand for."""

    places: Sequence[int]
    stored: Sequence[str]
    plaintexts: Sequence[SecretString]


class NotAtOnceError(SealchemyError):
    """Some of the values need a closer look. It is never seen outside."""


class Conversion(NamedTuple):
    """What one kind of rewrite does to a value.

    `pending` selects, in SQL, the values that may have to change. `convert` returns the change of one value, None if
    it is to stay, and raises if it cannot be read. `convert_all` does the same for the values of a column that are to
    change, at once: it returns their places, their plaintexts and their new values. It raises if it does not take one
    of them, though `convert` may.
    """

    name: str
    pending: Callable[[Database, KeyRing, ColumnElement[str]], ColumnElement[bool]]
    convert: Callable[[Cipher, str], Change | None]
    convert_all: Callable[[Cipher, Values, Rows], Changes]


def _is_plaintext(stored: object) -> bool:
    # A value that is not even text is left to `decrypt`, which refuses it.
    return isinstance(stored, str) and not stored.startswith(envelope.PREFIX)


def _encrypt(cipher: Cipher, stored: str) -> Change | None:
    if _is_plaintext(stored):
        plaintext = _read(cipher, stored)
        return Change(cipher.encrypt(plaintext), plaintext)
    cipher.decrypt(stored)
    return None


def _read(cipher: Cipher, stored: str) -> SecretString:
    """Return the plaintext of an unencrypted value, in the one form that decrypting it gives."""
    if cipher.legacy_reader is not None:
        return _read_legacy(cipher, stored)
    _refuse_text_of_bytes(cipher, stored)
    if cipher.kind is not BYTES:
        return hide(stored)  # type: ignore[no-any-return] # text
    return BYTES.stored.decode(require_encodable(BYTES.stored, stored, cipher.context))  # type: ignore[no-any-return]


def _refuse_text_of_bytes(cipher: Cipher, text: str) -> None:
    if cipher.kind is TEXT and _STANDS_FOR_BYTES.fullmatch(text):
        raise EnvelopeFormatError(
            f"{cipher.context}: the text stands for bytes, and the column is not named as one of bytes: pass"
            " kinds={column: 'bytes'}; if it is text after all, encrypt it with a legacy_reader that returns it"
        )


def _read_legacy(cipher: Cipher, stored: str) -> SecretString:
    try:
        plaintext = hide_stored(cipher.legacy_reader(StoredPlaintext(stored)) if cipher.legacy_reader else stored)
        if isinstance(plaintext, bytes) and cipher.kind is BYTES:
            plaintext = BYTES.stored.decode(plaintext)
        problem = f"returned {type_name(hide(plaintext))}, not str" if not isinstance(plaintext, str) else None
    except Exception as error:  # noqa: BLE001 - whatever it is, it may hold the value
        problem = f"raised {type(error).__name__}"
    if problem is None:
        return plaintext  # type: ignore[no-any-return] # hidden text
    raise EnvelopeFormatError(f"{cipher.context}: the legacy reader {problem}; it must return the value's plaintext")


def _decrypt_only(cipher: Cipher, stored: str) -> SecretString:
    if _is_plaintext(stored):
        # Encrypting it in a rekey would authenticate a value that an attacker may have planted.
        raise PlaintextFoundError(
            f"{cipher.context}: this value is plaintext; if it belongs there, encrypt the column first"
        )
    return cipher.decrypt(stored)


def _rekey(cipher: Cipher, stored: str) -> Change | None:
    plaintext = _decrypt_only(cipher, stored)
    if stored.startswith(cipher.current):
        return None
    encrypt = cipher.encrypt if envelope.is_bound(stored) else cipher.encrypt_unbound  # in the form that it has
    return Change(encrypt(plaintext), plaintext)


def _bind(cipher: Cipher, stored: str) -> Change | None:
    plaintext = _decrypt_only(cipher, stored)
    return None if envelope.is_bound(stored) else Change(cipher.encrypt(plaintext), plaintext)


def _unbind(cipher: Cipher, stored: str) -> Change | None:
    plaintext = _decrypt_only(cipher, stored)
    return Change(cipher.encrypt_unbound(plaintext), plaintext) if envelope.is_bound(stored) else None


def _decrypt(cipher: Cipher, stored: str) -> Change | None:
    if _is_plaintext(stored):
        return None
    plaintext = cipher.decrypt(stored)
    _refuse_text_of_bytes(cipher, plaintext)
    return Change(StoredPlaintext(plaintext), plaintext)


def _verify(cipher: Cipher, stored: str) -> None:
    _decrypt_only(cipher, stored)


def _encrypt_all(cipher: Cipher, values: Values, rows: Rows) -> Changes:
    places = [place for place, value in enumerate(values) if type(value) is SecretString]
    plaintexts, data = _pick(values, rows, places)
    stands_for_bytes = cipher.kind is TEXT and any(map(_starts_as_bytes, plaintexts))
    if cipher.legacy_reader is not None or cipher.kind is BYTES or stands_for_bytes:
        raise NotAtOnceError
    return Changes(places, cipher.encrypt_all(plaintexts, data), plaintexts)


def _again(
    is_pending: Callable[[Cipher, str], bool], encrypt: Callable[[Cipher, Values], Callable[[Values, Rows], list[str]]]
) -> Callable[[Cipher, Values, Rows], Changes]:
    """Return the `convert_all` that decrypts values and encrypts them again."""

    def convert_all(cipher: Cipher, values: Values, rows: Rows) -> Changes:
        places = [place for place, value in enumerate(values) if value is not None and is_pending(cipher, value)]
        stored, data = _pick(values, rows, places)
        encrypt_all = encrypt(cipher, stored)
        plaintexts = cipher.decrypt_all(stored, data)
        return Changes(places, encrypt_all(plaintexts, data), plaintexts)

    return convert_all


def _in_the_same_form(cipher: Cipher, stored: Values) -> Callable[[Values, Rows], list[str]]:
    forms = {envelope.is_bound(value) for value in stored}
    if len(forms) > 1:
        raise NotAtOnceError
    return cipher.encrypt_all if forms == {True} else cipher.encrypt_all_unbound


def _one_by_one(_cipher: Cipher, _values: Values, _rows: Rows) -> Changes:
    raise NotAtOnceError


def _pick(values: Values, rows: Rows, places: Sequence[int]) -> tuple[Values, Rows]:
    if len(places) == len(values):
        return values, rows
    return [values[place] for place in places], rows and [rows[place] for place in places]


ENCRYPT = Conversion(
    "encrypt",
    pending=lambda database, _ring, stored: not_(database.matches(stored, ANY_ENCRYPTED_VALUE)),
    convert=_encrypt,
    convert_all=_encrypt_all,
)
REKEY = Conversion(
    "rekey",
    pending=lambda database, ring, stored: not_(database.matches(stored, f"{envelope.header(ring.primary.id)}?*")),
    convert=_rekey,
    convert_all=_again(lambda cipher, value: not value.startswith(cipher.current), _in_the_same_form),
)
DECRYPT = Conversion(
    "decrypt",
    pending=lambda database, _ring, stored: database.matches(stored, f"{envelope.PREFIX}*"),
    convert=_decrypt,
    convert_all=_one_by_one,
)
BIND = Conversion(
    "bind",
    pending=lambda database, _ring, stored: and_(
        database.matches(stored, ANY_ENCRYPTED_VALUE), not_(database.matches(stored, ANY_BOUND_VALUE))
    ),
    convert=_bind,
    convert_all=_again(lambda _, value: not envelope.is_bound(value), lambda cipher, _: cipher.encrypt_all),
)
UNBIND = Conversion(
    "unbind",
    pending=lambda database, _ring, stored: database.matches(stored, ANY_BOUND_VALUE),
    convert=_unbind,
    convert_all=_again(lambda _, value: envelope.is_bound(value), lambda cipher, _: cipher.encrypt_all_unbound),
)
VERIFY = Conversion(
    "verify", pending=lambda _database, _ring, _stored: false(), convert=_verify, convert_all=_one_by_one
)

CONVERSIONS = {item.name: item for item in (ENCRYPT, REKEY, DECRYPT, BIND, UNBIND, VERIFY)}
