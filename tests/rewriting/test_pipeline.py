"""A large table is rewritten on three connections; what one of them meets, the others do not suffer from."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.pool import NullPool, StaticPool

from sealchemy import Key, KeyRing, Rollout, attach_key_ring
from sealchemy._rewriting import pipeline
from sealchemy._rewriting.interrupt import collector_paused
from sealchemy.rewrite import DECRYPT, ENCRYPT, REKEY, VERIFY, Options, Progress, RewriteError, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable

KEY, OTHER = Key.generate(), Key.generate()
COLUMNS = {"token": "t.token"}
ROWS = 10_000


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_LEAST_SIZE", 50_000)


@pytest.fixture
def engine(postgresql_url: str, make_engine: Callable[..., Engine]) -> Engine:
    engine = make_engine(postgresql_url, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    fill(engine)
    return engine


def fill(engine: Engine, key: str = "i") -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS t")
        connection.exec_driver_sql("CREATE TABLE t (id TEXT PRIMARY KEY, token TEXT)")
        connection.exec_driver_sql(f"INSERT INTO t SELECT {key}, 'token-' || i FROM generate_series(1, {ROWS}) AS i")


def count(engine: Engine, like: str = "sealchemy:%") -> int:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM t WHERE token LIKE :like"), {"like": like}) or 0


class Writers:
    """Which threads and which sessions have sent an UPDATE; so many wait for each other before their first one."""

    def __init__(self, engine: Engine, together: int = 1) -> None:
        self.threads: set[int] = set()
        self.sessions: set[int] = set()
        self._barrier = threading.Barrier(together, timeout=25)
        event.listen(engine, "before_cursor_execute", self._see)

    def _see(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE t SET"):
            self.threads.add(threading.get_ident())
            session = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
            if session not in self.sessions:
                self.sessions.add(session)
                self._barrier.wait()


def test_three_connections_do_the_work_of_one(engine: Engine) -> None:
    writers, seen = Writers(engine, together=3), list[Progress]()
    threads, before = set[int](), set(threading.enumerate())

    def see(progress: Progress) -> None:
        seen.append(progress)
        threads.add(threading.get_ident())

    assert rewrite(ENCRYPT, engine, "t", COLUMNS, progress=see, options=Options(batch_size=100)).rewritten == ROWS
    assert (len(writers.threads), len(writers.sessions), count(engine)) == (3, 3, ROWS)
    assert (threads, seen[-1].done, seen[-1].total) == ({threading.get_ident()}, ROWS, ROWS)
    attach_key_ring(engine, KeyRing(primary=OTHER, previous=[KEY]), rollout=Rollout.MIGRATE)
    assert rewrite(REKEY, engine, "t", COLUMNS).rewritten == ROWS
    assert rewrite(VERIFY, engine, "t", COLUMNS).failed == 0
    assert rewrite(DECRYPT, engine, "t", COLUMNS).rewritten == ROWS
    assert count(engine, "token-%") == ROWS
    assert set(threading.enumerate()) <= before


def test_the_reader_of_another_library_is_called_on_each(engine: Engine) -> None:
    threads = set[int]()
    Writers(engine, together=3)

    def read(value: str) -> str:
        threads.add(threading.get_ident())
        return value.removeprefix("token-")

    options = Options(batch_size=100)
    assert rewrite(ENCRYPT, engine, "t", COLUMNS, legacy_reader=read, options=options).rewritten == ROWS
    assert len(threads) == 3
    assert rewrite(DECRYPT, engine, "t", COLUMNS).rewritten == ROWS
    assert count(engine, "token-%") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "sessions"),
    [
        ({"pool_size": 1, "max_overflow": 0}, 1),
        ({"pool_size": 1, "max_overflow": 1}, 2),
        ({"pool_size": 1, "max_overflow": -1}, 3),
        ({"pool_size": 2, "max_overflow": 0}, 2),
        ({"pool_size": 9, "max_overflow": 0}, 3),
        ({"poolclass": NullPool}, 3),
        ({"poolclass": StaticPool}, 1),
    ],
    ids=str,
)
def test_fewer_connections_are_enough(engine: Engine, pool: dict[str, Any], sessions: int) -> None:
    own = create_engine(engine.url, **pool)
    attach_key_ring(own, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    writers, began = Writers(own, together=sessions), time.monotonic()
    assert rewrite(ENCRYPT, own, "t", COLUMNS, options=Options(batch_size=100)).rewritten == ROWS
    assert len(writers.sessions) == sessions
    assert time.monotonic() - began < 25  # it has not waited for a connection, which takes 30 s
    own.dispose()


def test_a_connection_of_the_callers_and_limits_and_rests_are_for_one(engine: Engine) -> None:
    writers = Writers(engine)
    limits = [{"max_rows": 50}, {"shard": (1, 9)}, {"range": '[null, ["2"]]'}, {"pause": 0.001}, {"nice": 0.01}]
    for options in (Options(**limit) for limit in limits):
        rewrite(ENCRYPT, engine, "t", COLUMNS, options=options)
        assert len(writers.threads) == 1
        fill(engine)
    with engine.begin() as connection:
        rewrite(ENCRYPT, connection, "t", COLUMNS)
    assert (len(writers.threads), count(engine)) == (1, ROWS)


def test_connections_that_cannot_be_made_are_done_without(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    own = create_engine(engine.url)
    connections = itertools.count()

    @event.listens_for(own, "do_connect")
    def connect(_dialect: Any, _record: Any, _arguments: list[Any], options: dict[str, Any]) -> None:
        if next(connections) >= 1:
            options["port"] = "1"

    attach_key_ring(own, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    assert rewrite(ENCRYPT, own, "t", COLUMNS).rewritten == ROWS
    assert [item for item in caplog.messages if "fewer connections" in item]
    own.dispose()


def test_connections_to_another_table_are_not_used(engine: Engine) -> None:
    own = create_engine(engine.url)
    connections = itertools.count()
    with engine.begin() as connection:
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar()
        connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema}_other CASCADE")
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}_other")
        connection.exec_driver_sql(f"CREATE TABLE {schema}_other.t AS SELECT * FROM t")
        connection.exec_driver_sql(f"ALTER TABLE {schema}_other.t ADD PRIMARY KEY (id)")

    @event.listens_for(own, "connect")
    def choose(driver: Any, _record: Any) -> None:
        if next(connections) >= 1:  # as a tenant that is kept in the thread does
            driver.execute(f"SET search_path TO {schema}_other")

    attach_key_ring(own, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    assert rewrite(ENCRYPT, own, "t", COLUMNS).rewritten == ROWS
    own.dispose()
    with engine.begin() as connection:
        query = f"SELECT count(*) FROM {schema}_other.t WHERE token LIKE 'token-%%'"
        assert connection.exec_driver_sql(query).scalar() == ROWS
        connection.exec_driver_sql(f"DROP SCHEMA {schema}_other CASCADE")


@pytest.mark.parametrize("row", [1, 1000, 2500, 6000, ROWS])
def test_an_error_on_any_connection_ends_all(engine: Engine, row: int) -> None:
    fill(engine, key="lpad(i::text, 9, '0')")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE t ADD CHECK (id::int <> {row} OR token LIKE 'token-%%')")
    with pytest.raises(RewriteError, match="refused a statement") as raised:
        rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(batch_size=100))
    report: Any = raised.value.report
    assert report.rewritten == count(engine) < ROWS
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_thread_that_cannot_be_started_leaves_none_behind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    before, start, count_started = set(threading.enumerate()), threading.Thread.start, itertools.count()

    def refuse(thread: threading.Thread) -> None:
        if next(count_started):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(pipeline.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        rewrite(ENCRYPT, engine, "t", COLUMNS)
    assert set(threading.enumerate()) <= before


def test_a_connection_that_is_not_made_holds_nothing_up(engine: Engine) -> None:
    own, connections, is_over = create_engine(engine.url), itertools.count(), threading.Event()
    before = set(threading.enumerate())

    @event.listens_for(own, "do_connect")
    def block(*_: Any) -> None:
        if next(connections) >= 1:
            is_over.wait(60)

    attach_key_ring(own, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    began = time.monotonic()
    assert rewrite(ENCRYPT, own, "t", COLUMNS).rewritten == ROWS
    assert time.monotonic() - began < 30
    is_over.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()
    own.dispose()


def test_the_garbage_collector_is_on_again_after_three_threads_have_paused_it() -> None:
    interval, is_over = sys.getswitchinterval(), threading.Event()

    def pause() -> None:
        while not is_over.is_set():
            with collector_paused():
                sum(range(20))

    sys.setswitchinterval(1e-6)
    try:
        for _ in range(3):
            is_over.clear()
            threads = [threading.Thread(target=pause) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            is_over.set()
            for thread in threads:
                thread.join()
            assert gc.isenabled()
    finally:
        sys.setswitchinterval(interval)
        gc.enable()


def test_an_error_of_a_callback_ends_the_run(engine: Engine) -> None:
    def fail(_: Progress) -> None:
        raise IndexError("list index out of range")

    with pytest.raises(IndexError):
        rewrite(ENCRYPT, engine, "t", COLUMNS, progress=fail)


def test_a_listener_that_fails_for_further_connections_is_done_without(
    engine: Engine, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    own, connections = create_engine(engine.url), itertools.count()

    @event.listens_for(own, "connect")
    def fail(_driver: Any, _record: Any) -> None:
        if next(connections) >= 1:
            raise LookupError("SENTINEL")

    attach_key_ring(own, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    assert rewrite(ENCRYPT, own, "t", COLUMNS).rewritten == ROWS
    assert caplog.messages.count("t: fewer connections (LookupError)") == 1
    assert "SENTINEL" not in "".join(capfd.readouterr())
    own.dispose()


def test_a_listener_for_new_connections_may_leave_a_transaction_open(engine: Engine) -> None:
    own = create_engine(engine.url)
    event.listen(own, "connect", lambda driver, _record: driver.execute("SET statement_timeout = '1min'"))
    attach_key_ring(own, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    writers = Writers(own, together=3)
    assert rewrite(ENCRYPT, own, "t", COLUMNS, options=Options(batch_size=100)).rewritten == ROWS
    assert len(writers.sessions) == 3
    own.dispose()


def test_the_connection_that_watches_standbys_comes_first(engine: Engine) -> None:
    own = create_engine(engine.url, pool_size=2, max_overflow=0, pool_timeout=3)
    attach_key_ring(own, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    assert rewrite(ENCRYPT, own, "t", COLUMNS, options=Options(max_lag=100)).rewritten == ROWS
    own.dispose()


def test_failures_of_all_connections_are_reported(engine: Engine) -> None:
    elsewhere = KeyRing(primary=KEY).encrypt("token", "another.context")
    with engine.begin() as connection:
        connection.execute(text("UPDATE t SET token = :value WHERE token LIKE 'token-1__'"), {"value": elsewhere})
    with pytest.raises(RewriteError, match="100 values cannot be read") as raised:
        rewrite(ENCRYPT, engine, "t", COLUMNS)
    report: Any = raised.value.report
    assert (report.failed, len(report.failures), report.rewritten) == (100, 100, ROWS - 100)


def test_no_update_of_an_application_is_lost(engine: Engine) -> None:
    written: dict[str, str] = {}
    stop = threading.Event()

    def write(first: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            key, value = str(number * 131 % (ROWS // 2) * 2 + first), f"token-new-{number}"
            with engine.begin() as connection:
                connection.execute(text("UPDATE t SET token = :value WHERE id = :key"), {"key": key, "value": value})
                written[key] = value
            time.sleep(0.002)

    threads = [threading.Thread(target=write, args=(first,)) for first in (1, 2)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    with contextlib.suppress(RewriteError):  # they write faster than it does
        rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(batch_size=50))
    stop.set()
    for thread in threads:
        thread.join()
    rewrite(ENCRYPT, engine, "t", COLUMNS)
    rewrite(DECRYPT, engine, "t", COLUMNS)
    with engine.connect() as connection:
        found = {row.id: row.token for row in connection.execute(text("SELECT id, token FROM t"))}
    assert len(written) > 100
    assert {key: found[key] for key in written} == written
    assert all(value == f"token-{key}" for key, value in found.items() if key not in written)
