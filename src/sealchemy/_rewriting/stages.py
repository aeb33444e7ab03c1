"""Which rollout stage an operation needs, and the keys; checked before a table is opened."""

from collections.abc import Mapping

from sqlalchemy import Connection, Engine

from sealchemy._column.engine_keys import Rollout, engine_keys
from sealchemy._values.key_ring import KeyRing
from sealchemy.errors import UnsupportedOperationError

from .conversions import ENCRYPT, Conversion


def require_keys(conversion: Conversion, bind: Engine | Connection, columns: Mapping[str, str]) -> KeyRing:
    """Return the key ring, or raise an error that does not depend on the table."""
    keys = engine_keys(bind.dialect)
    for context in columns.values():
        keys.require_ring(context)
        if conversion is ENCRYPT and keys.stage(context) is Rollout.PREPARE:
            raise UnsupportedOperationError(
                f"{context}: its rollout stage is prepare, in which processes write plaintext and some may not read"
                " ciphertext yet; deploy stage migrate everywhere first"
            )
    if not columns:
        raise UnsupportedOperationError("no column is named; give a mapping of column names to contexts")
    return keys.require_ring("this table")


def refuse_legacy_reader(conversion: Conversion, legacy_reader: object) -> None:
    """Raise `UnsupportedOperationError` for a reader that would be ignored."""
    if legacy_reader is not None and conversion is not ENCRYPT:
        raise UnsupportedOperationError(
            f"a legacy reader is for ENCRYPT, and does nothing in {conversion.name}; leave it out"
        )


def require_strict(bind: Engine | Connection, columns: Mapping[str, str]) -> None:
    """Raise `UnsupportedOperationError` unless the rollout stage of every context is STRICT."""
    keys = engine_keys(bind.dialect)
    for context in columns.values():
        keys.require_ring(context)
        if keys.stage(context) is not Rollout.STRICT:
            raise UnsupportedOperationError(
                f"{context}: its rollout stage is {keys.stage(context).value}; the database may only refuse plaintext"
                " once no process writes any, which is stage strict everywhere"
            )
