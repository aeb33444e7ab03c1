"""Rewrite two million rows, and large ones: memory does not grow with either, and the rate does not drop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Text, text
from sqlalchemy.dialects.mysql import LONGTEXT

from sealchemy import Key, KeyRing
from sealchemy.rewrite import VERIFY, rewrite
from tests.support import processes
from tests.support.tables import COLUMNS, grants, raw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

ROWS = 2_000_000


def measure(url: str, key: Key) -> dict[str, float]:
    """Encrypt the table in another process, and return what it measured."""
    process = processes.start("measured", url=url, keys=[key.reveal()], columns=COLUMNS)
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.soak
def test_memory_and_rate_stay_constant_over_two_million_rows(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    key = Key.generate()
    engine = make_engine(postgresql_url, KeyRing(primary=key))
    grants(engine, 0)
    with engine.begin() as connection:
        rows = f"SELECT i, 'access-' || i, 'refresh-' || i FROM generate_series(1, {ROWS}) AS i"
        connection.execute(text(f"INSERT INTO grants (id, access, refresh) {rows}"))
    told = measure(postgresql_url, key)
    assert told["rewritten"] == ROWS
    assert told["peak"] - told["start"] < 64 * 1024, told  # kilobytes
    assert told["last_rate"] > 0.8 * told["first_rate"], told


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_large_values_are_rewritten_a_few_at_a_time(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, make_engine: Callable[..., Engine]
) -> None:
    key, rows, size = Key.generate(), 40, 1_000_000
    url = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    ring = KeyRing(primary=key)
    engine = make_engine(url, ring)
    before = grants(engine, rows, type_=Text().with_variant(LONGTEXT(), "mariadb", "mysql"))
    large = {number: "x" * size + str(number) for number in range(5, rows, 2)}
    with engine.begin() as connection:
        for number, value in large.items():
            connection.execute(text("UPDATE grants SET access = :v WHERE id = :id"), {"v": value, "id": number})
    told = measure(url, key)
    assert told["rewritten"] == rows
    assert told["peak"] < 250 * 1024, told
    decrypt = ring.decryptor(COLUMNS["access"])
    for number, (access, _refresh) in raw(engine).items():
        assert access is None or decrypt(access) == large.get(number, before[number][0])
    assert rewrite(VERIFY, engine, "grants", COLUMNS).failed == 0


@pytest.mark.soak
@pytest.mark.parametrize("rows", [300, 850])
def test_many_large_values_fit_into_memory(rows: int, postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    key = Key.generate()
    engine = make_engine(postgresql_url, KeyRing(primary=key))
    grants(engine, 0)
    with engine.begin() as connection:
        values = f"SELECT i, repeat(md5(i::text), 32768), NULL FROM generate_series(1, {rows}) AS i"
        connection.execute(text(f"INSERT INTO grants (id, access, refresh) {values}"))
    told = measure(postgresql_url, key)
    assert told["rewritten"] == rows
    assert told["peak"] < 250 * 1024, told
