"""A run goes on after connections are lost, servers restart and statements are cut off."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from sealchemy import Key, KeyRing, attach_key_ring
from sealchemy._databases import access
from sealchemy._rewriting import pipeline
from sealchemy.rewrite import ENCRYPT, VERIFY, Options, rewrite
from tests.support import postgresql
from tests.support.tables import COLUMNS, grants, raw

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
ROWS = 3000


def revealed(engine: Engine) -> Any:
    decrypt = [RING.decryptor(context) for context in COLUMNS.values()]
    return {
        key: tuple(value and read(value) for read, value in zip(decrypt, row, strict=True))
        for key, row in raw(engine).items()
    }


def while_rewriting(engine: Engine, disturb: Callable[[], None], times: int) -> int:
    """Encrypt the table, and disturb that so many times; return the number of rows that were counted."""
    steps = 0

    def progress(_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps <= times:
            disturb()

    return rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=100), progress=progress).rewritten


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_sessions_that_are_ended_cost_nothing(
    kind: str, request: pytest.FixtureRequest, make_engine: Callable[..., Engine]
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    engine, other = make_engine(url, RING), create_engine(url)
    before = grants(engine, ROWS)
    with engine.connect() as connection:
        own = "pg_backend_pid()" if kind == "postgresql" else "connection_id()"
        pids = [connection.scalar(text(f"SELECT {own}"))]

    def end() -> None:
        with other.connect() as connection:
            if kind == "postgresql":
                query = (
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%grants%'"
                    " AND datname = current_database() AND pid <> pg_backend_pid()"
                )
                connection.execute(text(query))
            else:
                query = "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
                for pid in connection.scalars(text(query)).all():
                    connection.execute(text(f"KILL {pid}"))

    assert pids
    assert while_rewriting(engine, end, times=6) == ROWS
    assert rewrite(VERIFY, engine, "grants", COLUMNS).failed == 0
    assert revealed(engine) == before
    other.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("connections", [1, 3])
def test_a_server_that_restarts_is_waited_for(connections: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if connections > 1:
        monkeypatch.setattr(pipeline, "_LEAST_SIZE", 10_000)
    server = postgresql.start_any()
    if server is None:
        pytest.fail(postgresql.WHAT_TO_INSTALL)
    engine = attach_key_ring(create_engine(make_url(server.url).set(drivername="postgresql+psycopg")), RING)
    try:
        before = grants(engine, ROWS)

        def restart() -> None:
            server.crash()
            server.restart()

        assert while_rewriting(engine, restart, times=1) == ROWS
        assert revealed(engine) == before
    finally:
        engine.dispose()
        server.stop()


def test_a_server_that_stays_away_is_an_error(
    postgresql_url: str, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_PATIENCE_WITH_A_SERVER", 0.5)
    engine = make_engine(postgresql_url, RING, connect_args={"application_name": "away"})
    grants(engine, ROWS)
    other, ending = create_engine(postgresql_url), threading.Event()

    def end_all() -> None:
        with other.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not ending.wait(0.001):
                connection.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'away'")
                )

    thread = threading.Thread(target=end_all)
    thread.start()
    try:
        start = time.monotonic()
        with pytest.raises(DBAPIError):
            rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=1))
        assert time.monotonic() - start < 60
    finally:
        ending.set()
        thread.join()
        other.dispose()
    assert rewrite(ENCRYPT, engine, "grants", COLUMNS).pending == 0


@pytest.mark.parametrize("limit", ["20ms", pytest.param("3ms", marks=pytest.mark.soak)])  # 3 ms on an idle machine
def test_a_time_limit_for_statements_does_not_end_a_run(
    limit: str, postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    url = make_url(postgresql_url)
    options = f"{url.query['options']} -cstatement_timeout={limit}"
    limited = make_engine(url.update_query_dict({"options": options}).render_as_string(hide_password=False), RING)
    engine = make_engine(postgresql_url, RING)
    before = grants(engine, ROWS)
    assert rewrite(ENCRYPT, limited, "grants", COLUMNS).rewritten == ROWS
    assert revealed(engine) == before
