"""Rewrite a table in use: no updates are lost, killed runs can be repeated, and writers are not blocked."""

from __future__ import annotations

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from sealchemy import Key, KeyRing, Rollout, attach_key_ring
from sealchemy._databases import access
from sealchemy.rewrite import ENCRYPT, VERIFY, Options, RewriteError, rewrite
from tests.support import constraint, postgresql, processes
from tests.support.tables import COLUMNS, grants, raw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

OLD, NEW = Key.generate(), Key.generate()
RING = KeyRing(primary=NEW, previous=[OLD])
KEYS = [NEW.reveal(), OLD.reveal()]
ROWS = 20_000


def fill(engine: Engine, rows: int) -> dict[int, tuple[str | None, str | None]]:
    before = grants(engine, rows)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE grants ADD COLUMN version INTEGER NOT NULL DEFAULT 0"))
    return before


def revealed(engine: Engine, ring: KeyRing = RING) -> dict[int, tuple[str | None, ...]]:
    return {
        key: tuple(
            item if item is None or not item.startswith("sealchemy:") else ring.decrypt(item, context)
            for item, context in zip(row, COLUMNS.values(), strict=True)
        )
        for key, row in raw(engine).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.soak)])
def test_no_updates_are_lost(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, make_engine: Callable[..., Engine]
) -> None:
    database_url = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    engine = make_engine(database_url, RING, rollout=Rollout.MIGRATE)
    if kind == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = wal")
    before = fill(engine, ROWS)
    writers = [
        processes.start(
            "writer",
            url=database_url,
            keys=KEYS,
            label=name,
            context=COLUMNS["access"],
            rows=ROWS,
            encrypts=name.startswith("new"),
        )
        for name in ("new-1", "old-1")
    ]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n", writer.stderr and writer.stderr.read()
    deadline = time.monotonic() + 7  # long enough for the writers on a busy machine
    done = 0
    while time.monotonic() < deadline:
        try:
            done += rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=500)).rewritten
        except RewriteError as error:  # the old process keeps writing plaintext
            assert error.report is not None
            assert error.report.failed == 0
            done += error.report.rewritten
    last: dict[int, tuple[int, str]] = {}
    for writer in writers:
        writer.terminate()
        out, err = writer.communicate(timeout=60)
        assert writer.returncode == 0, err
        told = json.loads(out)
        assert told["count"] > 100
        for row, (version, token) in told["last"].items():
            last[int(row)] = max(last.get(int(row), (0, "")), (version, token))
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    rewrite(VERIFY, engine, "grants", COLUMNS)
    assert done > ROWS
    expected = {key: (last[key][1] if key in last else row[0], row[1]) for key, row in before.items()}
    assert revealed(engine) == expected


def killed(
    engine: Engine,
    url: str,
    operation: str,
    kills: int,
    *,
    keys: list[str] = KEYS,
    bind_to: list[str] | None = None,
) -> None:
    """Start a rewrite and kill it, this many times, then let one finish."""
    options: dict[str, Any] = {"batch_size": 50, "pause": 0.002}
    told: dict[str, Any] = {"url": url, "keys": keys, "operation": operation, "columns": COLUMNS, "bind_to": bind_to}
    done, starts = 0, 0
    while done < kills:
        starts += 1
        assert starts < 3 * kills
        done += processes.start_and_kill("rewriting", random.uniform(0.0, 0.12), **told, options=options)
    options = {"batch_size": 1000}
    process = processes.start("rewriting", **told, options=options)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.soak)])
def test_rewrite_killed_at_any_point_can_be_rerun(
    database_url: str, make_engine: Callable[..., Engine], kills: int
) -> None:
    url = database_url
    engine = make_engine(url, KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    before = grants(engine, ROWS)
    killed(engine, url, "encrypt", kills, keys=[OLD.reveal()])
    assert revealed(engine) == before
    rewrite(VERIFY, engine, "grants", COLUMNS)
    killed(engine, url, "rekey", kills)
    attach_key_ring(engine, KeyRing(primary=NEW))
    rewrite(VERIFY, engine, "grants", COLUMNS)
    assert revealed(engine) == before
    killed(engine, url, "decrypt", kills)
    assert raw(engine) == before


@pytest.mark.soak
def test_binding_killed_at_any_point_can_be_rerun(database_url: str, make_engine: Callable[..., Engine]) -> None:
    kills = 30
    engine = make_engine(database_url, KeyRing(primary=NEW), rollout=Rollout.MIGRATE)
    before = grants(engine, ROWS // 4)
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    killed(engine, database_url, "bind", kills, keys=[NEW.reveal()], bind_to=["id"])
    attach_key_ring(engine, KeyRing(primary=NEW))
    assert rewrite(VERIFY, engine, "grants", COLUMNS, bind_to=["id"]).failed == 0
    killed(engine, database_url, "unbind", kills, keys=[NEW.reveal()], bind_to=["id"])
    assert revealed(engine, KeyRing(primary=NEW)) == before


@pytest.mark.slow
def test_rewrite_can_be_rerun_after_a_server_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_PATIENCE_WITH_A_SERVER", 0.1)
    server = postgresql.start_any()
    if server is None:
        pytest.fail(postgresql.WHAT_TO_INSTALL)
    try:
        engine = attach_key_ring(create_engine(server.url), RING, rollout=Rollout.MIGRATE)
        before = grants(engine, ROWS)
        for _ in range(3):
            crash = threading.Timer(random.uniform(0.05, 0.3), server.crash)
            crash.start()
            try:
                rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=50, pause=0.002))
            except DBAPIError as error:
                assert "SENTINEL" not in str(error)
            crash.join()
            server.restart()
            engine.dispose()
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
        rewrite(VERIFY, engine, "grants", COLUMNS)
        assert revealed(engine) == before
        engine.dispose()
    finally:
        server.stop()


@pytest.mark.slow
def test_application_is_never_the_deadlock_victim(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    grants(engine, 60)
    over = threading.Event()

    def rewrite_repeatedly() -> int:
        done = 0
        while not over.is_set():
            try:
                done += rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=20)).rewritten
            except RewriteError as error:
                assert error.report is not None
                done += error.report.rewritten
        return done

    update = text("UPDATE grants SET access = :token WHERE id = :id")
    with ThreadPoolExecutor(1) as pool, engine.connect() as connection:
        worker = pool.submit(rewrite_repeatedly)
        try:
            for attempt in range(1000):
                first, *others = sorted(random.sample(range(1, 61), 4), reverse=True)
                with connection.begin():
                    for row in (first, *others):  # in the opposite order of the batches
                        connection.execute(update, {"id": row, "token": f"plain-{attempt}"})
        finally:
            over.set()
        assert worker.result(timeout=60) > 100


def test_validating_the_check_does_not_block_writes(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    grants(engine, 50)
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    held: list[set[str]] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "VALIDATE" in statement:  # the transaction is still open, and holds all its locks
            with create_engine(postgresql_url, poolclass=NullPool).connect() as other:
                query = text(
                    "SELECT mode FROM pg_locks WHERE relation = CAST('grants' AS regclass) AND pid <> pg_backend_pid()"
                )
                held.append(set(other.scalars(query)))
                other.execute(insert_row)
                other.rollback()

    def look_before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "VALIDATE" in statement:
            with create_engine(postgresql_url, poolclass=NullPool).connect() as other:
                name = statement.rsplit(" ", 1)[1]
                query = text("SELECT convalidated FROM pg_constraint WHERE conname = :name")
                scanned_when_added.append(other.scalar(query, {"name": name}))

    scanned_when_added: list[Any] = []
    event.listen(engine, "before_cursor_execute", look_before)
    insert_row = text("INSERT INTO grants (id, access) VALUES (1000, NULL)")
    event.listen(engine, "after_cursor_execute", look)
    constraint.require_encryption(engine, "grants", COLUMNS)
    assert scanned_when_added == [False, False]
    assert len(held) == 2
    assert set().union(*held) <= {"ShareUpdateExclusiveLock", "AccessShareLock"}
    with pytest.raises(DBAPIError, match="ck_grants_access_encrypted"), engine.begin() as connection:
        connection.execute(text("INSERT INTO grants (id, access) VALUES (1001, 'plain')"))


@pytest.mark.parametrize("count", [1, 8])
def test_shards_cover_every_row_once(postgresql_url: str, make_engine: Callable[..., Engine], count: int) -> None:
    engine = make_engine(postgresql_url, RING)
    before = grants(engine, 2000)
    inserted = 0
    total = 0
    for number in range(1, count + 1):
        total += rewrite(
            ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=100, shard=(number, count))
        ).rewritten
        if number < count:
            inserted += 1
            before[-inserted] = ("late", None)
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO grants (id, access) VALUES (:id, 'late')"), {"id": -inserted})
    late = rewrite(ENCRYPT, engine, "grants", COLUMNS).rewritten
    assert total + late == 2000 + inserted
    assert late <= inserted
    assert revealed(engine) == before


@pytest.mark.slow
def test_shards_can_run_in_parallel_processes(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    before = grants(engine, 8000)
    shards = [
        processes.start(
            "rewriting",
            url=postgresql_url,
            keys=KEYS,
            operation="encrypt",
            columns=COLUMNS,
            options={"batch_size": 100, "shard": [number, 4]},
        )
        for number in range(1, 5)
    ]
    counts = []
    for process in shards:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        counts.append(int(out.split()[-1]))
    assert sum(counts) == 8000
    assert min(counts) > 1500
    assert revealed(engine) == before
