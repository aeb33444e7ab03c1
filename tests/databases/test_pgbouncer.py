"""PgBouncer in transaction mode between the application and PostgreSQL."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from sealchemy import Key, KeyRing, attach_key_ring
from sealchemy.rewrite import ENCRYPT, VERIFY, Options, rewrite
from tests.support.postgresql import _free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

DAEMON = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(DAEMON is None, reason="no PgBouncer (Debian: apt-get install pgbouncer)")
CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
logfile = {folder}/log
pidfile = {folder}/pid
"""


@pytest.fixture
def pooled_url(postgresql_database: str) -> Iterator[str]:
    """The URL of the worker's database through a dedicated PgBouncer."""
    url, own_port = make_url(postgresql_database), _free_port()
    folder = Path(tempfile.mkdtemp(prefix="sealchemy-pgbouncer-"))
    values = {"host": url.host, "port": url.port, "user": url.username, "own_port": own_port, "folder": folder}
    (folder / "pgbouncer.ini").write_text(CONFIGURATION.format(**values))
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        owner = pwd.getpwnam("nobody")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        account = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    command = [str(DAEMON), "--quiet", str(folder / "pgbouncer.ini")]
    with subprocess.Popen(command, cwd=folder, **account) as process:
        pooled = url.set(host="127.0.0.1", port=own_port)
        wait_for(create_engine(pooled, poolclass=NullPool))
        yield pooled.render_as_string(hide_password=False)
        process.terminate()
    shutil.rmtree(folder)


def wait_for(engine: Engine) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            engine.connect().close()
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def engine(pooled_url: str) -> Iterator[Engine]:
    """An engine without prepared statements, as the documentation recommends."""
    engine = create_engine(pooled_url, connect_args={"prepare_threshold": None})
    yield attach_key_ring(engine, KeyRing(primary=Key.generate()))
    engine.dispose()


def test_live_table_is_rewritten_through_pgbouncer(engine: Engine) -> None:
    table = f"grants_{secrets.token_hex(4)}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, access TEXT, counter INTEGER)"))
        rows = [{"id": number, "access": f"access-{number}"} for number in range(3000)]
        connection.execute(text(f"INSERT INTO {table} VALUES (:id, :access, 0)"), rows)
    stop, commits = threading.Event(), [0, 0]

    def count(worker: int) -> None:
        while not stop.is_set():
            with engine.begin() as connection:
                row = {"id": (commits[worker] * 7 + worker) % 3000}
                connection.execute(text(f"UPDATE {table} SET counter = counter + 1 WHERE id = :id"), row)
            commits[worker] += 1

    workers = [threading.Thread(target=count, args=[worker]) for worker in range(2)]
    for worker in workers:
        worker.start()
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection)
            operations: Any = Operations(context)
            with context.begin_transaction():
                operations.encrypt_columns(table, {"access": "g.access"})
                operations.require_encryption(table, {"access": "g.access"})
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    with engine.begin() as connection:
        stored = connection.scalars(text(f"SELECT access FROM {table}")).all()
        assert len(stored) == 3000
        assert all(value.startswith("sealchemy:v1:") for value in stored)
        assert connection.scalar(text(f"SELECT sum(counter) FROM {table}")) == sum(commits) > 0
        connection.execute(text(f"DROP TABLE {table}"))


def test_four_clients_share_the_pool(pooled_url: str) -> None:
    """They prepare no statements, although their engines would."""
    ring, table = KeyRing(primary=Key.generate()), f"grants_{secrets.token_hex(4)}"
    engines = [attach_key_ring(create_engine(pooled_url), ring) for _ in range(4)]
    with engines[0].begin() as connection:
        connection.execute(text(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, access TEXT)"))
        connection.execute(text(f"INSERT INTO {table} SELECT i, 'access-' || i FROM generate_series(1, 4000) AS i"))

    def encrypt(number: int) -> int:
        options = Options(batch_size=20, shard=(number + 1, 4))
        return rewrite(ENCRYPT, engines[number], table, {"access": "g.access"}, options=options).rewritten

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(encrypt, range(4))) == 4000
    assert rewrite(VERIFY, engines[0], table, {"access": "g.access"}).failed == 0
    with engines[0].begin() as connection:
        connection.execute(text(f"DROP TABLE {table}"))
    for engine in engines:
        engine.dispose()


def test_no_setting_leaks_into_pooled_connections(engine: Engine) -> None:
    before = settings(engine)
    test_live_table_is_rewritten_through_pgbouncer(engine)
    assert settings(engine) == before
    assert before[0][1] == "on"


def settings(engine: Engine) -> list[Any]:
    """Return the settings of all three pooled connections, which are held at the same time."""
    connections = [engine.connect() for _ in range(3)]
    try:
        query = text("SELECT current_setting('lock_timeout'), current_setting('row_security'), pg_backend_pid()")
        found = [connection.execute(query).one() for connection in connections]
        assert len({row[2] for row in found}) == 3
        return sorted(tuple(row[:2]) for row in found)
    finally:
        for connection in connections:
            connection.close()
