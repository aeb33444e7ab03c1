"""Which rollout stage an operation needs, and the keys; checked before a table is opened."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, Engine

from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.rollout import Rollout
from sealchemy._values.key_ring import KeyRing
from sealchemy.errors import ColumnDefinitionError, UnsupportedOperationError

from .conversions import BIND, ENCRYPT, UNBIND, Conversion


def require_keys(conversion: Conversion, bind: Engine | Connection, columns: Mapping[str, str]) -> KeyRing:
    """Return the key ring, or raise an error that does not depend on the table."""
    keys = engine_keys(bind.dialect)
    for context in columns.values():
        keys.require_ring(context)
        if conversion in {ENCRYPT, BIND} and keys.stage(context) is Rollout.PREPARE:
            raise UnsupportedOperationError(
                f"{context}: its rollout stage is prepare, in which processes write plaintext and some may not read"
                " ciphertext yet; deploy stage migrate everywhere first"
            )
        if conversion is UNBIND and keys.stage(context) in {Rollout.STRICT, Rollout.BIND_MIGRATE}:
            raise UnsupportedOperationError(
                f"{context}: its rollout stage is {keys.stage(context)}, in which processes write bound values, or"
                " cannot read others. Bring every process to stage bind_prepare first, from strict by way of"
                " bind_migrate, and this one too: set <prefix>_ROLLOUT (INTEGRATION_TOKEN_ENCRYPTION_ROLLOUT for the"
                " ready-made table). To downgrade to plaintext in one go, with the application stopped, set it to"
                " migrate, and pass -x allow-plaintext=yes to alembic"
            )
    if not columns:
        raise UnsupportedOperationError("no column is named; give a mapping of column names to contexts")
    return keys.require_ring("this table")


def spread(columns: Mapping[str, str], bind_to: Mapping[str, Sequence[str]] | Sequence[str]) -> dict[str, list[str]]:
    """Return the names that the values of each column are bound to; a sequence is meant for all columns.

    Raises:
        ColumnDefinitionError: it is something else.
    """
    if isinstance(bind_to, Sequence) and not isinstance(bind_to, str):
        bind_to = dict.fromkeys(columns, bind_to) if bind_to else {}
    if not isinstance(bind_to, Mapping) or any(isinstance(names, str) for names in bind_to.values()):
        raise ColumnDefinitionError("bind_to takes a tuple of column names, or a mapping of columns to such tuples")
    if unknown := bind_to.keys() - columns.keys():
        raise ColumnDefinitionError(f"bind_to has {', '.join(sorted(unknown))}, which are not among the columns")
    return {name: list(names) for name, names in bind_to.items()}


def require_binding(conversion: Conversion, bind_to: Mapping[str, Sequence[str]], columns: Iterable[str]) -> None:
    """Raise `UnsupportedOperationError` if a conversion needs rows to bind values to, and has none."""
    missing = [name for name in columns if not bind_to.get(name)]
    if missing and conversion in {BIND, UNBIND}:
        raise UnsupportedOperationError(
            f"{conversion.name}: {', '.join(missing)}: nothing says which columns the values are bound to; pass"
            " bind_to, with the names of these columns in the order of the models"
        )


def refuse_legacy_reader(conversion: Conversion, legacy_reader: object, jobs: int = 1) -> None:
    """Raise `UnsupportedOperationError` for a reader that would be ignored, or that other processes need."""
    if legacy_reader is not None and jobs > 1:
        raise UnsupportedOperationError(
            "a legacy reader cannot be given to other processes; leave jobs out, or start several processes of your own"
            " with a range each (Options.range)"
        )
    if legacy_reader is not None and conversion is not ENCRYPT:
        raise UnsupportedOperationError(
            f"a legacy reader is for ENCRYPT, and does nothing in {conversion.name}; leave it out"
        )


def require_strict(bind: Engine | Connection, columns: Mapping[str, str], *, bound: bool = False) -> None:
    """Raise `UnsupportedOperationError` unless the rollout stage of every context is STRICT.

    With `bound`, that is so that no process writes values that are not bound; without it, the stages that bind do as
    well, since no process writes plaintext in them.
    """
    keys = engine_keys(bind.dialect)
    for context in columns.values():
        keys.require_ring(context)
        stage, what = keys.stage(context), "unbound values" if bound else "plaintext"
        if stage is not Rollout.STRICT and (bound or stage in {Rollout.PREPARE, Rollout.MIGRATE}):
            raise UnsupportedOperationError(
                f"{context}: its rollout stage is {stage}; the database may only refuse {what} once no process writes"
                " any, which is stage strict everywhere"
            )
