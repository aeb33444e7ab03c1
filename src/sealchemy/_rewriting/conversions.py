"""`Conversion`: what a rewrite does to one value: encrypt, rekey, decrypt or only verify it."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, and_, false, not_

from sealchemy._column.engine_keys import refuse_unbound
from sealchemy._databases.base import ANY_BOUND_VALUE, ANY_ENCRYPTED_VALUE, Database
from sealchemy._values import envelope, rows
from sealchemy._values.codecs import BYTES, JSON, TEXT, Plaintext, require_encodable
from sealchemy._values.key_ring import KeyRing, decryptor, encryptor
from sealchemy._values.secret import SecretString, StoredPlaintext, hide, hide_stored, type_name
from sealchemy.errors import EnvelopeFormatError, PlaintextFoundError

_STANDS_FOR_BYTES = re.compile(r"\\x(?:[0-9A-Fa-f]{2})*")


class Cipher(NamedTuple):
    """The functions of a key ring for one column, and the reader for values of another library.

    `encrypt` binds a value to its row if the column is declared so, and `decrypt` takes both forms; `enter` tells these
    two the row.
    """

    context: str
    kind: Plaintext
    encrypt: Callable[[str], str]
    encrypt_unbound: Callable[[str], str]
    decrypt: Callable[[str], SecretString]
    is_current: Callable[[str], bool]
    legacy_reader: Callable[[str], str | bytes] | None
    row: list[bytes]

    @classmethod
    def of(
        cls,
        key_ring: KeyRing,
        context: str,
        kind: Plaintext,
        legacy_reader: Callable[[str], str | bytes] | None,
        *,
        is_bound: bool,
        accepts_unbound: bool,
    ) -> Self:
        """Return the functions of a ring for one column; plaintext is the text that an unencrypted column has."""
        encrypt, decrypt = encryptor(key_ring, context, kind.stored), decryptor(key_ring, context, kind.stored)
        write, read, row = encrypt, decrypt, [b""]
        if is_bound:
            encrypt_bound = rows.encryptor(key_ring, context, kind.stored)
            on_unbound = decrypt if accepts_unbound else partial(refuse_unbound, context, decrypt)
            decrypt_bound = rows.decryptor(key_ring, context, kind.stored, on_unbound)
            write, read = lambda value: encrypt_bound(value, row[0]), lambda stored: decrypt_bound(stored, row[0])
        return cls(context, kind, write, encrypt, read, key_ring.is_current, legacy_reader, row)

    def enter(self, parts: Sequence[Any]) -> None:
        """Let `encrypt` and `decrypt` work on a value of the row with these parts.

        Raises:
            EnvelopeFormatError: a part of the row is NULL or no text, or has a newline.
        """
        problem = any(part is None or "\n" in part for part in parts)
        try:
            self.row[0] = b"" if problem else rows.associated_data(parts)
        except UnicodeEncodeError:
            problem = True
        if problem:
            raise EnvelopeFormatError(
                f"{self.context}: a column that its values are bound to is NULL, or has a newline or what is not UTF-8"
            )

    def is_same_json(self, stored: str | None, plaintext: str) -> bool:
        """Return whether two texts are one JSON value: in a column of type JSON, SQLite makes 1 of 1.0."""
        if self.kind is not JSON or stored is None:
            return False
        read = self.kind.value.decode
        return bool(read(stored.encode()) == read(plaintext.encode()))


class Change(NamedTuple):
    """The new value, and the plaintext that it and the old one stand for. Both are None if the value stays as it is."""

    stored: str | None
    plaintext: SecretString | None


UNCHANGED = Change(None, None)


class Conversion(NamedTuple):
    """What one kind of rewrite does to a value.

    `pending` selects, in SQL, the values that may have to change. `convert` returns the change of one value, None if
    it is to stay, and raises if it cannot be read.
    """

    name: str
    pending: Callable[[Database, KeyRing, ColumnElement[str]], ColumnElement[bool]]
    convert: Callable[[Cipher, str], Change | None]


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
    if cipher.is_current(stored):
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


ENCRYPT = Conversion(
    "encrypt",
    pending=lambda database, _ring, stored: not_(database.matches(stored, ANY_ENCRYPTED_VALUE)),
    convert=_encrypt,
)
REKEY = Conversion(
    "rekey",
    pending=lambda database, ring, stored: not_(database.matches(stored, f"{envelope.header(ring.primary.id)}?*")),
    convert=_rekey,
)
DECRYPT = Conversion(
    "decrypt",
    pending=lambda database, _ring, stored: database.matches(stored, f"{envelope.PREFIX}*"),
    convert=_decrypt,
)
BIND = Conversion(
    "bind",
    pending=lambda database, _ring, stored: and_(
        database.matches(stored, ANY_ENCRYPTED_VALUE), not_(database.matches(stored, ANY_BOUND_VALUE))
    ),
    convert=_bind,
)
UNBIND = Conversion(
    "unbind", pending=lambda database, _ring, stored: database.matches(stored, ANY_BOUND_VALUE), convert=_unbind
)
VERIFY = Conversion("verify", pending=lambda _database, _ring, _stored: false(), convert=_verify)
