"""Rewrite two million rows: memory does not grow with the table, and the rate does not drop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from sealchemy import Key, KeyRing
from tests.support import processes
from tests.support.tables import COLUMNS, grants

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

ROWS = 2_000_000


@pytest.mark.slow
def test_memory_and_rate_stay_constant_over_two_million_rows(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    key = Key.generate()
    engine = make_engine(postgresql_url, KeyRing(primary=key))
    grants(engine, 0)
    with engine.begin() as connection:
        rows = f"SELECT i, 'access-' || i, 'refresh-' || i FROM generate_series(1, {ROWS}) AS i"
        connection.execute(text(f"INSERT INTO grants (id, access, refresh) {rows}"))
    process = processes.start("measured", url=postgresql_url, keys=[key.reveal()], columns=COLUMNS)
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    told = json.loads(out)
    assert told["rewritten"] == ROWS
    assert told["peak"] - told["start"] < 64 * 1024, told  # kilobytes
    assert told["last_rate"] > 0.8 * told["first_rate"], told
