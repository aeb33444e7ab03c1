"""A walk over rows that come, go and move, also to other partitions, ends with nothing lost and nothing left."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from sealchemy import Key, KeyRing, RewriteError, Rollout
from sealchemy.rewrite import ENCRYPT, VERIFY, Options, rewrite
from tests.support import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

KEY = Key.generate()
RING = KeyRing(primary=KEY)
ENCRYPT_TOKEN = RING.encryptor("t.token")
ROWS, WRITERS = 4000, 4
RANGE = 10 * ROWS


def fill(engine: Engine, kind: str, count: int = ROWS) -> dict[int, str]:
    """Make the table, partitioned on PostgreSQL, and return its tokens by the number that a row keeps."""
    partitioned = " PARTITION BY LIST (region)" if kind == "postgresql" else ""
    long = "MEDIUMTEXT" if kind == "mariadb" else "TEXT"
    with engine.begin() as connection:
        connection.execute(
            text(f"CREATE TABLE t (region int, id int, uid int, token {long}, PRIMARY KEY (region, id)){partitioned}")
        )
        if partitioned:
            for region in range(4):
                connection.execute(text(f"CREATE TABLE t{region} PARTITION OF t FOR VALUES IN ({region})"))
        connection.execute(text("CREATE INDEX by_uid ON t (uid)"))
        rows = [
            {"r": uid % 4, "id": number, "uid": uid, "t": f"token-SENTINEL-{uid}"}
            for uid, number in enumerate(random.sample(range(RANGE), count))
        ]
        connection.execute(text("INSERT INTO t VALUES (:r, :id, :uid, :t)"), rows)
    return {row["uid"]: row["t"] for row in rows}


def disturb(url: str, number: int, ending: threading.Event) -> dict[int, str]:
    """Insert, change and move rows of one's own until told to end; return the last token of each that was written."""
    engine, written, new = create_engine(url), {}, 1_000_000 * (number + 1)
    statements = (
        "INSERT INTO t VALUES (:r, :id, :uid, :t)",
        "UPDATE t SET token = :t WHERE uid = :uid",
        "UPDATE t SET id = :id WHERE uid = :uid",
        "UPDATE t SET region = :r, id = :id WHERE uid = :uid",
    )
    while not ending.is_set():
        statement, uid = random.choice(statements), random.randrange(number, ROWS, WRITERS)
        if statement.startswith("INSERT"):
            uid = new = new + 1
        token = f"token-SENTINEL-{number}-{random.random()}"
        values = {"uid": uid, "r": random.randrange(4), "id": random.randrange(RANGE), "t": ENCRYPT_TOKEN(token)}
        try:
            with engine.begin() as connection:
                connection.execute(text(statement), values)
        except DBAPIError:  # the key is taken, a deadlock, a row that moved to another partition, a busy file
            continue
        if ":t" in statement:
            written[uid] = token
    engine.dispose()
    return written


@contextmanager
def four_writers(url: str, expected: dict[int, str]) -> Iterator[None]:
    """Disturb the table during the `with` block, then add the tokens that were written to those that are expected."""
    ending = threading.Event()
    with ThreadPoolExecutor(WRITERS) as pool:
        writing = [pool.submit(disturb, url, number, ending) for number in range(WRITERS)]
        try:
            yield
        finally:
            ending.set()
    for future in writing:
        expected |= future.result()


def encrypt_until_done(engine: Engine) -> int:
    """Encrypt until a run says that it has done everything; return the number of rows."""
    done = 0
    for _ in range(10):
        try:
            return done + rewrite(ENCRYPT, engine, "t", {"token": "t.token"}, options=Options(batch_size=50)).rewritten
        except RewriteError as error:  # rows were locked, or moved, all the time
            assert error.report is not None
            done += error.report.rewritten
    pytest.fail("it was never done")


def count_plaintext(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM t WHERE token NOT LIKE 'sealchemy:v1:%'")) or 0


def revealed(engine: Engine) -> dict[int, str]:
    decrypt = RING.decryptor("t.token")
    with engine.connect() as connection:
        return {uid: decrypt(token) for uid, token in connection.execute(text("SELECT uid, token FROM t"))}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_rows_that_come_and_go_are_not_lost(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, make_engine: Callable[..., Engine]
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    engine = make_engine(url, RING, rollout=Rollout.MIGRATE)
    expected = fill(engine, kind)
    with four_writers(url, expected):
        time.sleep(0.5)
        done = encrypt_until_done(engine)
        if kind != "sqlite":  # where steps have no snapshot in common
            assert count_plaintext(engine) == 0
    assert done > ROWS / 2
    rewrite(ENCRYPT, engine, "t", {"token": "t.token"})
    assert rewrite(VERIFY, engine, "t", {"token": "t.token"}).failed == 0
    assert revealed(engine) == expected


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_200_kills_among_four_writers(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, make_engine: Callable[..., Engine]
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    engine = make_engine(url, RING, rollout=Rollout.MIGRATE)
    expected, under_way = fill(engine, kind, RANGE // 2), 0
    options = {"batch_size": 10, "pause": 0.002}
    told = {"url": url, "keys": [KEY.reveal()], "operation": "encrypt", "columns": {"token": "t.token"}, "table": "t"}
    with four_writers(url, expected):
        for _ in range(200):
            was_running = processes.start_and_kill("rewriting", random.uniform(0.0, 0.2), **told, options=options)
            under_way += was_running and count_plaintext(engine) > 0
        encrypt_until_done(engine)
        if kind != "sqlite":
            assert count_plaintext(engine) == 0
    assert under_way > 150
    rewrite(ENCRYPT, engine, "t", {"token": "t.token"})
    assert rewrite(VERIFY, engine, "t", {"token": "t.token"}).failed == 0
    assert revealed(engine) == expected
