"""Scrubbing, on databases that support it and on those that do not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text

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
