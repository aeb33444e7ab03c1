"""Connect, refresh, reconnect and disconnect against a real provider."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import time_machine
from sqlalchemy import create_engine, event, select, text, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, scoped_session, sessionmaker

from sealchemy import (
    DecryptionError,
    EncryptedString,
    EnvelopeFormatError,
    IntegrationError,
    IntegrationNotFoundError,
    Key,
    KeyRing,
    PlaintextFoundError,
    PlaintextTypeError,
    ReauthorizationRequiredError,
    RefreshFailedError,
    RevocationFailedError,
    Rollout,
    SecretString,
    attach_key_ring,
)
from sealchemy.integrations import (
    Base,
    Integration,
    IntegrationMixin,
    TokenGrant,
    disconnect_integration,
    disconnect_integration_async,
    get_valid_token,
    get_valid_token_async,
    upsert_integration,
)
from tests.support.integrations import WHOSE, connect, store
from tests.support.leaks import SENTINEL, assert_silent
from tests.support.provider import Answer, Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine


@pytest.fixture
def connected(sessions: sessionmaker[Session], oauth_provider: Provider) -> sessionmaker[Session]:
    """An integration with an expired access token."""
    connect(sessions, oauth_provider)
    return sessions


def row(sessions: sessionmaker[Session]) -> Any:
    columns = [getattr(Integration, name) for name in ("access_token", "refresh_token", "expires_at", "scope")]
    others = [Integration.reauthorization_required, Integration.refresh_lease, Integration.updated_at]
    with sessions() as session:
        return session.execute(select(*columns, *others)).one()


def works(provider: Provider, token: str) -> bool:
    answer = requests.get(f"{provider.url}/calendar", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    return answer.status_code == 200


@pytest.mark.slow
def test_connect_refresh_a_hundred_times_and_revoke(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    client = oauth_provider.client()
    asked = client.authorization_request("http://127.0.0.1/callback")
    answer = requests.get(asked.url, allow_redirects=False, timeout=10)
    code = parse_qs(urlsplit(answer.headers["Location"]).query)["code"][0]
    grant = client.exchange_code(code, "http://127.0.0.1/callback", asked.code_verifier)
    with sessions.begin() as session:
        upsert_integration(session, **WHOSE, grant=grant)
    token = get_valid_token(sessions, **WHOSE, client=client)
    assert token == grant.access_token
    assert works(oauth_provider, token)
    assert oauth_provider.counts["/token"] == 1
    seen = {token}
    for _ in range(100):
        with sessions.begin() as session:
            session.execute(update(Integration).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
        token = get_valid_token(sessions, **WHOSE, client=client)
        assert isinstance(token, SecretString)
        seen.add(token)
    assert (len(seen), oauth_provider.counts["/token"], oauth_provider.counts["reused"]) == (101, 101, 0)
    assert works(oauth_provider, token)
    assert get_valid_token(sessions, **WHOSE, client=client) == token
    disconnect_integration(sessions, **WHOSE, client=client)
    assert not works(oauth_provider, token)
    with pytest.raises(IntegrationNotFoundError, match="connect it first"):
        get_valid_token(sessions, **WHOSE, client=client)
    with pytest.raises(IntegrationNotFoundError):
        disconnect_integration(sessions, **WHOSE, client=client)


def test_leeway_decides_when_a_token_is_refreshed(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    token, client = oauth_provider.grant(), oauth_provider.client()
    store(sessions, access_token=token.access_token, refresh_token=token.refresh_token, expires_in=200)
    get_valid_token(sessions, **WHOSE, client=client, leeway=100)
    get_valid_token(sessions, **WHOSE, client=client, leeway=timedelta(seconds=100))
    assert oauth_provider.counts["/token"] == 0
    get_valid_token(sessions, **WHOSE, client=client)  # the default leeway is 300 seconds
    assert oauth_provider.counts["/token"] == 1
    for leeway in (-1, float("nan"), float("inf"), 1e12):
        with pytest.raises(IntegrationError, match="leeway"):
            get_valid_token(sessions, **WHOSE, client=client, leeway=leeway)


def test_token_without_expiry_is_valid_until_rejected(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    token, client = oauth_provider.grant(), oauth_provider.client()
    store(sessions, access_token=token.access_token, refresh_token=token.refresh_token)
    first = get_valid_token(sessions, **WHOSE, client=client)
    assert (first, oauth_provider.counts["/token"]) == (token.access_token, 0)
    second = get_valid_token(sessions, **WHOSE, client=client, rejected=first)
    assert second != first
    assert get_valid_token(sessions, **WHOSE, client=client, rejected=first) == second
    assert oauth_provider.counts["/token"] == 1


def test_access_token_without_refresh_token_is_used_until_it_expires(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    client = oauth_provider.client()
    store(sessions, access_token="ya29.only", expires_in=60)
    assert get_valid_token(sessions, **WHOSE, client=client) == "ya29.only"
    store(sessions, access_token="ya29.only", expires_in=0)
    for _ in range(2):
        with pytest.raises(ReauthorizationRequiredError, match="no refresh token"):
            get_valid_token(sessions, **WHOSE, client=client)
    assert row(sessions).reauthorization_required
    assert oauth_provider.counts["/token"] == 0


def test_refresh_token_is_kept_if_the_provider_does_not_rotate_it(
    connected: sessionmaker[Session], oauth_provider: Provider
) -> None:
    oauth_provider.rotates = False
    before = row(connected).refresh_token
    token = get_valid_token(connected, **WHOSE, client=oauth_provider.client())
    after = row(connected)
    assert (after.access_token, after.refresh_token, after.refresh_lease) == (token, before, None)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(400, {"error": "invalid_client"}), RefreshFailedError),
        (Answer(429, "", {"Retry-After": "7"}), RefreshFailedError),
        (Answer(500, "oops"), RefreshFailedError),
        (Answer(200, "not json"), RefreshFailedError),
        (Answer(200, {"token_type": "Bearer"}), RefreshFailedError),
        (Answer(200, {"access_token": "x"}, drip=0.2), RefreshFailedError),
    ],
    ids=lambda value: str(value.body) if isinstance(value, Answer) else "",
)
def test_a_failed_refresh_changes_nothing(
    connected: sessionmaker[Session], oauth_provider: Provider, answer: Answer, error: type[Exception]
) -> None:
    before = row(connected)
    oauth_provider.answers.append(answer)
    with pytest.raises(error):
        get_valid_token(connected, **WHOSE, client=oauth_provider.client(timeout=1))
    assert row(connected) == before
    if "Retry-After" in answer.headers:
        with pytest.raises(RefreshFailedError, match=r"asked again in [67] s") as caught:
            get_valid_token(connected, **WHOSE, client=oauth_provider.client())
        assert (caught.value.code, oauth_provider.counts["/token"]) == ("rate_limited", 1)
        with connected.begin() as session:
            session.execute(update(Integration).values(next_attempt_at=None))
    assert works(oauth_provider, get_valid_token(connected, **WHOSE, client=oauth_provider.client()))


@pytest.mark.parametrize("given", [{}, {"expires_in": 0}, {"expires_in": -9}, {"expires_in": "soon"}])
def test_token_with_an_odd_lifetime_is_stored_and_returned(
    connected: sessionmaker[Session], oauth_provider: Provider, given: dict[str, Any]
) -> None:
    oauth_provider.answers.append(Answer(200, {"access_token": "ya29.odd", "refresh_token": "1//odd", **given}))
    assert get_valid_token(connected, **WHOSE, client=oauth_provider.client()) == "ya29.odd"
    assert row(connected).refresh_token == "1//odd"
    assert oauth_provider.counts["/token"] == 1


def test_provider_that_returns_the_same_token_is_asked_once(
    connected: sessionmaker[Session], oauth_provider: Provider
) -> None:
    token = row(connected).access_token
    oauth_provider.answers.append(Answer(200, {"access_token": str(token), "expires_in": 1}))
    assert get_valid_token(connected, **WHOSE, client=oauth_provider.client()) == token
    oauth_provider.answers.append(Answer(200, {"access_token": str(token), "expires_in": 3600}))
    assert get_valid_token(connected, **WHOSE, client=oauth_provider.client(), rejected=token) == token
    assert oauth_provider.counts["/token"] == 2


@pytest.mark.parametrize("wrong_by", [timedelta(minutes=-20), timedelta(minutes=20)])
def test_only_the_database_clock_matters(
    sessions: sessionmaker[Session], oauth_provider: Provider, wrong_by: timedelta
) -> None:
    token, client = oauth_provider.grant(), oauth_provider.client()
    with time_machine.travel(datetime.now(UTC) + wrong_by):
        store(sessions, access_token=token.access_token, refresh_token=token.refresh_token, expires_in=600)
        assert get_valid_token(sessions, **WHOSE, client=client) == token.access_token
        assert get_valid_token(sessions, **WHOSE, client=client, leeway=700) != token.access_token
    found = row(sessions).expires_at - datetime.now(UTC)
    assert timedelta(seconds=3500) < found < timedelta(seconds=3700)


def test_revoked_grant_is_remembered_until_the_user_reconnects(
    connected: sessionmaker[Session], oauth_provider: Provider
) -> None:
    oauth_provider.end(oauth_provider.tokens[0].family)
    before = row(connected)
    for _ in range(3):
        with pytest.raises(ReauthorizationRequiredError):
            get_valid_token(connected, **WHOSE, client=oauth_provider.client())
    after = row(connected)
    assert oauth_provider.counts["/token"] == 1
    assert (after.reauthorization_required, after.refresh_lease) == (True, None)
    assert (after.access_token, after.refresh_token) == (before.access_token, before.refresh_token)
    token = oauth_provider.grant()
    store(connected, access_token=token.access_token, refresh_token=token.refresh_token, expires_in=3600)
    assert not row(connected).reauthorization_required
    assert works(oauth_provider, get_valid_token(connected, **WHOSE, client=oauth_provider.client()))


def test_a_reconnect_during_a_refresh_wins(connected: sessionmaker[Session], oauth_provider: Provider) -> None:
    for ended in (False, True):  # whether the provider accepts or rejects the refresh token
        store(connected, access_token="ya29.old", refresh_token=oauth_provider.grant().refresh_token, expires_in=0)
        oauth_provider.in_request.clear()
        oauth_provider.delay = 0.7
        if ended:
            oauth_provider.answers.append(Answer(400, {"error": "invalid_grant"}))
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(get_valid_token, connected, **WHOSE, client=oauth_provider.client())
            assert oauth_provider.in_request.wait(10)
            store(connected, access_token="ya29.reconnected", refresh_token="1//reconnected", expires_in=3600)
            assert asking.result() == "ya29.reconnected"
        found = row(connected)
        assert (found.refresh_token, found.reauthorization_required) == ("1//reconnected", False)
        assert found.refresh_lease is None


def test_callers_rollback_keeps_the_refreshed_token(connected: sessionmaker[Session], oauth_provider: Provider) -> None:
    with connected() as session:
        session.scalars(select(Integration)).one()
        token = get_valid_token(connected, **WHOSE, client=oauth_provider.client())
        session.rollback()
    assert row(connected).access_token == token


def test_callers_session_is_refused(connected: sessionmaker[Session], oauth_provider: Provider) -> None:
    client = oauth_provider.client()
    with connected() as session, pytest.raises(IntegrationError, match="sessionmaker"):
        get_valid_token(session, **WHOSE, client=client)  # type: ignore[arg-type]
    scoped = scoped_session(connected)
    mine = scoped().scalars(select(Integration)).one()
    mine.scope = "mine"
    assert works(oauth_provider, get_valid_token(scoped, **WHOSE, client=client))
    assert mine in scoped.dirty  # the caller's session is untouched
    scoped.rollback()
    scoped.remove()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite locks the database, not rows
def test_locked_row_is_waited_for_without_holding_a_connection(
    connected: sessionmaker[Session], oauth_provider: Provider
) -> None:
    engine: Engine = connected.kw["bind"]
    client = oauth_provider.client(timeout=0.2)
    with connected.begin() as holder:
        holder.execute(update(Integration).values(scope="locked"))
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(get_valid_token, connected, **WHOSE, client=client)
            time.sleep(1)
            seen = [engine.pool.checkedout() for _ in range(50) if not time.sleep(0.01)]  # type: ignore[attr-defined]
            assert (asking.done(), oauth_provider.counts["/token"]) == (False, 0)
            assert seen.count(1) > 30  # only the holder's connection, except for occasional polls
            holder.commit()
            assert works(oauth_provider, asking.result(timeout=30))


def test_waiting_callers_get_an_error_when_the_refresh_fails(
    connected: sessionmaker[Session], oauth_provider: Provider
) -> None:
    oauth_provider.delay = 0.5
    oauth_provider.answers += [Answer(503)] * 20
    start = time.monotonic()

    def ask(_: int) -> object:
        try:
            return get_valid_token(connected, **WHOSE, client=oauth_provider.client())
        except RefreshFailedError as error:
            return str(error)

    with ThreadPoolExecutor(10) as pool:
        said = list(pool.map(ask, range(10)))
    assert all("no token" in str(item) or "no new token" in str(item) for item in said)
    assert oauth_provider.counts["/token"] <= 3
    assert time.monotonic() - start < 10


def test_concurrent_upserts_create_one_row(sessions: sessionmaker[Session]) -> None:
    barrier = threading.Barrier(20)
    engine = create_engine(sessions.kw["bind"].url, pool_size=20, connect_args=_patient(sessions))
    attach_key_ring(engine, KeyRing(primary=Key.generate()))
    many = sessionmaker(engine)

    def connect(number: int) -> None:
        barrier.wait()
        store(many, access_token=f"ya29.{number}", refresh_token=f"1//{number}", expires_in=3600)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(connect, range(20)))
    found = row(many)
    assert found.access_token[5:] == found.refresh_token[3:]
    engine.dispose()


def _patient(sessions: sessionmaker[Session]) -> dict[str, Any]:
    return {"timeout": 60} if sessions.kw["bind"].dialect.name == "sqlite" else {}


def test_upsert_keeps_refresh_token_and_scope_if_the_grant_has_none(sessions: sessionmaker[Session]) -> None:
    store(sessions, access_token="a1", refresh_token="r1", scope="calendar", expires_in=3600)
    with sessions.begin() as session:
        held = session.scalars(select(Integration)).one()
        assert (held.access_token, held.refresh_token) == ("a1", "r1")
        again = upsert_integration(session, **WHOSE, grant=TokenGrant(access_token="a2"))
        assert again is held
        assert (again.access_token, again.refresh_token, again.scope, again.expires_at) == (
            "a2",
            "r1",
            "calendar",
            None,
        )
    at = datetime(2040, 1, 1, tzinfo=UTC)
    store(sessions, access_token="a3", refresh_token="r3", expires_at=at)
    found = row(sessions)
    assert (found.access_token, found.refresh_token, found.expires_at) == ("a3", "r3", at)


def test_upsert_is_part_of_the_callers_transaction(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        upsert_integration(session, **WHOSE, grant=TokenGrant(access_token="a1"))
        session.rollback()
        assert session.scalars(select(Integration)).all() == []


def test_disconnecting_keeps_the_row_if_revocation_fails(
    connected: sessionmaker[Session], oauth_provider: Provider
) -> None:
    before = row(connected)
    oauth_provider.answers.append(Answer(503))
    with pytest.raises(RevocationFailedError):
        disconnect_integration(connected, **WHOSE, client=oauth_provider.client())
    assert row(connected) == before
    disconnect_integration(connected, **WHOSE, client=oauth_provider.client(revocation_endpoint=None))
    assert oauth_provider.counts["/revoke"] == 1
    with connected() as session:
        assert session.scalars(select(Integration)).all() == []


def test_disconnecting_waits_for_a_refresh(connected: sessionmaker[Session], oauth_provider: Provider) -> None:
    oauth_provider.delay = 0.7
    client = oauth_provider.client()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, connected, **WHOSE, client=client)
        assert oauth_provider.in_request.wait(10)
        disconnect_integration(connected, **WHOSE, client=client)
        token = asking.result()
    assert not works(oauth_provider, token)
    assert all(item.revoked for item in oauth_provider.tokens)


def test_listing_issues_one_query_and_decrypts_nothing(
    sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Engine = sessions.kw["bind"]
    rows = [
        {"user_id": f"u{n}", "provider": "google", "access_token": "a", "refresh_token": "r"} for n in range(10_000)
    ]
    with sessions.begin() as session:
        session.execute(Integration.__table__.insert(), rows)
        session.execute(text("UPDATE integrations SET access_token = 'sealchemy:v1:damaged' WHERE user_id = 'u77'"))
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    decrypted: list[str] = []
    processor = EncryptedString.result_processor

    def counted(type_: EncryptedString, *arguments: Any) -> Callable[[Any], Any]:
        process = processor(type_, *arguments)
        return lambda value: decrypted.append(type_.context) or process(value)

    monkeypatch.setattr(EncryptedString, "result_processor", counted)
    with sessions() as session:
        listed = session.scalars(select(Integration)).all()
        assert len(listed) == 10_000
        assert all(item.has_access_token and item.has_refresh_token for item in listed)
        assert (len(statements), decrypted) == (1, [])
        assert "token" not in statements[0].replace("token IS NOT NULL", "").replace("token_type", "")
        found = next(item for item in listed if item.user_id == "u77")
        with pytest.raises(EnvelopeFormatError, match="access_token"):
            _ = found.access_token
    assert decrypted  # proves that the counter works


def test_reconnect_with_an_expired_token_is_refreshed(
    connected: sessionmaker[Session], oauth_provider: Provider
) -> None:
    oauth_provider.delay = 0.7
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, connected, **WHOSE, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        token = oauth_provider.grant()
        store(connected, access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
        assert asking.result() == oauth_provider.tokens[-1].access_token
    assert oauth_provider.counts["/token"] == 2


def test_arguments_that_would_select_other_rows_are_refused(
    connected: sessionmaker[Session], oauth_provider: Provider
) -> None:
    client = oauth_provider.client()
    for whose in (
        {"user_id": Integration.user_id, "provider": "google"},
        {"user_id": None, "provider": "google"},
        {"user_id": "u1", "provider": Integration.provider},
        {"user_id": "u1", "provider": 5},
    ):
        with pytest.raises(IntegrationError, match="two values"):
            get_valid_token(connected, **whose, client=client)  # type: ignore[arg-type]
        with connected() as session, pytest.raises(IntegrationError, match="two values"):
            upsert_integration(session, **whose, grant=TokenGrant(access_token="a"))  # type: ignore[arg-type]
    wrong: Any = SENTINEL.encode()
    with pytest.raises(PlaintextTypeError, match="rejected is bytes") as caught:
        get_valid_token(connected, **WHOSE, client=client, rejected=wrong)
    assert_silent(caught.value)


def test_unreadable_token_is_an_error_and_is_not_sent(
    connected: sessionmaker[Session], oauth_provider: Provider
) -> None:
    with connected.begin() as session:
        session.execute(text("UPDATE integrations SET access_token = refresh_token"))
    with pytest.raises(DecryptionError):
        get_valid_token(connected, **WHOSE, client=oauth_provider.client())
    with connected.begin() as session:
        session.execute(text("UPDATE integrations SET access_token = 'ya29.plaintext'"))
    with pytest.raises(PlaintextFoundError):
        get_valid_token(connected, **WHOSE, client=oauth_provider.client())
    assert oauth_provider.counts["/token"] == 0


@pytest.mark.parametrize("stage", list(Rollout))
def test_refresh_works_in_every_rollout_stage(
    database_url: str, make_engine: Callable[..., Engine], oauth_provider: Provider, stage: Rollout
) -> None:
    engine = make_engine(database_url, rollout=stage)
    Base.metadata.create_all(engine)
    token, sessions = oauth_provider.grant(), sessionmaker(engine)
    store(sessions, access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
    new = get_valid_token(sessions, **WHOSE, client=oauth_provider.client())
    with sessions() as session:
        stored = session.scalar(text("SELECT access_token FROM integrations"))
    assert stored == new if stage is Rollout.PREPARE else stored.startswith("sealchemy:v1:")


def test_service_works_with_another_base(engine: Engine, oauth_provider: Provider) -> None:
    class OtherBase(DeclarativeBase):
        pass

    class Connection(IntegrationMixin, OtherBase):
        __tablename__ = "connections"

    OtherBase.metadata.create_all(engine)
    sessions, token = sessionmaker(engine), oauth_provider.grant()
    grant = TokenGrant(access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
    with sessions.begin() as session:
        kept = upsert_integration(session, **WHOSE, grant=grant, model=Connection)
        assert isinstance(kept, Connection)
    client = oauth_provider.client()
    assert works(oauth_provider, get_valid_token(sessions, **WHOSE, client=client, model=Connection))
    disconnect_integration(sessions, **WHOSE, client=client, model=Connection)


ASYNC_DRIVERS = ["sqlite+aiosqlite", "postgresql+psycopg", "postgresql+asyncpg"]


@pytest.fixture(params=ASYNC_DRIVERS)
def async_url(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[str]:
    if request.param.startswith("sqlite"):
        yield f"{request.param}:///{tmp_path / 'async.db'}"
        return
    url = request.getfixturevalue("postgresql_url").replace("postgresql+psycopg", request.param)
    yield url if "psycopg" in url else url.split("?")[0]


def test_concurrent_async_callers_make_one_refresh(async_url: str, oauth_provider: Provider) -> None:
    async def scenario() -> None:
        engine = attach_key_ring(create_async_engine(async_url), KeyRing(primary=Key.generate()))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
        sessions, client, token = async_sessionmaker(engine), oauth_provider.client(), oauth_provider.grant()
        grant = TokenGrant(access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
        async with sessions.begin() as session:
            await session.run_sync(upsert_integration, **WHOSE, grant=grant)
        oauth_provider.delay = 0.5
        oauth_provider.lifetime = 100  # less than the leeway
        asked = [get_valid_token_async(sessions, **WHOSE, client=client) for _ in range(20)]
        tokens = set(await asyncio.gather(*asked))
        assert (len(tokens), oauth_provider.counts["/token"]) == (1, 1)
        assert works(oauth_provider, tokens.pop())
        with pytest.raises(IntegrationError, match="async_sessionmaker"):
            async with sessions() as session:
                await get_valid_token_async(session, **WHOSE, client=client)  # type: ignore[arg-type]
        await disconnect_integration_async(sessions, **WHOSE, client=client)
        with pytest.raises(IntegrationNotFoundError):
            await get_valid_token_async(sessions, **WHOSE, client=client)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
        await engine.dispose()

    asyncio.run(scenario())


def test_a_cancelled_caller_loses_no_token(tmp_path: Any, oauth_provider: Provider) -> None:
    async def scenario() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}")
        attach_key_ring(engine, KeyRing(primary=Key.generate()))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        sessions, client, token = async_sessionmaker(engine), oauth_provider.client(), oauth_provider.grant()
        grant = TokenGrant(access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
        async with sessions.begin() as session:
            await session.run_sync(upsert_integration, **WHOSE, grant=grant)
        oauth_provider.delay = 0.5
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(get_valid_token_async(sessions, **WHOSE, client=client), 0.2)
        new = await get_valid_token_async(sessions, **WHOSE, client=client)
        assert (new != token.access_token, oauth_provider.counts["/token"], oauth_provider.counts["reused"]) == (
            True,
            1,
            0,
        )
        await engine.dispose()

    asyncio.run(scenario())
