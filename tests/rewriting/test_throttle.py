"""A run rests, and waits while standbys are behind."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url

from sealchemy import Key, KeyRing, Rollout, UnsupportedOperationError, attach_key_ring
from sealchemy._rewriting import pipeline
from sealchemy.rewrite import ENCRYPT, VERIFY, Options, Progress, Report, rewrite
from tests.support import postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


RING = KeyRing(primary=Key.generate())
COLUMNS = {"token": "t.token"}
ROWS = 3000


def fill(engine: Engine, rows: int = ROWS) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS t")
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, token TEXT)")
        connection.exec_driver_sql(f"INSERT INTO t SELECT i, 'token-' || i FROM generate_series(1, {rows}) AS i")


class Run:
    """A rewrite in a thread of its own."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.seen: list[float] = []
        self.result: Report | Exception | None = None
        self.thread = threading.Thread(target=self._run, args=(engine, Options(batch_size=100, **options)))
        self.thread.start()

    def _run(self, engine: Engine, options: Options) -> None:
        try:
            self.result = rewrite(ENCRYPT, engine, "t", COLUMNS, options=options, progress=self._see)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.result = error

    def _see(self, _progress: Progress) -> None:
        self.seen.append(time.monotonic())

    def finish(self) -> Report:
        self.thread.join(120)
        assert isinstance(self.result, Report), self.result
        return self.result


class Pair(NamedTuple):
    primary: Engine
    standby: Engine
    server: postgresql.Server


@pytest.fixture
def pair(make_engine: Callable[..., Engine]) -> Iterator[Pair]:
    """A primary, and a standby that reports every second."""
    primary = postgresql.start_any(max_wal_size="1GB")
    assert primary
    standby = None
    try:
        reports = {"wal_receiver_status_interval": "1", "wal_retrieve_retry_interval": "200ms"}
        standby = postgresql.start_standby(primary, primary_slot_name="standby", **reports)
        engine = make_engine(primary.url, RING, rollout=Rollout.MIGRATE)
        execute(engine, "SELECT pg_create_physical_replication_slot('standby', true)")
        connected = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS NOT NULL"
        _wait_for(lambda: count(engine, connected) == 1)
        yield Pair(engine, make_engine(standby.url), standby)
    finally:
        if standby:
            standby.stop()
        primary.stop()


def execute(engine: Engine, sql: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(sql))


def count(engine: Engine, sql: str) -> int:
    with engine.connect() as connection:
        return connection.scalar(text(sql)) or 0


def done(engine: Engine) -> int:
    return count(engine, "SELECT count(*) FROM t WHERE token LIKE 'sealchemy:%'")


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _see(threads: set[int], _connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if statement.startswith("UPDATE t SET"):
        threads.add(threading.get_ident())


@pytest.mark.slow
@pytest.mark.parametrize("connections", [1, 2])  # and one that watches
def test_a_run_waits_for_a_standby_and_goes_on(
    pair: Pair, connections: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_LEAST_SIZE", 0 if connections > 1 else 10**9)
    primary = pair.primary
    fill(primary, 20_000)
    execute(pair.standby, "SELECT pg_wal_replay_pause()")
    caplog.set_level(logging.WARNING, "sealchemy")
    event.listen(primary, "before_cursor_execute", lambda *_: time.sleep(0.01))  # a run that rests has one connection
    threads = set[int]()
    event.listen(primary, "before_cursor_execute", partial(_see, threads))
    run = Run(primary, max_lag=1.0)
    _wait_for(lambda: any("waiting, because the standby" in item for item in caplog.messages))
    time.sleep(0.5)
    before = done(primary)
    assert 0 < before < 20_000
    time.sleep(2.5)
    assert done(primary) == before
    execute(pair.standby, "SELECT pg_wal_replay_resume()")
    assert run.finish().rewritten == 20_000
    assert len(threads) == connections
    assert rewrite(VERIFY, primary, "t", COLUMNS).failed == 0


@pytest.mark.slow
def test_a_standby_that_keeps_up_stops_nothing(pair: Pair) -> None:
    primary = pair.primary
    fill(primary)
    assert Run(primary, max_lag=5.0, max_wal_retained=2**40).finish().rewritten == ROWS


@pytest.mark.slow
def test_a_run_waits_while_a_slot_retains_too_much(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    primary = pair.primary
    fill(primary)
    execute(primary, "SELECT pg_create_physical_replication_slot('forgotten', true)")
    fill(primary, 20_000)
    run = Run(primary, max_wal_retained=100_000)
    _wait_for(lambda: any("the replication slot forgotten retains" in item for item in caplog.messages))
    time.sleep(1)
    assert done(primary) == 0
    execute(primary, "SELECT pg_drop_replication_slot('forgotten')")
    assert run.finish().rewritten == 20_000


@pytest.mark.slow
def test_a_standby_that_disappears_is_a_warning(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    primary = pair.primary
    fill(primary, 6000)
    run = Run(primary, max_lag=60.0, pause=0.1)
    _wait_for(lambda: len(run.seen) > 12)
    pair.standby.dispose()
    pair.server.stop()
    _wait_for(lambda: any("is not connected any more" in item for item in caplog.messages))
    assert run.finish().rewritten == 6000


def test_a_role_that_cannot_see_the_lag_is_refused(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    fill(engine, 10)
    role = f"blind_{time.monotonic_ns()}"
    with engine.begin() as connection:
        schema = connection.scalar(text("SELECT current_schema()"))
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {role}"))
        connection.execute(text(f"GRANT SELECT, UPDATE ON t TO {role}"))
    blind = attach_key_ring(create_engine(make_url(postgresql_url).set(username=role)), RING, rollout=Rollout.MIGRATE)
    try:
        with pytest.raises(UnsupportedOperationError, match="GRANT pg_monitor"):
            rewrite(ENCRYPT, blind, "t", COLUMNS, options=Options(max_lag=5))
        assert done(engine) == 0
        with engine.begin() as connection:
            connection.execute(text(f"GRANT pg_monitor TO {role}"))
        assert rewrite(ENCRYPT, blind, "t", COLUMNS, options=Options(max_lag=5)).rewritten == 10
    finally:
        blind.dispose()
        with engine.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))


def test_limits_need_an_engine_and_postgresql(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    fill(engine, 10)
    with engine.connect() as connection, pytest.raises(UnsupportedOperationError, match="need an engine"):
        rewrite(ENCRYPT, connection, "t", COLUMNS, options=Options(max_lag=5))
    sqlite = make_engine("sqlite://", RING, rollout=Rollout.MIGRATE)
    with sqlite.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER PRIMARY KEY, token TEXT)"))
    for options in (Options(max_lag=5), Options(max_wal_retained=10**9), Options(max_lag=5, dry_run=True)):
        with pytest.raises(UnsupportedOperationError, match="only PostgreSQL supports max_lag"):
            rewrite(ENCRYPT, sqlite, "t", COLUMNS, options=options)


def test_a_server_without_a_connection_to_watch_is_named(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline, "_LEAST_SIZE", 0)
    engine = create_engine(postgresql_url)
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    fill(engine, 100)
    own, connections = create_engine(postgresql_url), itertools.count()
    attach_key_ring(own, RING, rollout=Rollout.MIGRATE)

    @event.listens_for(own, "do_connect")
    def connect(_dialect: Any, _record: Any, _arguments: list[Any], options: dict[str, Any]) -> None:
        if next(connections) >= 1:
            options["port"] = "1"

    assert rewrite(ENCRYPT, own, "t", COLUMNS, options=Options(max_lag=5)).rewritten == 100
    assert any("going on without a look at replication" in item for item in caplog.messages)
    own.dispose()
    engine.dispose()


def test_a_pool_of_one_connection_is_too_small(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    fill(engine, 10)
    with pytest.raises(UnsupportedOperationError, match="of their own, and the pool"):
        rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(max_lag=5))
    engine.dispose()


@pytest.mark.parametrize(
    "options",
    [{"nice": -1}, {"nice": 101}, {"max_lag": 0}, {"max_lag": 90_000}, {"max_wal_retained": 0}],
    ids=str,
)
def test_a_limit_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedOperationError, match=next(iter(options))):
        Options(**options)


def test_a_nice_run_rests_for_a_share_of_its_time(
    postgresql_url: str, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    fill(engine)
    waited: list[float] = []
    wait = threading.Event.wait
    of_others = set(threading.enumerate()) - {threading.current_thread()}  # which other tests have left running

    def note(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() not in of_others:
            waited.append(timeout or 0)
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", note)
    began = time.monotonic()
    rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(batch_size=100, nice=2.0))
    took = time.monotonic() - began
    assert len([item for item in waited if item > 0]) >= ROWS / 100
    assert 0.3 * took < sum(waited) <= took
