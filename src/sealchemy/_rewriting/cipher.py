"""`Cipher`: what encrypts and decrypts the values of one column in a rewrite."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self, TypeAlias

from sealchemy._column.engine_keys import refuse_unbound
from sealchemy._values import envelope, rows
from sealchemy._values.codecs import JSON, Plaintext
from sealchemy._values.key_ring import KeyRing, batch_decryptor, batch_encryptor, decryptor, encryptor
from sealchemy._values.secret import SecretString
from sealchemy.errors import EnvelopeFormatError

Values: TypeAlias = Sequence[Any]
Rows: TypeAlias = Sequence[bytes] | None
LegacyReader: TypeAlias = Callable[[str], str | bytes]


class Cipher(NamedTuple):
    """The functions of a key ring for one column, and the reader for values of another library.

    `encrypt` binds a value to its row if the column is declared so, and `decrypt` takes both forms; `enter` tells these
    two the row. The functions for many values take the associated data of their rows beside them, which is None where
    the column is not declared so; they raise for the first value that they do not take.
    """

    context: str
    kind: Plaintext
    encrypt: Callable[[str], str]
    encrypt_unbound: Callable[[str], str]
    decrypt: Callable[[str], SecretString]
    current: str
    legacy_reader: LegacyReader | None
    row: list[bytes]
    encrypt_all: Callable[[Values, Rows], list[str]]
    encrypt_all_unbound: Callable[[Values, Rows], list[str]]
    decrypt_all: Callable[[Values, Rows], list[Any]]

    @classmethod
    def of(
        cls,
        key_ring: KeyRing,
        context: str,
        kind: Plaintext,
        legacy_reader: LegacyReader | None,
        *,
        is_bound: bool,
        accepts_unbound: bool,
    ) -> Self:
        """Return the functions of a ring for one column; plaintext is the text that an unencrypted column has."""
        encrypt, decrypt = encryptor(key_ring, context, kind.stored), decryptor(key_ring, context, kind.stored)
        write, read, row = encrypt, decrypt, [b""]
        write_all = write_all_unbound = batch_encryptor(key_ring, context, kind.stored)
        decrypt_one: Callable[..., SecretString] = decrypt
        if is_bound:
            encrypt_bound = rows.encryptor(key_ring, context, kind.stored)
            on_unbound = decrypt if accepts_unbound else partial(refuse_unbound, context, decrypt)
            decrypt_bound = rows.decryptor(key_ring, context, kind.stored, on_unbound)
            write, read = lambda value: encrypt_bound(value, row[0]), lambda stored: decrypt_bound(stored, row[0])
            write_all = rows.batch_encryptor(key_ring, context, kind.stored)
            decrypt_one = decrypt_bound
        return cls(
            context,
            kind,
            write,
            encrypt,
            read,
            envelope.header(key_ring.primary.id),
            legacy_reader,
            row,
            write_all,
            write_all_unbound,
            batch_decryptor(key_ring, context, kind.stored, decrypt_one, bound=is_bound),
        )

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
