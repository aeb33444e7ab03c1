"""A run in several processes: nothing is lost and nothing counted twice, whatever ends one of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from sentry_sdk.integrations.sqlalchemy import SqlalchemyIntegration
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import Pool

from sealchemy import Key, KeyRing, Rollout, SealchemyError, UnsupportedOperationError, attach_key_ring
from sealchemy._rewriting.jobs import carried, processes
from sealchemy.rewrite import DECRYPT, ENCRYPT, REKEY, VERIFY, Options, Progress, RewriteError, rewrite
from tests.support.cli import Project
from tests.support.leaks import assert_silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY, OTHER = Key.generate(), Key.generate()
COLUMNS = {"token": "t.token"}
ROWS = 20_000
IS_CIPHERTEXT = "token LIKE 'sealchemy:v1:%'"
KEYS = {
    "integer": ("id INTEGER PRIMARY KEY", "i"),
    "uuid": ("id UUID PRIMARY KEY", "md5(i::text)::uuid"),
    "text": ("id TEXT PRIMARY KEY", "'user ' || i || E'\\n\"'"),
    "composite": ("a TEXT, b INTEGER, PRIMARY KEY (a, b)", "'tenant ' || mod(i, 7), i"),
}


class Started:
    """The processes that a run has started."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def alive(self) -> list[subprocess.Popen[bytes]]:
        return [item for item in self.processes if item.poll() is None]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    found = Started()

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            found.processes.append(self)

    monkeypatch.setattr(processes.subprocess, "Popen", Popen)
    return found


@pytest.fixture
def table(postgresql_url: str, make_engine: Callable[..., Engine]) -> Engine:
    engine = make_engine(postgresql_url, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    fill(engine)
    return engine


@pytest.fixture
def environment(postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_URL", postgresql_url)
    monkeypatch.setenv("JOBS_KEY", KEY.reveal())
    monkeypatch.setenv("JOBS_FOLDER", str(tmp_path))


def fill(engine: Engine, key: str = "integer", rows: int = ROWS) -> None:
    columns, values = KEYS[key]
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS t")
        connection.exec_driver_sql(f"CREATE TABLE t (token TEXT, {columns})")
        more = f"SELECT 'token-' || i, {values} FROM generate_series(1, {rows}) AS i"
        connection.exec_driver_sql(f"INSERT INTO t {more}")


def count(engine: Engine, condition: str = IS_CIPHERTEXT) -> int:
    with engine.connect() as connection:
        return connection.scalar(text(f"SELECT count(*) FROM t WHERE {condition}".replace(":", r"\:"))) or 0


def after(seconds: float, work: Callable[[], None]) -> None:
    time.sleep(seconds)
    work()


@contextlib.contextmanager
def doing(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("key", list(KEYS))
def test_processes_encrypt_rekey_verify_and_decrypt_a_whole_table(table: Engine, key: str, started: Started) -> None:
    fill(table, key, 3000)
    seen: list[Progress] = []
    report = rewrite(ENCRYPT, table, "t", COLUMNS, options=Options(jobs=2), progress=seen.append)
    assert (report.rewritten, count(table)) == (3000, 3000)
    assert (seen[-1].done, seen[-1].total, len(started.processes)) == (3000, 3000, 2)
    attach_key_ring(table, KeyRing(primary=OTHER, previous=[KEY]), rollout=Rollout.MIGRATE)
    assert rewrite(REKEY, table, "t", COLUMNS, options=Options(jobs=3)).rewritten == 3000
    assert rewrite(VERIFY, table, "t", COLUMNS, options=Options(jobs=2)).read == 3000
    assert rewrite(DECRYPT, table, "t", COLUMNS, options=Options(jobs=2)).rewritten == 3000
    assert count(table, "token LIKE 'token-%'") == 3000
    assert not started.alive()


def test_a_small_or_empty_table_needs_no_more_processes_than_it_has_ranges(table: Engine, started: Started) -> None:
    for rows in (0, 1, 5):
        fill(table, rows=rows)
        assert rewrite(ENCRYPT, table, "t", COLUMNS, options=Options(jobs=4)).rewritten == rows
    assert len(started.processes) <= 1 + 1 + 4


def test_failures_have_the_keys_that_they_have_in_one_process(table: Engine) -> None:
    fill(table, "uuid", 3000)
    with table.begin() as connection:
        damaged = connection.exec_driver_sql(
            "UPDATE t SET token = 'sealchemy:v1:damaged' WHERE token LIKE 'token-1__' RETURNING id"
        ).scalars()
        damaged_keys = set(damaged)
    with pytest.raises(RewriteError, match="100 values cannot be read") as raised:
        rewrite(ENCRYPT, table, "t", COLUMNS, options=Options(jobs=2))
    report: Any = raised.value.report
    assert {item.key[0] for item in report.failures} == damaged_keys
    assert all(isinstance(key, uuid.UUID) for key in damaged_keys)
    assert (report.failed, report.rewritten) == (100, 2900)


@pytest.mark.slow
def test_processes_are_killed_at_random_and_the_counts_are_those_of_the_table(
    table: Engine, started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    def kill() -> None:
        for _ in range(2):  # a range is given up at the third time
            time.sleep(random.uniform(0.7, 1.5))
            with contextlib.suppress(IndexError):
                random.choice(started.alive()).kill()

    with doing(kill):
        report = rewrite(ENCRYPT, table, "t", COLUMNS, options=Options(jobs=2, batch_size=50, nice=1))
    assert (report.rewritten, count(table)) == (ROWS, ROWS)
    assert sum("ended with status -9; another one takes it" in line for line in caplog.messages) >= 1
    assert not started.alive()


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "name", ["killed_before_a_commit", "killed_after_a_commit", "loses_its_connection_in_a_commit"]
)
def test_a_commit_that_nobody_told_is_counted_once(table: Engine, name: str, tmp_path: Path) -> None:
    options = Options(jobs=2, batch_size=100, engine_factory=f"tests.support.job_engines:{name}")
    report = rewrite(ENCRYPT, table, "t", COLUMNS, options=options)
    assert [item.name for item in tmp_path.iterdir()] in (["killed"], ["lost"])
    assert (report.rewritten, count(table)) == (ROWS, ROWS)


@pytest.mark.slow
def test_an_error_in_one_range_stops_the_others_and_counts_what_was_done(table: Engine, started: Started) -> None:
    with table.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE t ADD CHECK (id <> {ROWS // 2} OR token LIKE 'token-%%')")
    with pytest.raises(RewriteError, match=r"refused a statement: .*violates check") as raised:
        rewrite(ENCRYPT, table, "t", COLUMNS, options=Options(jobs=2, batch_size=100, pause=0.02))
    report: Any = raised.value.report
    assert 0 < report.rewritten == count(table) < ROWS
    assert str(raised.value).endswith(f"; {report.rewritten} rows were done before and stay done")
    assert not started.alive()
    assert "token-" not in str(raised.value)


@pytest.mark.usefixtures("environment")
def test_a_range_whose_process_always_dies_is_given_up(table: Engine, started: Started) -> None:
    options = Options(jobs=2, engine_factory="tests.support.job_engines:dies")
    with pytest.raises(RewriteError, match="ended with status 7, 3 times; 0 rows were done before"):
        rewrite(ENCRYPT, table, "t", COLUMNS, options=options)
    assert not started.alive()


@pytest.mark.slow
def test_a_row_that_is_locked_meanwhile_is_done_at_the_end(table: Engine) -> None:
    with table.connect() as other:
        other.exec_driver_sql("SELECT 1 FROM t WHERE id = 7 FOR UPDATE")
        with doing(partial(after, 4, other.rollback)):
            report = rewrite(ENCRYPT, table, "t", COLUMNS, options=Options(jobs=2, lock_timeout=30))
    assert (report.rewritten, count(table)) == (ROWS, ROWS)


def test_no_key_and_no_password_stands_where_others_can_read_it(table: Engine, started: Started) -> None:
    url = make_url(table.url).set(password="SENTINEL-password")
    engine = attach_key_ring(create_engine(url), KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    seen: list[bytes] = []

    def look(_: object) -> None:
        for process in started.alive():
            folder = Path(f"/proc/{process.pid}")
            with contextlib.suppress(OSError):
                seen.extend((folder / name).read_bytes() for name in ("cmdline", "environ"))

    rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(jobs=2), progress=look)
    engine.dispose()
    if Path("/proc/self").exists():
        assert any(b"sealchemy._rewriting.jobs.worker" in item for item in seen)
    for secret in (b"SENTINEL", KEY.reveal().encode(), KEY.reveal().partition(".")[2].encode()):
        assert not any(secret in item for item in seen)


def test_what_a_process_logs_is_logged_here(table: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def end_a_session() -> None:
        query = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND query LIKE 'UPDATE t SET%' AND state = 'active' LIMIT 1"
        )
        deadline = time.monotonic() + 60
        while not caplog.messages and count(table) < ROWS and time.monotonic() < deadline:
            with table.connect() as connection:
                connection.execute(text(query)).all()

    with doing(end_a_session):
        report = rewrite(ENCRYPT, table, "t", COLUMNS, options=Options(jobs=2, batch_size=200))
    assert (report.rewritten, count(table)) == (ROWS, ROWS)
    assert caplog.messages[0] == "t: a transaction is run again (AdminShutdown)"


def test_connect_args_are_carried(postgresql_url: str) -> None:
    url = make_url(postgresql_url)
    engine = create_engine(url.difference_update_query(["options"]), connect_args={"options": url.query["options"]})
    attach_key_ring(engine, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    fill(engine, rows=1000)
    assert rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(jobs=2)).rewritten == 1000
    engine.dispose()


def creator(url: Any) -> Any:
    import psycopg

    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(_dsn(url)))


def _dsn(url: Any) -> str:
    return str(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))


def listening(name: str) -> Callable[[str], Engine]:
    def make(url: str) -> Engine:
        engine = create_engine(url)
        event.listen(engine, name, lambda *_arguments: None)
        return engine

    return make


REFUSED: dict[str, tuple[Callable[[str], Engine], str]] = {
    "creator": (creator, "made with creator="),
    "connect": (listening("connect"), "it has the listener .*lambda.* for connect"),
    "do_connect": (listening("do_connect"), "for do_connect"),
    "checkout": (listening("checkout"), "for checkout"),
    "begin": (listening("begin"), "for begin"),
    "before_execute": (listening("before_execute"), "for before_execute"),
    "before_cursor_execute": (listening("before_cursor_execute"), "for before_cursor_execute"),
    "connect_args": (lambda url: create_engine(url, connect_args={"context": object()}), "connect_args has context"),
    "client_encoding": (lambda url: create_engine(url, client_encoding="utf8"), "module= or client_encoding="),
    "execution options": (
        lambda url: create_engine(url, execution_options={"schema_translate_map": {"a": "b"}}),
        "execution options schema_translate_map",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_an_engine_that_cannot_be_made_again_is_refused(
    postgresql_url: str, make_engine: Callable[..., Engine], name: str
) -> None:
    fill(make_engine(postgresql_url), rows=10)
    make, says = REFUSED[name]
    engine = make(postgresql_url)
    if name == "connect_args":
        engine.pool._creator = make_engine(postgresql_url).pool._creator  # it connects
    attach_key_ring(engine, KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    with pytest.raises(UnsupportedOperationError, match=rf"{says}.*engine_factory"):
        rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(jobs=2))
    engine.dispose()


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tests.support.job_engines:other_key", "its engine has key [0-9a-f]{12}, not key"),
        ("tests.support.job_engines:without_keys", "its engine has no key ring, not key"),
        ("tests.support.job_engines:nothing", "it returns NoneType, not an Engine"),
        ("tests.support.job_engines:fails", "it raised LookupError"),
        ("tests.support.job_engines:tells_its_key", "it raised ValueError"),
        ("tests.support.job_engines:ends", "it raised SystemExit"),
        ("tests.support.job_engines:absent", "AttributeError"),
        ("tests.no_such_module:engine", "ModuleNotFoundError"),
        ("tests.support.job_engines:other_table", "another server, database or table"),
    ],
)
def test_a_wrong_engine_of_ones_own_is_refused(
    table: Engine, name: str, says: str, postgresql_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with table.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA IF EXISTS other CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA other")
        connection.exec_driver_sql("CREATE TABLE other.t (id INTEGER PRIMARY KEY, token TEXT)")
    other = make_url(postgresql_database).update_query_dict({"options": "-csearch_path=other"})
    monkeypatch.setenv("JOBS_OTHER_URL", other.render_as_string(hide_password=False))
    with pytest.raises(UnsupportedOperationError, match=says) as raised:
        rewrite(ENCRYPT, table, "t", COLUMNS, options=Options(jobs=2, engine_factory=name))
    assert count(table) == 0
    assert_silent(raised.value, KEY.reveal())


class Listener:
    """A listener that is an object, or one of its methods."""

    def method(self, *_: Any, **__: Any) -> None:
        pass

    __call__ = method


LISTENERS: dict[str, Any] = {
    "function": lambda *_, **__: None,
    "method": Listener().method,
    "partial": partial(Listener().method, 1),
    "object": Listener(),
}


@pytest.mark.parametrize("how", [{}, {"named": True}, {"once": True}], ids=str)
@pytest.mark.parametrize("kind", list(LISTENERS))
@pytest.mark.parametrize("name", ["connect", "checkout", "before_cursor_execute", "before_execute", "begin"])
def test_whatever_listens_is_found(
    postgresql_url: str, make_engine: Callable[..., Engine], name: str, kind: str, how: dict[str, bool]
) -> None:
    engine = make_engine(postgresql_url, KeyRing(primary=KEY))
    assert carried._find_problem(engine) is None  # the private function, as this has 60 cases
    derived = engine.execution_options(isolation_level="READ COMMITTED")
    assert carried._find_problem(derived) is None
    event.listen(engine, name, LISTENERS[kind], **how)
    for item in (engine, derived):
        assert f"for {name}" in str(carried._find_problem(item))


@pytest.mark.parametrize("target", [Engine, Pool])
def test_what_listens_to_every_engine_is_found(
    postgresql_url: str, make_engine: Callable[..., Engine], target: Any
) -> None:
    engine, listener = make_engine(postgresql_url, KeyRing(primary=KEY)), Listener().method
    name = "before_cursor_execute" if target is Engine else "connect"
    event.listen(target, name, listener)
    try:
        assert f"for {name}" in str(carried._find_problem(engine))
    finally:
        event.remove(target, name, listener)


def test_what_only_watches_every_engine_is_no_obstacle(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    SqlalchemyIntegration.setup_once()  # as `sentry_sdk.init` does in every application that has SQLAlchemy
    engine = make_engine(postgresql_url, KeyRing(primary=KEY))
    SQLAlchemyInstrumentor().instrument(engine=engine)
    try:
        assert carried._find_problem(engine) is None
    finally:
        SQLAlchemyInstrumentor().uninstrument()


def test_no_error_shows_what_goes_through_the_pipe(table: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_url(table.url).set(password="SENTINEL-password")
    engine = attach_key_ring(create_engine(url), KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    secrets = ("SENTINEL-password", KEY.reveal())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent/python")
        with pytest.raises(RewriteError, match="a process cannot be started") as raised:
            rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(jobs=2))
    assert_silent(raised.value, *secrets)
    event.listen(engine, "connect", lambda *_: None)
    with pytest.raises(UnsupportedOperationError, match="it has the listener") as refused:
        rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(jobs=2))
    assert_silent(refused.value, *secrets)
    engine.dispose()


@pytest.mark.usefixtures("environment")
def test_an_error_that_nobody_foresaw_ends_the_run_without_its_text(table: Engine) -> None:
    options = Options(jobs=2, engine_factory="tests.support.job_engines:fails_in_a_step")
    with pytest.raises(RewriteError, match=r"LookupError at job_engines.py:\d+; 0 rows were done before") as raised:
        rewrite(ENCRYPT, table, "t", COLUMNS, options=options)
    assert_silent(raised.value, KEY.reveal())


@pytest.mark.usefixtures("environment")
def test_a_range_whose_process_was_killed_is_read_again(table: Engine, tmp_path: Path) -> None:
    rewrite(ENCRYPT, table, "t", COLUMNS)
    options = Options(jobs=2, engine_factory="tests.support.job_engines:killed_while_reading")
    assert rewrite(VERIFY, table, "t", COLUMNS, options=options).read == ROWS
    assert (tmp_path / "killed").exists()


def test_keys_are_utf_8_whatever_the_locale(table: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with table.begin() as connection:
        connection.exec_driver_sql("DROP TABLE t")
        connection.exec_driver_sql("CREATE TABLE t (id TEXT PRIMARY KEY, token TEXT)")
        more = "SELECT chr(8000 + mod(i, 60)) || i, 'token-' || i FROM generate_series(1, 3000) AS i"
        connection.exec_driver_sql(f"INSERT INTO t {more}")
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    assert rewrite(ENCRYPT, table, "t", COLUMNS, options=Options(jobs=2)).rewritten == 3000


@pytest.mark.slow
def test_fewer_connections_than_processes_are_enough(
    table: Engine, postgresql_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"few_{uuid.uuid4().hex[:8]}"
    with table.begin() as connection:
        schema = connection.scalar(text("SELECT current_schema()"))
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 3")
        connection.exec_driver_sql(f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}")
        connection.exec_driver_sql(f"ALTER TABLE t OWNER TO {role}")
    own = attach_key_ring(
        create_engine(table.url.set(username=role, password="x")), KeyRing(primary=KEY), rollout=Rollout.MIGRATE
    )
    try:
        assert rewrite(ENCRYPT, own, "t", COLUMNS, options=Options(jobs=4, batch_size=100)).rewritten == ROWS
        assert any("the other processes go on" in line for line in caplog.messages)
    finally:
        own.dispose()
        with table.begin() as connection:
            connection.exec_driver_sql("DROP TABLE t")
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


def test_what_jobs_do_not_go_with_is_refused(table: Engine, make_engine: Callable[..., Engine]) -> None:
    for options in ({"max_rows": 5}, {"shard": (1, 2)}, {"range": "[null, null]"}):
        with pytest.raises(UnsupportedOperationError, match="jobs are for the whole table"):
            Options(jobs=2, **options)  # type: ignore[arg-type]
    for name in ("nothing", "a b:c", "a:b:c", ""):
        with pytest.raises(UnsupportedOperationError, match=r"as package\.module:function"):
            Options(jobs=2, engine_factory=name)
    with pytest.raises(UnsupportedOperationError, match="engine_factory is for jobs"):
        Options(engine_factory="a:b")
    with pytest.raises(UnsupportedOperationError, match="from 1 to 100"):
        Options(jobs=0)
    two = Options(jobs=2)
    with pytest.raises(UnsupportedOperationError, match="a legacy reader cannot be given"):
        rewrite(ENCRYPT, table, "t", COLUMNS, options=two, legacy_reader=str)
    with table.connect() as connection, pytest.raises(UnsupportedOperationError, match="pass the engine"):
        rewrite(ENCRYPT, connection, "t", COLUMNS, options=two)
    sqlite = make_engine(rollout=Rollout.MIGRATE)
    with sqlite.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, token TEXT)")
    with pytest.raises(UnsupportedOperationError, match="only PostgreSQL supports ranges and jobs"):
        rewrite(ENCRYPT, sqlite, "t", COLUMNS, options=two)
    forgetful = KeyRing.from_env("X", {"X_KEY": KEY.reveal()}, keep_secrets=False)
    attach_key_ring(table, forgetful, rollout=Rollout.MIGRATE)
    with pytest.raises(UnsupportedOperationError, match=r"keep_secrets=False; .*engine_factory"):
        rewrite(ENCRYPT, table, "t", COLUMNS, options=two)
    assert count(table) == 0


@pytest.fixture
def project(tmp_path: Path, postgresql_url: str, make_engine: Callable[..., Engine]) -> Project:
    project = Project(tmp_path, postgresql_url, make_engine(postgresql_url))
    project.fill_on_postgresql(ROWS)
    return project


def encrypted(project: Project) -> int:
    with project.engine.connect() as connection:
        query = 'SELECT count(*) FROM "Integration" WHERE "accessToken" LIKE \'sealchemy:%\''
        return connection.scalar(text(query)) or 0


def slow_command(project: Project) -> subprocess.Popen[str]:
    """Start `sealchemy encrypt --jobs 2`, and return it once it has written rows."""
    command = subprocess.Popen(
        project.command("encrypt", "--jobs", "2", "--batch-size", "20", "--pause", "0.3", "--json"),
        cwd=project.folder,
        start_new_session=True,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not encrypted(project):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return command


def sessions(project: Project) -> int:
    with project.engine.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return connection.scalar(text(query)) or 0


@pytest.mark.slow
def test_ctrl_c_ends_every_process_after_its_transaction(project: Project) -> None:
    before = sessions(project)
    command = slow_command(project)
    at_least = encrypted(project)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    out, err = command.communicate(timeout=30)
    assert (command.returncode, "SENTINEL" in out + err) == (130, False)
    assert "ending after the transactions that have begun" in err
    assert "interrupted after" in err
    result = json.loads(out.splitlines()[-1])
    assert 0 < result["rewritten"] == encrypted(project) < at_least + 150  # a range has 312 rows
    assert sessions(project) <= before
    project.ok("encrypt", "--jobs", "2")
    assert encrypted(project) == ROWS


@pytest.mark.slow
def test_the_processes_end_with_the_one_that_started_them(project: Project) -> None:
    before = sessions(project)
    command = slow_command(project)
    command.kill()
    _, err = command.communicate()  # the processes have it as well, so this waits for them
    assert "Traceback" not in err
    deadline = time.monotonic() + 30
    while sessions(project) > before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert 0 < encrypted(project) < ROWS
    project.ok("encrypt", "--jobs", "2")
    assert encrypted(project) == ROWS


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_the_command_encrypts_and_verifies_in_processes(project: Project, driver: str) -> None:
    url = make_url(project.url)
    path = str(url.query["options"]).removeprefix("-csearch_path=")
    if driver == "asyncpg":
        with project.engine.begin() as connection:
            name = connection.engine.url.database
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET search_path TO {path}')
        url = url.set(drivername="postgresql+asyncpg").difference_update_query(["options"])
    address = url.render_as_string(hide_password=False)
    assert f"encrypt Integration: {ROWS} rows" in project.ok("encrypt", "--jobs", "2", "--url", address)
    assert "every value authenticates" in project.ok("verify", "--jobs", "2", "--url", address)
    if driver == "asyncpg":
        with project.engine.begin() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" RESET search_path')


def test_a_sample_of_a_small_table_is_small_in_processes_too(table: Engine) -> None:
    rewrite(ENCRYPT, table, "t", COLUMNS)
    report = rewrite(VERIFY, table, "t", COLUMNS, options=Options(jobs=2, sample=0.002))
    assert 100 <= report.read < ROWS / 4


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_sample_reads_about_that_share_and_finds_what_is_everywhere(project: Project, jobs: str) -> None:
    project.ok("encrypt")
    line = project.ok("verify", "--sample", "0.1", "--jobs", jobs)
    read = int(line.split("the values of ")[1].split()[0])
    assert ROWS * 0.03 < read < ROWS * 0.5
    with project.engine.begin() as connection:
        connection.exec_driver_sql('UPDATE "Integration" SET "accessToken" = \'SENTINEL\'')
    assert "PlaintextFoundError" in project.refused("verify", "--sample", "0.01", "--jobs", jobs)


def test_a_sample_of_a_small_table_is_not_empty(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(ring=KeyRing(primary=KEY), rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, token TEXT)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1, 'token-1'), (2, 'token-2')")
    rewrite(ENCRYPT, engine, "t", COLUMNS)
    assert rewrite(VERIFY, engine, "t", COLUMNS, options=Options(sample=0.002)).read == 2
    assert rewrite(VERIFY, engine, "t", COLUMNS, options=Options(sample=1)).read == 2
    with pytest.raises(SealchemyError, match="sample is for VERIFY"):
        rewrite(ENCRYPT, engine, "t", COLUMNS, options=Options(sample=0.1))
    for share in (0, 0.001, 1.1):
        with pytest.raises(UnsupportedOperationError, match=r"from 0\.002 to 1"):
            Options(sample=share)
