"""Scrubbing, on databases that support it and on those that do not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, make_url, text

from sealchemy import ColumnDefinitionError, UnsupportedOperationError
from sealchemy.scrub import describe_scrub, scrub


def make_table(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE grants (id INTEGER NOT NULL PRIMARY KEY, access TEXT)"))


def test_scrub_is_refused_on_mariadb_before_anything_is_asked(
    mariadb_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(mariadb_url)
    make_table(engine)
    for call in (scrub, describe_scrub):
        with pytest.raises(UnsupportedOperationError, match="supports PostgreSQL and SQLite only") as caught:
            call(engine, "grants")
        assert "VACUUM" not in str(caught.value)


def test_the_command_says_nothing_of_vacuum_on_mariadb_and_does_not_ask(mariadb_url: str) -> None:
    program = "import sys; sys.stdin.isatty = lambda: True; from sealchemy.cli import main; main()"
    command = [sys.executable, "-c", program, "scrub", "--url", mariadb_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, input="")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sealchemy: scrub supports PostgreSQL and SQLite only")


def test_a_table_that_does_not_exist_cannot_be_scrubbed(engine: Engine) -> None:
    with pytest.raises(ColumnDefinitionError, match="there is no such table"):
        scrub(engine, "nothing")


def test_scrub_names_the_places_that_it_cannot_reach(engine: Engine) -> None:
    make_table(engine)
    assert any("backups" in sentence for sentence in scrub(engine, "grants"))


def test_a_transaction_that_writes_in_another_database_keeps_old_rows(
    postgresql_server: str, postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine, other = (
        make_engine(postgresql_url),
        create_engine(make_url(postgresql_server).set(drivername="postgresql+psycopg")),
    )
    make_table(engine)

    def is_on_disk() -> bool:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CHECKPOINT"))
            query = "SELECT pg_read_binary_file(pg_relation_filepath('grants'))"
            return b"SENTINEL" in bytes(connection.execute(text(query)).scalar_one())

    with engine.begin() as connection:
        connection.execute(text("INSERT INTO grants VALUES (1, 'SENTINEL')"))
    with other.connect() as writing:
        writing.execute(text("SELECT pg_current_xact_id()"))
        with engine.begin() as connection:
            connection.execute(text("UPDATE grants SET access = 'x'"))
        with pytest.raises(UnsupportedOperationError, match="plaintext may remain"):
            scrub(engine, "grants", lock_timeout=0.3)
        assert is_on_disk()
    other.dispose()
    scrub(engine, "grants", lock_timeout=60)
    assert not is_on_disk()


def test_a_table_of_an_attached_database_is_scrubbed_in_its_file(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'main.db'}")
    file = tmp_path / "other.db"

    @event.listens_for(engine, "connect")
    def attach(connection: Any, _record: object) -> None:
        connection.execute("ATTACH DATABASE ? AS other", (str(file),))
        connection.execute("PRAGMA other.secure_delete = OFF")

    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE other.grants (id INTEGER PRIMARY KEY, access TEXT)"))
        connection.execute(text("INSERT INTO other.grants VALUES (1, :token)"), {"token": "SENTINEL" * 50})
    with engine.begin() as connection:
        connection.execute(text("UPDATE other.grants SET access = 'x'"))
    assert b"SENTINEL" in file.read_bytes()
    scrub(engine, "grants", schema="other")
    assert b"SENTINEL" not in file.read_bytes()
    engine.dispose()
