"""The alternatives, each used as its documentation says."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

import sqlalchemy_encrypted_field
from advanced_alchemy.types import EncryptedText as AdvancedAlchemyText
from cryptography.fernet import Fernet
from sqlalchemy import LargeBinary, String, Text, Unicode, func, literal_column, type_coerce
from sqlalchemy.types import TypeDecorator
from sqlalchemy_encrypted_field import EncryptedText as EncryptedFieldText
from sqlalchemy_utils import StringEncryptedType
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine, FernetEngine

from sealchemy import EncryptedString

from .floor import FloorType

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = base64.urlsafe_b64encode(os.urandom(32)).decode()
OURS, PLAIN, FLOOR = "sealchemy", "sqlalchemy.Text", "inline floor"


class BareFernet(TypeDecorator[str]):
    """The Fernet type that many applications write themselves."""

    impl = Text
    cache_ok = True
    fernet = Fernet(Fernet.generate_key())

    def process_bind_param(self, value: str | None, _dialect: Any) -> str | None:
        """Encrypt."""
        return None if value is None else self.fernet.encrypt(value.encode()).decode()

    def process_result_value(self, value: str | None, _dialect: Any) -> str | None:
        """Decrypt."""
        return None if value is None else self.fernet.decrypt(value.encode()).decode()


class PgCrypto(TypeDecorator[str]):
    """pgcrypto with its defaults, as SQLAlchemy's documentation shows it."""

    impl = LargeBinary
    cache_ok = True

    def bind_expression(self, bindparam: Any) -> Any:
        """Encrypt in the database."""
        return func.pgp_sym_encrypt(type_coerce(bindparam, String), literal_column(f"'{KEY}'"))

    def column_expression(self, column: Any) -> Any:
        """Decrypt in the database."""
        return func.pgp_sym_decrypt(column, literal_column(f"'{KEY}'"), type_=String)


def types(*, postgresql: bool) -> dict[str, Callable[[str], Any]]:
    """Return factories of column types, by the name of the library or engine."""
    sqlalchemy_encrypted_field.configure(base64.b64encode(os.urandom(32)).decode())
    found: dict[str, Callable[[str], Any]] = {
        PLAIN: lambda _name: Text(),
        FLOOR: lambda _name: FloorType(),
        OURS: lambda name: EncryptedString(f"bench.{name}"),
        "sqlalchemy-utils, AesEngine": lambda _name: StringEncryptedType(Unicode, KEY, AesEngine, "pkcs5"),
        "sqlalchemy-utils, AesGcmEngine": lambda _name: StringEncryptedType(Unicode, KEY, AesGcmEngine),
        "sqlalchemy-utils, FernetEngine": lambda _name: StringEncryptedType(Unicode, KEY, FernetEngine),
        "advanced-alchemy, Fernet": lambda _name: AdvancedAlchemyText(key=KEY),
        "Fernet in a TypeDecorator": lambda _name: BareFernet(),
        "sqlalchemy-encrypted-field": lambda _name: EncryptedFieldText(),
    }
    if postgresql:
        found["pgcrypto, pgp_sym_encrypt"] = lambda _name: PgCrypto()
    return found


TARGETS: dict[str, float | None] = {
    "sqlalchemy-utils, AesEngine": 6.0,
    "sqlalchemy-utils, AesGcmEngine": 6.0,
    "sqlalchemy-utils, FernetEngine": 6.0,
    "advanced-alchemy, Fernet": 5.0,
    "Fernet in a TypeDecorator": 5.0,
    "sqlalchemy-encrypted-field": None,  # not even the floor would reach what the others are compared by
    "pgcrypto, pgp_sym_encrypt": 50.0,
}
"""Lower bound for the time that a 200-character value adds to a Core SELECT, as a multiple of sealchemy's."""

AT_2500 = 5.0
"""The same at 2 500 characters on SQLite, for each one that encrypts in Python and has a target.

On PostgreSQL, the longer text costs the driver more than the encryption costs sealchemy.
"""
