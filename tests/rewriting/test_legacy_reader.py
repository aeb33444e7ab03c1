"""Encrypt values from another library with a legacy reader; test_documentation runs the guide for each library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from cryptography.fernet import Fernet
from sqlalchemy import text

from sealchemy import Key, KeyRing, RewriteError, UnsupportedOperationError
from sealchemy.rewrite import DECRYPT, ENCRYPT, REKEY, VERIFY, Options, rewrite
from tests.support.leaks import SENTINEL, assert_silent
from tests.support.tables import raw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
COLUMNS = {"access": "g.access", "refresh": "g.refresh"}
FERNET = Fernet(Fernet.generate_key())


def read(stored: str) -> str:
    return FERNET.decrypt(stored).decode()


@pytest.fixture
def engine(database_url: str, make_engine: Callable[..., Engine]) -> Engine:
    engine = make_engine(database_url, RING)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE grants (id INTEGER PRIMARY KEY, access TEXT, refresh TEXT)"))
        for number in range(1, 8):
            values = {"id": number, "access": write(f"access-{number}"), "refresh": None if number % 2 else write("")}
            connection.execute(text("INSERT INTO grants VALUES (:id, :access, :refresh)"), values)
    return engine


def write(plaintext: str) -> str:
    return FERNET.encrypt(plaintext.encode()).decode()


def update(engine: Engine, number: int, value: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE grants SET access = :value WHERE id = :id"), {"id": number, "value": value})


def plaintexts(engine: Engine) -> dict[int, list[str | None]]:
    contexts = COLUMNS.values()
    return {
        key: [stored and str(RING.decrypt(stored, context)) for stored, context in zip(row, contexts, strict=True)]
        for key, row in raw(engine).items()
    }


EXPECTED = {number: [f"access-{number}", None if number % 2 else ""] for number in range(1, 8)}


def test_every_legacy_value_is_encrypted(engine: Engine) -> None:
    assert rewrite(ENCRYPT, engine, "grants", COLUMNS, legacy_reader=read, options=Options(batch_size=3)).rewritten == 7
    assert plaintexts(engine) == EXPECTED
    again = rewrite(ENCRYPT, engine, "grants", COLUMNS, legacy_reader=read)
    assert again.rewritten == 0


def test_encrypted_values_are_not_passed_to_the_reader(engine: Engine) -> None:
    update(engine, 3, RING.encrypt("access-3", "g.access"))
    seen: list[str] = []

    def note(stored: str) -> str:
        seen.append(stored)
        return read(stored)

    rewrite(ENCRYPT, engine, "grants", COLUMNS, legacy_reader=note)
    assert plaintexts(engine) == EXPECTED
    assert not any(value.startswith("sealchemy:") for value in seen)


def returns_bytes(_stored: str) -> Any:
    return b"bytes"


def returns_none(_stored: str) -> Any:
    return None


def returns_a_surrogate(_stored: str) -> str:
    return "\ud800"


def returns_reserved_prefix(_stored: str) -> str:
    return "sealchemy:v1:mine"


class Masked(str):
    """A `str` whose `str()` differs from its content."""

    __slots__ = ()

    def __str__(self) -> str:
        return "***"


class Loud(str):
    """A `str` whose `str()` raises."""

    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError(self[:])


@pytest.mark.parametrize("class_", [Masked, Loud])
def test_str_subclass_is_encrypted_by_content_not_by_its_str_method(engine: Engine, class_: type[str]) -> None:
    rewrite(ENCRYPT, engine, "grants", COLUMNS, legacy_reader=lambda stored: class_(read(stored)))
    assert plaintexts(engine) == EXPECTED


def raises(stored: str) -> str:
    raise LookupError(stored)


@pytest.mark.parametrize("broken", [returns_bytes, returns_none, returns_a_surrogate, returns_reserved_prefix, raises])
def test_values_the_reader_fails_on_are_left_and_reported(engine: Engine, broken: Callable[[str], str]) -> None:
    update(engine, 5, SENTINEL)
    before = raw(engine)

    def reader(stored: str) -> str:
        return broken(stored) if stored == SENTINEL else read(stored)

    with pytest.raises(RewriteError) as caught:
        rewrite(ENCRYPT, engine, "grants", COLUMNS, legacy_reader=reader)
    assert [failure.key for failure in caught.value.report.failures] == [(5,)]
    assert raw(engine)[5] == before[5]
    assert_silent(caught.value, SENTINEL)
    update(engine, 5, write("access-5"))
    rewrite(ENCRYPT, engine, "grants", COLUMNS, legacy_reader=read)
    assert plaintexts(engine) == EXPECTED


def test_encrypt_columns_accepts_a_legacy_reader(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        operations: Any = Operations(context)
        with context.begin_transaction():
            operations.encrypt_columns("grants", COLUMNS, legacy_reader=read)
    assert plaintexts(engine) == EXPECTED


@pytest.mark.parametrize("operation", [DECRYPT, REKEY, VERIFY], ids=lambda operation: operation.name)
def test_other_operations_refuse_a_legacy_reader(engine: Engine, operation: Any) -> None:
    with pytest.raises(UnsupportedOperationError, match="legacy reader is for ENCRYPT"):
        rewrite(operation, engine, "grants", COLUMNS, legacy_reader=read)


def test_bytes_in_a_text_column_do_not_show_in_frames(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE grants (id INTEGER PRIMARY KEY, access TEXT, refresh TEXT)"))
        connection.execute(
            text("INSERT INTO grants (access) VALUES ('x'), (CAST(:bytes AS BLOB))"), {"bytes": SENTINEL}
        )

    def interrupt(_stored: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        rewrite(ENCRYPT, engine, "grants", COLUMNS, legacy_reader=interrupt)
    assert_silent(caught.value, SENTINEL)
    with pytest.raises(RewriteError, match="the driver returned bytes, not text") as failed:
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert_silent(failed.value, SENTINEL)
