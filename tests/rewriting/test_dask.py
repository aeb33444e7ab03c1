"""Ranges of a table in a program that runs jobs, `dask.distributed`, one of whose processes is killed."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from sealchemy import Key, KeyRing, Rollout, attach_key_ring
from sealchemy.rewrite import ENCRYPT, VERIFY, Options, rewrite, split

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 20_000
COLUMNS = {"token": "t.token"}


def encrypt(line: str) -> int:
    """Encrypt a range; it runs in a process of dask's."""
    engine = create_engine(os.environ["JOBS_URL"], poolclass=NullPool)
    attach_key_ring(engine, KeyRing.from_env("JOBS"), rollout=Rollout.MIGRATE)
    options = Options(range=line, batch_size=100, pause=0.01)
    return rewrite(ENCRYPT, engine, "t", COLUMNS, options=options).rewritten


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask_runs_the_ranges_although_one_of_its_processes_is_killed(
    postgresql_url: str, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    import distributed

    key = Key.generate()
    monkeypatch.setenv("JOBS_URL", postgresql_url)
    monkeypatch.setenv("JOBS_KEY", key.reveal())
    engine = make_engine(postgresql_url, KeyRing(primary=key), rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, token TEXT)")
        connection.exec_driver_sql(f"INSERT INTO t SELECT i, 'token-' || i FROM generate_series(1, {ROWS}) AS i")

    def done() -> int:
        with engine.connect() as connection:
            return connection.scalar(text(r"SELECT count(*) FROM t WHERE token LIKE 'sealchemy\:%'")) or 0

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        pids = list(client.run(os.getpid).values())
        lines = split(engine, "t", 16)
        futures = client.map(encrypt, lines, pure=False)
        while not done():
            time.sleep(0.05)
        os.kill(pids[0], signal.SIGKILL)
        client.gather(futures)
        assert client.run(os.getpid)
    assert done() == ROWS
    assert rewrite(VERIFY, engine, "t", COLUMNS).failed == 0
