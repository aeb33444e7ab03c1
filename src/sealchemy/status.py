"""How many values of a column are plaintext, how many are under which key, and whether this process can read them."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import Connection, Engine, MetaData
from sqlalchemy.orm import Session

from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.rollout import Rollout
from sealchemy._databases.access import open_table
from sealchemy._databases.table import TableColumns
from sealchemy._inspection.preflight import sample_problems, settings_problems, unknown_keys
from sealchemy._rewriting.blind_index import checking
from sealchemy._rewriting.column_states import ColumnStatus, count_states
from sealchemy._rewriting.declared import declared_indexes, declared_tables
from sealchemy._values.envelope import PREFIX
from sealchemy._values.environment import KeyIds
from sealchemy.errors import (
    DecryptionError,
    EnvelopeFormatError,
    PlaintextFoundError,
    SealchemyError,
    UnsupportedOperationError,
    UnsupportedVersionError,
)

if TYPE_CHECKING:
    # These need greenlet, which not every application has.
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

__all__ = [
    "ColumnStatus",
    "KeyIds",
    "check_encryption",
    "column_status",
    "declared_status",
    "find_problems",
    "key_ids",
]


def column_status(
    bind: Engine | Connection, table: str, columns: Mapping[str, str], *, schema: str | None = None
) -> list[ColumnStatus]:
    """Count the values of columns by state, in SQL and by their start: needs no key, and decrypts nothing.

    The database reads every row once.

    Args:
        bind: an engine or a connection.
        table: the table's name.
        columns: the context of each column, by column name.
        schema: the table's schema, if it is not the default one.

    Raises:
        ColumnDefinitionError: the table or a column does not exist, or is not text.
    """
    return _count(bind, TableColumns(table, columns, schema, kinds=None))


def declared_status(bind: Engine | Connection, metadata: MetaData) -> list[ColumnStatus]:
    """Return the status of every encrypted column that models declare; raises as `column_status` does."""
    return [status for table in declared_tables(metadata) for status in _count(bind, table)]


def find_problems(bind: Engine | Connection, metadata: MetaData) -> Iterator[SealchemyError]:
    """Yield what would keep this process from reading, or writing, the encrypted columns that models declare."""
    keys = engine_keys(bind.dialect)
    key_ring = keys.require_ring("every encrypted column")
    for table in declared_tables(metadata):
        with open_table(bind, table, any_key=True) as access:
            yield from settings_problems(access, keys)
            found = count_states(access)
            yield from unknown_keys(found, key_ring)
            for status in found:
                yield from _value_problems(status, keys.stage(status.context))
            yield from sample_problems(key_ring, found)
    yield from _index_problems(bind, metadata)


def _index_problems(bind: Engine | Connection, metadata: MetaData) -> Iterator[SealchemyError]:
    keys = engine_keys(bind.dialect)
    for item in declared_indexes(metadata):
        try:
            keys.digester(item.type_.context)
        except SealchemyError as error:
            yield error
            continue
        if keys.stage(item.type_.context) is not Rollout.STRICT:
            continue
        with open_table(bind, item.wanted(), any_key=True) as access:
            if problem := checking.find_problem(access, item):
                yield UnsupportedOperationError(problem)


def _value_problems(status: ColumnStatus, stage: Rollout) -> Iterator[SealchemyError]:
    name = f"{status.table}.{status.column}"
    if status.plaintext and stage not in {Rollout.PREPARE, Rollout.MIGRATE}:
        yield PlaintextFoundError(
            f"{name}: {status.plaintext} values are plaintext, and its rollout stage is {stage}, in which they cannot"
            " be read; go back to stage migrate, and encrypt them there once you know who wrote them (or to stage"
            " prepare, while a release without sealchemy still runs)"
        )
    if status.bind_to and status.unbound and stage is Rollout.STRICT:
        yield DecryptionError(
            f"{name}: {status.unbound} values are not bound to their row, and its rollout stage is strict, in which"
            " they cannot be read; go back to stage bind_migrate, and run `sealchemy bind` there",
            context=status.context,
        )
    if status.bound and not status.bind_to:
        yield UnsupportedVersionError(
            f"{name}: {status.bound} values are bound to their row, and the column is not declared with bind_to"
        )
    if status.unknown:
        yield EnvelopeFormatError(
            f"{name}: {status.unknown} values start with {PREFIX!r} and are damaged, or of a later version;"
            " `sealchemy verify` names them"
        )


@overload
def check_encryption(bind: Engine | Connection | Session, metadata: MetaData) -> None: ...
@overload
def check_encryption(bind: AsyncEngine | AsyncConnection | AsyncSession, metadata: MetaData) -> Awaitable[None]: ...
def check_encryption(bind: Any, metadata: MetaData) -> Awaitable[None] | None:
    """Raise if this process could not read, or write, the encrypted columns; for the start of an application.

    It counts values by their start, for which the database reads every row once, and decrypts one value of each column
    and key. For an async engine, connection or session, it returns what has to be awaited.

    Args:
        bind: an engine with a key ring, or a connection or session of one.
        metadata: of the models, such as `Base.metadata`.

    Raises:
        KeyRingNotAttachedError: there is no key ring.
        UnknownKeyError: values are under a key that is not in the ring.
        PlaintextFoundError: there is plaintext in a column whose rollout stage is strict.
        EnvelopeFormatError: values are damaged, or of a later version.
        UnsupportedVersionError: values are bound to their row, and the column is not declared with `bind_to`.
        DecryptionError: a sampled value does not authenticate: another context, other columns in `bind_to`, or other
            key bytes; or in stage strict, values are not bound to their row.
        UnsupportedOperationError: in stage migrate or strict, a column is too narrow for ciphertext, or the server
            would cut values silently; the database refuses what is written in this stage; or a column to which
            values are bound treats different texts as equal; or in stage strict, a blind index lacks digests, or has
            a wrong one.
        MissingKeyError: there is a blind index, and no index key.
        ColumnDefinitionError: a table or a column does not exist.
    """
    if hasattr(bind, "run_sync"):
        return bind.run_sync(check_encryption, metadata)  # type: ignore[no-any-return]
    if hasattr(bind, "sync_engine"):
        return _check_async(bind, metadata)
    if hasattr(bind, "registry"):  # a scoped_session
        bind = bind()
        return check_encryption(bind, metadata)  # type: ignore[no-any-return]
    if isinstance(bind, Session):
        names = {(item.name, item.schema) for item in declared_tables(metadata)}
        tables = [item for item in metadata.sorted_tables if (item.name, item.schema) in names]
        if len({bind.get_bind(clause=table) for table in tables}) > 1:
            raise UnsupportedOperationError(
                "check_encryption: the tables are bound to several databases; pass the engine of each, with the"
                " MetaData of the tables in it"
            )
        bind = bind.connection(bind_arguments={"clause": tables[0]})
    for problem in find_problems(bind, metadata):
        raise problem
    return None


async def _check_async(engine: AsyncEngine, metadata: MetaData) -> None:
    async with engine.connect() as connection:
        await connection.run_sync(check_encryption, metadata)


def key_ids(bind: Engine | AsyncEngine | Connection) -> KeyIds:
    """Return the ids of the keys that are attached to an engine; for a health check, to compare those of all processes.

    Raises:
        KeyRingNotAttachedError: there is no key ring.
    """
    dialect = getattr(bind, "sync_engine", bind).dialect
    return engine_keys(dialect).require_ring("every encrypted column").ids


def _count(bind: Engine | Connection, wanted: TableColumns) -> list[ColumnStatus]:
    with open_table(bind, wanted, any_key=True) as access:
        return count_states(access)
