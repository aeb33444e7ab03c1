"""Concurrent refreshes, and refreshes interrupted by faults, across processes and on real databases."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event, make_url, select, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from sealchemy import (
    IntegrationError,
    Key,
    KeyRing,
    ReauthorizationRequiredError,
    RefreshFailedError,
    attach_key_ring,
)
from sealchemy.integrations import (
    Base,
    Integration,
    TokenGrant,
    disconnect_integration,
    get_valid_token,
    get_valid_token_async,
    sync_async,
    upsert_integration,
    waiting,
)
from tests.support import postgresql, processes
from tests.support.integrations import WHOSE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.support.provider import Provider


class Place:
    """A database with one integration whose access token has expired."""

    def __init__(self, url: str, provider: Provider, **options: Any) -> None:
        self.url, self.key = url, Key.generate()
        self.engine: Engine = attach_key_ring(create_engine(url, **options), KeyRing(primary=self.key))
        self.sessions = sessionmaker(self.engine)
        Base.metadata.create_all(self.engine)
        token = provider.grant()
        grant = TokenGrant(access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
        with self.sessions.begin() as session:
            upsert_integration(session, **WHOSE, grant=grant)
        self.arguments = {"url": url, "keys": [self.key.reveal()], "token_endpoint": f"{provider.url}/token"}

    def row(self) -> Integration:
        with self.sessions() as session:
            return session.scalars(select(Integration)).one()

    def tokens(self) -> tuple[str, str]:
        with self.sessions() as session:
            return tuple(session.execute(select(Integration.access_token, Integration.refresh_token)).one())  # type: ignore[return-value]


@pytest.fixture
def place(database_url: str, oauth_provider: Provider) -> Iterator[Place]:
    if database_url.startswith("postgresql"):
        url = make_url(database_url)
        options = f"{url.query['options']} -cidle_in_transaction_session_timeout=1s"
        database_url = url.update_query_dict({"options": options}).render_as_string(hide_password=False)
    found = Place(database_url, oauth_provider)
    yield found
    found.engine.dispose()


def test_32_callers_in_4_processes_make_one_refresh(place: Place, oauth_provider: Provider) -> None:
    oauth_provider.delay = 3
    oauth_provider.lifetime = 100  # less than the leeway
    started = [processes.start("callers", **place.arguments, count=8) for _ in range(4)]
    assert oauth_provider.in_request.wait(60)
    waited = []
    for _ in range(5):  # other sessions can write to the row while the provider is slow
        time.sleep(0.3)
        start = time.monotonic()
        with place.sessions.begin() as session:
            session.execute(text("UPDATE integrations SET scope = 'written meanwhile'"))
        waited.append(time.monotonic() - start)
    outputs = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * 4, outputs
    tokens = [token for out, _ in outputs for token in json.loads(out.splitlines()[-1])]
    assert (len(tokens), len(set(tokens)), oauth_provider.counts["/token"]) == (32, 1, 1)
    assert tokens[0] == oauth_provider.tokens[-1].access_token
    assert place.tokens() == (tokens[0], oauth_provider.tokens[-1].refresh_token)
    assert max(waited) < 1.5


def test_no_connection_is_checked_out_during_the_provider_request(place: Place, oauth_provider: Provider) -> None:
    oauth_provider.delay = 1.5
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, place.sessions, **WHOSE, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        seen = []
        while oauth_provider.counts["/token"] and len(oauth_provider.tokens) == 1:
            seen.append(place.engine.pool.checkedout())  # type: ignore[attr-defined]
            time.sleep(0.02)
        assert asking.result()
    assert len(seen) > 20
    assert sum(seen[:-2]) == 0


@pytest.mark.slow
def test_lease_of_a_dead_process_is_taken_over(place: Place, oauth_provider: Provider) -> None:
    oauth_provider.delay = 0.4
    dying = processes.start("dying", **place.arguments, transactions=99)
    assert oauth_provider.in_request.wait(60)
    dying.kill()
    dying.communicate()
    oauth_provider.delay = 0
    start = time.monotonic()
    assert place.row().refresh_lease
    with pytest.raises(ReauthorizationRequiredError):  # the provider rotated the token, and revokes the family
        get_valid_token(place.sessions, **WHOSE, client=oauth_provider.client())
    assert 1 < time.monotonic() - start < 15
    assert place.row().refresh_lease is None


@pytest.mark.slow
def test_crash_before_the_request_only_delays_the_refresh(place: Place, oauth_provider: Provider) -> None:
    dying = processes.start("dying", **place.arguments, transactions=99, at_the_request=True)
    dying.communicate(timeout=60)
    assert (dying.returncode, oauth_provider.counts["/token"]) == (9, 0)
    assert place.row().refresh_lease
    start = time.monotonic()
    token = get_valid_token(place.sessions, **WHOSE, client=oauth_provider.client())
    assert (token, oauth_provider.counts["/token"]) == (oauth_provider.tokens[-1].access_token, 1)
    assert 1 < time.monotonic() - start < 15


@pytest.mark.slow
def test_crash_between_response_and_commit_requires_reauthorization(place: Place, oauth_provider: Provider) -> None:
    dying = processes.start("dying", **place.arguments, transactions=2)
    dying.communicate(timeout=60)
    assert dying.returncode == 9
    assert oauth_provider.counts["/token"] == 1
    for _ in range(3):
        with pytest.raises(ReauthorizationRequiredError):
            get_valid_token(place.sessions, **WHOSE, client=oauth_provider.client())
    assert oauth_provider.counts["/token"] == 2  # the old refresh token is sent once more, and never again
    assert place.row().reauthorization_required


def test_connections_lost_during_the_request_lose_no_token(
    postgresql_url: str, postgresql_database: str, oauth_provider: Provider
) -> None:
    place = Place(postgresql_url, oauth_provider, connect_args={"application_name": "lost"})
    oauth_provider.delay = 0.7
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, place.sessions, **WHOSE, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        other = create_engine(postgresql_database)
        with other.begin() as connection:
            ended = connection.scalars(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'lost'"
                )
            ).all()
        other.dispose()
        assert ended
        token = asking.result()
    assert place.tokens() == (token, oauth_provider.tokens[-1].refresh_token)
    assert oauth_provider.counts["/token"] == 1
    place.engine.dispose()


@pytest.mark.slow
def test_server_restart_during_the_request_loses_no_token(oauth_provider: Provider) -> None:
    server = postgresql.start_any(fsync="on")
    assert server
    try:
        place = Place(server.url, oauth_provider)
        oauth_provider.delay = 0.5
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(get_valid_token, place.sessions, **WHOSE, client=oauth_provider.client())
            assert oauth_provider.in_request.wait(10)
            server.crash()
            time.sleep(2)  # the response has arrived, but the server is down
            assert not asking.done()
            server.restart()
            token = asking.result()
        assert place.tokens() == (token, oauth_provider.tokens[-1].refresh_token)
        place.engine.dispose()
    finally:
        server.stop()


@pytest.mark.parametrize("patience", [60.0, 0.5], ids=["stored eventually", "given up"])
def test_no_token_is_returned_before_it_is_stored(
    tmp_path: Path, oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(sync_async, "STORE_SECONDS", patience)
    path = tmp_path / "test.db"
    place = Place(f"sqlite:///{path}", oauth_provider, connect_args={"timeout": 0.1})
    before = place.tokens()
    oauth_provider.delay = 0.5
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, place.sessions, **WHOSE, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        time.sleep(2)
        if patience > 1:
            assert not asking.done()
            blocker.execute("ROLLBACK")
            token = asking.result()
            assert place.tokens() == (token, oauth_provider.tokens[-1].refresh_token)
        else:
            with pytest.raises(RefreshFailedError, match="did not store the tokens"):
                asking.result()
            blocker.execute("ROLLBACK")
            assert place.tokens() == before
        blocker.close()
    place.engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("level", ["AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"])
def test_refresh_works_at_any_isolation_level(postgresql_url: str, oauth_provider: Provider, level: str) -> None:
    place = Place(postgresql_url, oauth_provider, isolation_level=level, pool_size=20)
    oauth_provider.lifetime = 4
    client = oauth_provider.client()

    def ask(_: int) -> str:
        return str(get_valid_token(place.sessions, **WHOSE, client=client, leeway=1))

    with ThreadPoolExecutor(20) as pool:
        for _ in range(3):
            tokens = set(pool.map(ask, range(20)))
            assert tokens <= {token.access_token for token in oauth_provider.tokens}
            time.sleep(3.1)
    assert oauth_provider.counts["reused"] == 0
    assert oauth_provider.counts["/token"] <= 6
    with place.engine.connect() as connection:
        assert level in (connection.get_isolation_level(), "AUTOCOMMIT")  # unchanged
    place.engine.dispose()


def test_autocommit_on_sqlite_is_refused(tmp_path: Path, oauth_provider: Provider) -> None:
    place = Place(f"sqlite:///{tmp_path / 'a.db'}", oauth_provider, isolation_level="AUTOCOMMIT")
    with pytest.raises(IntegrationError, match="AUTOCOMMIT"):
        get_valid_token(place.sessions, **WHOSE, client=oauth_provider.client())
    assert oauth_provider.counts["/token"] == 0
    place.engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_lock_before_the_second_transaction_loses_no_token_async(
    postgresql_url: str, oauth_provider: Provider, driver: str
) -> None:
    place = Place(postgresql_url, oauth_provider)
    parsed = make_url(postgresql_url)
    schema = str(parsed.query["options"]).partition("=")[2]
    if driver == "asyncpg":
        settings = {"server_settings": {"search_path": schema, "lock_timeout": "100ms"}}
    else:
        settings = {"options": f"-csearch_path={schema} -clock_timeout=100ms"}
    url = parsed.set(drivername=f"postgresql+{driver}", query={})
    oauth_provider.delay = 0.5

    async def scenario() -> str:
        engine = attach_key_ring(create_async_engine(url, connect_args=settings), KeyRing(primary=place.key))
        asking = asyncio.ensure_future(
            get_valid_token_async(async_sessionmaker(engine), **WHOSE, client=oauth_provider.client())
        )
        await asyncio.to_thread(oauth_provider.in_request.wait, 10)
        with place.sessions() as holder:
            holder.execute(text("UPDATE integrations SET scope = 'locked'"))
            await asyncio.sleep(1.5)
            assert not asking.done()
            holder.rollback()
        token = await asking
        await engine.dispose()
        return str(token)

    token = asyncio.run(scenario())
    assert place.tokens() == (token, oauth_provider.tokens[-1].refresh_token)
    place.engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("patience", [0.3, 1.5], ids=["during the request", "while storing"])
def test_closing_the_event_loop_loses_no_token(tmp_path: Path, oauth_provider: Provider, patience: float) -> None:
    path = tmp_path / "a.db"
    place = Place(f"sqlite:///{path}", oauth_provider)
    oauth_provider.delay = 1
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 0})
    attach_key_ring(engine, KeyRing(primary=place.key))

    async def impatient() -> None:
        asking = get_valid_token_async(async_sessionmaker(engine), **WHOSE, client=oauth_provider.client())
        await asyncio.wait_for(asking, patience)

    def block() -> None:  # blocks the database, which forces retries to store the token
        assert oauth_provider.in_request.wait(10)
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        time.sleep(2.5)
        blocker.close()

    blocking = threading.Thread(target=block if patience > 1 else time.time)
    blocking.start()
    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    blocking.join()
    assert place.tokens() == (oauth_provider.tokens[-1].access_token, oauth_provider.tokens[-1].refresh_token)
    assert (len(oauth_provider.tokens), place.row().refresh_lease) == (2, None)
    asyncio.run(engine.dispose())
    place.engine.dispose()


@pytest.mark.slow
def test_a_hung_provider_leaves_the_event_loop_alone(tmp_path: Path, oauth_provider: Provider) -> None:
    """Other users are served, and not even the default executor, in which names are resolved, waits."""
    users, began = 60, time.monotonic()
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    key_ring, token = KeyRing(primary=Key.generate()), oauth_provider.grant()
    sessions = sessionmaker(attach_key_ring(engine, key_ring))
    Base.metadata.create_all(engine)
    with sessions.begin() as session:
        for number in range(users):
            grant = TokenGrant(access_token="old", refresh_token=token.refresh_token, expires_in=0)
            upsert_integration(session, user_id=f"u{number}", provider="google", grant=grant)
        upsert_integration(session, user_id="valid", provider="google", grant=TokenGrant(access_token="valid"))
    oauth_provider.delay = 6
    own = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}", connect_args={"timeout": 60})
    attach_key_ring(own, key_ring)

    async def ask(number: int) -> object:
        whose = {"user_id": f"u{number}", "provider": "google"}
        client = oauth_provider.client(timeout=3)
        try:
            return await get_valid_token_async(async_sessionmaker(own), **whose, client=client)
        except RefreshFailedError as error:
            return error.code

    async def serve() -> object:
        whose = {"user_id": "valid", "provider": "google"}
        return await get_valid_token_async(async_sessionmaker(own), **whose, client=oauth_provider.client())

    async def scenario() -> tuple[list[object], list[float], list[float]]:
        loop = asyncio.get_running_loop()
        asked = [asyncio.ensure_future(ask(number)) for number in range(users)]
        turns, names = [], []
        while oauth_provider.counts["/token"] < users // 2:  # noqa: ASYNC110 - counted in other threads
            await asyncio.sleep(0.05)
        while not all(item.done() for item in asked):
            start = time.monotonic()
            assert await serve() == "valid"
            turns.append(time.monotonic() - start)
            start = time.monotonic()
            await loop.getaddrinfo("localhost", 80)
            names.append(time.monotonic() - start)
            await asyncio.sleep(0.01)
        ended = await asyncio.gather(*asked)
        await own.dispose()
        return ended, turns, names

    ended, turns, names = asyncio.run(scenario())
    engine.dispose()
    assert ended == ["timeout"] * users
    assert oauth_provider.counts["/token"] == users
    assert time.monotonic() - began < 60  # and not one after the other
    assert len(turns) > 5
    assert statistics.median(turns) < 0.5, sorted(turns)[-5:]
    assert sorted(turns)[-2] < 2.0, sorted(turns)[-5:]
    assert sorted(names)[-2] < 2.0, sorted(names)[-5:]


def test_sessions_with_per_model_binds_work(tmp_path: Path, oauth_provider: Provider) -> None:
    place = Place(f"sqlite:///{tmp_path / 'a.db'}", oauth_provider)
    sessions = sessionmaker(binds={Integration: place.engine})
    token = get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    assert place.tokens() == (token, oauth_provider.tokens[-1].refresh_token)
    with sessions.begin() as session:
        upsert_integration(session, **WHOSE, grant=TokenGrant(access_token="a", expires_in=9))
    place.engine.dispose()


def test_token_stored_during_a_disconnect_is_also_revoked(tmp_path: Path, oauth_provider: Provider) -> None:
    place = Place(f"sqlite:///{tmp_path / 'a.db'}", oauth_provider)
    client = oauth_provider.client()
    revoke, later = client.revoke, oauth_provider.grant()

    def reconnected(token: str) -> None:
        revoke(token)
        if not later.revoked and oauth_provider.counts["/revoke"] == 1:
            grant = TokenGrant(access_token=later.access_token, refresh_token=later.refresh_token)
            with place.sessions.begin() as session:
                upsert_integration(session, **WHOSE, grant=grant)

    client.revoke = reconnected  # type: ignore[method-assign] # reconnects in the middle of the disconnect
    disconnect_integration(place.sessions, **WHOSE, client=client)
    assert later.revoked
    with place.sessions() as session:
        assert session.scalars(select(Integration)).all() == []
    place.engine.dispose()


def test_request_that_starts_too_late_takes_a_new_lease_first(
    tmp_path: Path, oauth_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_LATEST", 0.3)
    place = Place(f"sqlite:///{tmp_path / 'a.db'}", oauth_provider)
    claims: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "SET refresh_lease=?, refresh_lease_until=?" in statement and parameters[0] is not None:
            claims.append(parameters[0])

    request = sync_async.BlockingRunner.request

    async def late(runner: Any, call: Any) -> Any:
        if len(claims) == 1:
            time.sleep(0.5)  # noqa: ASYNC251 - as if the machine had slept
        return await request(runner, call)

    monkeypatch.setattr(sync_async.BlockingRunner, "request", late)
    event.listen(place.engine, "before_cursor_execute", note)
    get_valid_token(place.sessions, **WHOSE, client=oauth_provider.client())
    assert oauth_provider.counts["/token"] == 1
    assert len(claims) == 2  # a second lease was taken
    place.engine.dispose()


def test_response_that_arrives_with_the_cancellation_is_kept() -> None:
    async def scenario() -> str:
        request = sync_async.AsyncRunner(lambda: None).request(lambda: time.sleep(0.1) or "answer")  # type: ignore[arg-type,return-value,func-returns-value]
        asking = asyncio.ensure_future(request)
        await asyncio.sleep(0.02)
        time.sleep(0.3)  # noqa: ASYNC251 - the response arrives while the loop is blocked
        asking.cancel()
        return await asking

    assert asyncio.run(scenario()) == "answer"
