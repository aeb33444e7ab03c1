"""The developer playbook, followed from plaintext to required ciphertext and back, on a table in use."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, bindparam, create_engine, select, text, update
from sqlalchemy.exc import DBAPIError

from sealchemy import EncryptedString, Key, KeyRing, Rollout, UnsupportedOperationError, attach_key_ring
from sealchemy.plan import plan
from sealchemy.rewrite import REKEY, VERIFY, rewrite
from sealchemy.status import check_encryption, column_status
from tests.support.alembic import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

ROWS = 3000
COLUMNS = {"token": "accounts.token"}
OLD, NEW = Key.generate(), Key.generate()
metadata = MetaData()
accounts = Table(
    "accounts", metadata, Column("id", Integer, primary_key=True), Column("token", EncryptedString("accounts.token"))
)
SCHEMA = (
    "CREATE TABLE accounts (id integer PRIMARY KEY, token varchar(255) CONSTRAINT u UNIQUE)",
    f"INSERT INTO accounts SELECT i, 'token-SENTINEL-0-' || i FROM generate_series(1, {ROWS}) AS i",
    "CREATE VIEW report AS SELECT id, token FROM accounts",
    "CREATE TABLE audit (token text)",
    (
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO audit VALUES (OLD.token); RETURN NULL; END'"
    ),
    "CREATE TRIGGER audit_accounts AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note()",
)


class Writer:
    """A release of the application that replaces tokens, and remembers which replacements were acknowledged."""

    def __init__(self, name: int, engine: Engine, table: Any) -> None:
        self.name, self.engine, self.table = name, engine, table
        self.acknowledged: dict[int, str] = {}
        self.seen_ciphertext = 0
        self.stopped = threading.Event()

    def work(self) -> None:
        """Read a token, compare it with the last one that was acknowledged, and write the next."""
        number = 0
        while not self.stopped.is_set():
            number += 1
            key = 1 + (number * 3 + self.name) % ROWS // 3 * 3 + self.name
            value = f"token-SENTINEL-{number}-{key}"
            try:
                with self.engine.begin() as connection:
                    query = select(self.table.c.token).where(self.table.c.id == key).with_for_update()
                    found = connection.scalar(query)
                    self.seen_ciphertext += str(found).startswith("sealchemy:")
                    assert found == self.acknowledged.get(key, f"token-SENTINEL-0-{key}"), key
                    change = update(self.table).where(self.table.c.id == key).values(token=bindparam("new"))
                    connection.execute(change, {"new": value})
                self.acknowledged[key] = value
            except DBAPIError as error:
                assert "cached plan" in str(error) or "lock" in str(error).lower(), error
                self.engine.dispose()  # as the playbook says after the widening
            time.sleep(0.002)


class Readers:
    """One that reads the table over and over, and one that asks the server for nothing but an answer."""

    def __init__(self) -> None:
        self.of_table = [time.monotonic()]
        self.of_nothing = [time.monotonic()]

    def longest_wait_for_the_table(self) -> float:
        """Return the seconds that the first waited and the second did not: a slow machine holds up both."""
        return max(
            after - before - self._longest_wait_for_nothing(before, after) for before, after in pairwise(self.of_table)
        )

    def _longest_wait_for_nothing(self, before: float, after: float) -> float:
        answers = [before, *(moment for moment in self.of_nothing if before < moment < after), after]
        return max(end - start for start, end in pairwise(answers))


@contextmanager
def reading(url: str) -> Iterator[Readers]:
    engine, stop, readers = create_engine(url), threading.Event(), Readers()

    def read(query: str, times: list[float]) -> None:
        while not stop.is_set():
            try:
                with engine.connect() as connection:
                    connection.execute(text(query))
                times.append(time.monotonic())
            except DBAPIError:
                engine.dispose()
            time.sleep(0.005)

    threads = [
        threading.Thread(target=read, args=arguments, daemon=True)
        for arguments in (
            ("SELECT token FROM accounts WHERE id = 1", readers.of_table),
            ("SELECT 1", readers.of_nothing),
        )
    ]
    for thread in threads:
        thread.start()
    yield readers
    stop.set()
    for thread in threads:
        thread.join()
    engine.dispose()


@contextmanager
def long_reader(url: str, seconds: float) -> Iterator[None]:
    """Use the table in a transaction for some seconds while something else is done."""
    engine, ready = create_engine(url), threading.Event()

    def read() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT count(*) FROM accounts"))
            ready.set()
            time.sleep(seconds)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert ready.wait(30)
    yield
    thread.join()
    engine.dispose()


def execute(engine: Engine, *statements: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET lock_timeout = '5s'"))
        for statement in statements:
            connection.exec_driver_sql(statement)


def count(engine: Engine, sql: str) -> int:
    with engine.connect() as connection:
        return connection.scalar(text(sql)) or 0


@pytest.mark.parametrize("seconds", [1.5, pytest.param(30, marks=pytest.mark.soak)])
def test_playbook_loses_no_update_and_stops_no_reader(  # noqa: PLR0915 - one story
    postgresql_url: str, tmp_path: Path, make_engine: Callable[..., Engine], seconds: float
) -> None:
    operator = make_engine(postgresql_url, KeyRing(primary=OLD), rollout=Rollout.PREPARE)
    execute(operator, *SCHEMA)
    plain = Table("accounts", MetaData(), autoload_with=operator)
    old_release = Writer(0, create_engine(postgresql_url), plain)
    application = [make_engine(postgresql_url, KeyRing(primary=OLD), rollout=Rollout.PREPARE) for _ in range(2)]
    new_release, refreshing = (Writer(1 + index, engine, accounts) for index, engine in enumerate(application))
    project = Project(tmp_path, operator)
    project.revision("op.widen_columns('accounts', ['token'])")
    project.revision(f"op.encrypt_columns('accounts', {COLUMNS!r})", f"op.decrypt_columns('accounts', {COLUMNS!r})")
    project.revision(f"op.require_encryption('accounts', {COLUMNS!r})", f"op.allow_plaintext('accounts', {COLUMNS!r})")

    def deploy(rollout: Rollout, ring: KeyRing) -> None:
        for engine in (*application, operator):
            attach_key_ring(engine, ring, rollout=rollout)
        check_encryption(operator, metadata)

    def obstacles() -> set[str]:
        return {item.label for table in plan(operator, metadata) for item in table.obstacles()}

    writers = (old_release, new_release, refreshing)
    with ThreadPoolExecutor() as pool, reading(postgresql_url) as readers:
        work = [pool.submit(writer.work) for writer in writers]
        try:
            assert obstacles() == {"width:token", "unique:u", "view:report", "trigger:audit_accounts"}
            execute(operator, "ALTER TABLE accounts DROP CONSTRAINT u", "DROP VIEW report")
            with long_reader(postgresql_url, seconds):
                project.upgrade("r0")
            assert obstacles() == {"trigger:audit_accounts"}

            old_release.stopped.set()
            work[0].result()
            deploy(Rollout.MIGRATE, KeyRing(primary=OLD))
            with pytest.raises(UnsupportedOperationError, match="trigger:audit_accounts"):
                project.upgrade("r1")
            execute(operator, "ALTER TABLE accounts DISABLE TRIGGER audit_accounts")
            execute(operator, "DELETE FROM audit")
            project.upgrade("r1")
            assert rewrite(VERIFY, operator, "accounts", COLUMNS).failed == 0
            assert count(operator, "SELECT count(*) FROM audit") == 0

            deploy(Rollout.STRICT, KeyRing(primary=OLD))
            with long_reader(postgresql_url, seconds):
                project.upgrade("r2")
            execute(operator, "ALTER TABLE accounts ENABLE TRIGGER audit_accounts")
            execute(operator, "CREATE VIEW report AS SELECT id, token FROM accounts")

            deploy(Rollout.STRICT, KeyRing(primary=OLD, previous=[NEW]))
            deploy(Rollout.STRICT, KeyRing(primary=NEW, previous=[OLD]))
            rewrite(REKEY, operator, "accounts", COLUMNS)
            assert dict(column_status(operator, "accounts", COLUMNS)[0].keys) == {NEW.id: ROWS}
            deploy(Rollout.STRICT, KeyRing(primary=NEW))
            assert count(operator, "SELECT count(*) FROM audit WHERE token NOT LIKE 'sealchemy:v1:%'") == 0

            deploy(Rollout.MIGRATE, KeyRing(primary=NEW))
            with long_reader(postgresql_url, seconds):
                project.downgrade("r1")
            execute(operator, "ALTER TABLE accounts DISABLE TRIGGER audit_accounts")
            for engine in application:
                attach_key_ring(engine, KeyRing(primary=NEW), rollout=Rollout.PREPARE)
            project.downgrade("r0", "allow-plaintext=yes")
        finally:
            for writer in writers:
                writer.stopped.set()
            for item in work:
                item.result()
    assert readers.longest_wait_for_the_table() < 1
    assert old_release.seen_ciphertext == 0
    acknowledged: dict[int, str] = {}
    for writer in writers:
        assert len(writer.acknowledged) > 50
        acknowledged |= writer.acknowledged
    with operator.connect() as connection:
        stored = dict(connection.execute(text("SELECT id, token FROM accounts")).all())
    assert stored == {key: acknowledged.get(key, f"token-SENTINEL-0-{key}") for key in range(1, ROWS + 1)}
    old_release.engine.dispose()
