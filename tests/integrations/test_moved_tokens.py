"""A writer of the database without a key, who moves tokens to a row whose provider he runs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import inspect, select, text, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from sealchemy import DecryptionError, Key, KeyRing, PlaintextFoundError, Rollout, attach_key_ring
from sealchemy.integrations import (
    Base,
    Integration,
    TokenGrant,
    disconnect_integration,
    get_valid_token,
    get_valid_token_async,
    upsert_integration,
)
from tests.support.leaks import SENTINEL, assert_silent
from tests.support.provider import Provider

if TYPE_CHECKING:
    from sqlalchemy import Engine

VICTIM = {"user_id": "victim", "provider": "google", "account": ""}
MALLORY = {"user_id": "mallory", "provider": "evil", "account": ""}
LATER, PAST = {"expires_in": 3600}, {"expires_in": 0}


@pytest.fixture
def sessions(engine: Engine, oauth_provider: Provider) -> sessionmaker[Session]:
    """The victim's integration, and that of an attacker at a provider that he runs himself."""
    Base.metadata.create_all(engine)
    factory = sessionmaker(engine)
    with factory.begin() as session:
        secret = TokenGrant(access_token=f"access-{SENTINEL}", refresh_token=f"refresh-{SENTINEL}", **LATER)
        row = upsert_integration(session, **VICTIM, grant=secret)
        row.details = {"url": f"https://{SENTINEL}"}
        own = oauth_provider.grant()
        grant = TokenGrant(access_token=own.access_token, refresh_token=own.refresh_token, **PAST)
        upsert_integration(session, **MALLORY, grant=grant).details = {"url": "https://evil"}
    return factory


def stored(session: Session, column: str, user: str) -> str:
    return str(session.scalar(text(f"SELECT {column} FROM integrations WHERE user_id = :u"), {"u": user}))


def move(session: Session, source: str, target: str) -> None:
    """Copy the stored value of a column of the victim into a column of the attacker's row."""
    value = stored(session, source, "victim")
    session.execute(text(f"UPDATE integrations SET {target} = :v WHERE user_id = 'mallory'"), {"v": value})


def by_update(session: Session, column: str) -> None:
    move(session, column, column)


def by_insert(session: Session, column: str) -> None:
    session.execute(text("DELETE FROM integrations WHERE user_id = 'mallory'"))
    others = "token_type, reauthorization_required, created_at, updated_at"
    session.execute(
        text(
            f"INSERT INTO integrations (user_id, provider, account, {column}, expires_at, {others})"
            f" SELECT 'mallory', 'evil', '', {column}, expires_at, {others} FROM integrations WHERE user_id = 'victim'"
        )
    )


def by_dump(session: Session, column: str) -> None:
    """Restore the victim's whole row under another user."""
    session.execute(text("DELETE FROM integrations WHERE user_id = 'mallory'"))
    row = dict(session.execute(text("SELECT * FROM integrations WHERE user_id = 'victim'")).mappings().one())
    row |= {"id": 99, "user_id": "mallory", "provider": "evil"}
    names = ", ".join(row)
    session.execute(text(f"INSERT INTO integrations ({names}) VALUES ({', '.join(f':{name}' for name in row)})"), row)


def by_renaming(session: Session, column: str) -> None:
    """Make the victim's row the attacker's."""
    session.execute(text("DELETE FROM integrations WHERE user_id = 'mallory'"))
    session.execute(text("UPDATE integrations SET user_id = 'mallory', provider = 'evil'"))


WAYS = [by_update, by_insert, by_dump, by_renaming]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("column", ["refresh_token", "access_token"])
def test_a_moved_token_is_sent_nowhere(
    sessions: sessionmaker[Session],
    oauth_provider: Provider,
    way: Any,
    column: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with sessions.begin() as session:
        way(session, column)
        if column == "refresh_token":
            past = "UPDATE integrations SET expires_at = '2020-01-01 00:00:00' WHERE user_id = 'mallory'"
            session.execute(text(past))
            if way is not by_update:
                session.execute(text("UPDATE integrations SET access_token = NULL WHERE user_id = 'mallory'"))
        else:
            session.execute(text("UPDATE integrations SET expires_at = NULL WHERE user_id = 'mallory'"))
        before = session.execute(text("SELECT * FROM integrations ORDER BY id")).all()
    client = oauth_provider.client()
    with caplog.at_level(logging.DEBUG), pytest.raises(DecryptionError) as caught:
        get_valid_token(sessions, **MALLORY, client=client)
    assert oauth_provider.counts["/token"] == 0
    assert_silent(caught.value)
    assert SENTINEL not in caplog.text
    with sessions() as session:
        number = session.scalar(select(Integration.id).filter_by(**MALLORY))
        assert f"integration {number} (evil)" in caplog.text
        assert session.execute(text("SELECT * FROM integrations ORDER BY id")).all() == before, "it marks nothing"
    with pytest.raises(DecryptionError):
        disconnect_integration(sessions, **MALLORY, client=client)
    assert oauth_provider.counts["/revoke"] == 0


def test_a_moved_refresh_token_beside_a_valid_access_token(
    sessions: sessionmaker[Session], oauth_provider: Provider
) -> None:
    """As long as the access token is the row's own and valid, the refresh token is not even read."""
    with sessions.begin() as session:
        by_update(session, "refresh_token")
        session.execute(text("UPDATE integrations SET expires_at = NULL WHERE user_id = 'mallory'"))
    client = oauth_provider.client()
    own = get_valid_token(sessions, **MALLORY, client=client)
    with pytest.raises(DecryptionError):
        get_valid_token(sessions, **MALLORY, client=client, rejected=own)
    assert oauth_provider.counts["/token"] == 0


def test_the_attackers_own_token_still_refreshes(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    token = get_valid_token(sessions, **MALLORY, client=oauth_provider.client())
    assert oauth_provider.counts["/token"] == 1
    assert token == oauth_provider.tokens[-1].access_token
    assert get_valid_token(sessions, **VICTIM, client=oauth_provider.client()) == f"access-{SENTINEL}"


@pytest.mark.parametrize("way", WAYS)
def test_moved_details_are_not_read(sessions: sessionmaker[Session], way: Any) -> None:
    """They may hold the URL to which a token is sent."""
    with sessions.begin() as session:
        way(session, "details")
    with sessions() as session:
        row = session.scalars(select(Integration).filter_by(**MALLORY)).one()
        with pytest.raises(DecryptionError) as caught:
            assert row.details
    assert_silent(caught.value)


@pytest.mark.parametrize(
    ("source", "target"),
    [("refresh_token", "access_token"), ("access_token", "refresh_token"), ("access_token", "details")],
)
def test_a_token_in_another_column_is_not_read(sessions: sessionmaker[Session], source: str, target: str) -> None:
    with sessions.begin() as session:
        value = stored(session, source, "mallory")
        session.execute(text(f"UPDATE integrations SET {target} = :v WHERE user_id = 'mallory'"), {"v": value})
    with sessions() as session, pytest.raises(DecryptionError):
        session.scalar(select(getattr(Integration, target)).filter_by(**MALLORY))


@pytest.mark.parametrize("key", ["user_id", "provider", "account"])
def test_tenants_providers_and_accounts_are_apart(
    sessions: sessionmaker[Session], oauth_provider: Provider, key: str
) -> None:
    whose = VICTIM | {key: "other"}
    with sessions.begin() as session:
        own = oauth_provider.grant()
        grant = TokenGrant(access_token=own.access_token, refresh_token=own.refresh_token, **PAST)
        upsert_integration(session, **whose, grant=grant)
        value = stored(session, "refresh_token", "victim") if key == "user_id" else None
        value = value or session.scalar(
            text("SELECT refresh_token FROM integrations WHERE user_id = 'victim' ORDER BY id")
        )
        number = session.scalar(select(Integration.id).filter_by(**whose))
        session.execute(text("UPDATE integrations SET refresh_token = :v WHERE id = :k"), {"v": value, "k": number})
    with pytest.raises(DecryptionError):
        get_valid_token(sessions, **whose, client=oauth_provider.client())
    assert oauth_provider.counts["/token"] == 0


def test_a_refresh_token_is_not_kept_across_accounts(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    with sessions.begin() as session:
        upsert_integration(session, **VICTIM | {"account": "work"}, grant=TokenGrant(access_token="work", **PAST))
        rows = session.scalars(select(Integration).filter_by(user_id="victim").order_by(Integration.account)).all()
        assert [(row.account, row.has_refresh_token) for row in rows] == [("", True), ("work", False)]
        upsert_integration(session, **VICTIM, grant=TokenGrant(access_token="new", **PAST))
        kept = session.scalars(select(Integration).filter_by(**VICTIM)).one()
        assert kept.refresh_token == f"refresh-{SENTINEL}"
    assert get_valid_token(sessions, **MALLORY, client=oauth_provider.client())
    with sessions() as session:
        unique = inspect(session.get_bind()).get_unique_constraints("integrations")
        assert [item["column_names"] for item in unique] == [["user_id", "provider", "account"]]


def test_old_values_that_are_not_bound_are_refused_in_strict(
    sessions: sessionmaker[Session], oauth_provider: Provider, engine: Engine
) -> None:
    """From a backup of before, they would fit into any row."""
    key = Key.generate()
    attach_key_ring(engine, KeyRing(primary=key), rollout=Rollout.BIND_PREPARE)
    with sessions.begin() as session:
        session.execute(text("DELETE FROM integrations"))
        grant = oauth_provider.grant()
        tokens = TokenGrant(access_token=grant.access_token, refresh_token=grant.refresh_token, **PAST)
        upsert_integration(session, **VICTIM, grant=tokens)
    client = oauth_provider.client()
    for stage in (Rollout.BIND_PREPARE, Rollout.BIND_MIGRATE):
        attach_key_ring(engine, KeyRing(primary=key), rollout=stage)
        assert get_valid_token(sessions, **VICTIM, client=client, rejected=grant.access_token)
    attach_key_ring(engine, KeyRing(primary=key), rollout=Rollout.BIND_PREPARE)
    with sessions.begin() as session:
        session.execute(update(Integration).values(expires_at=None))
        token = session.scalar(select(Integration.refresh_token))
        where = [Integration.user_id == "victim", Integration.provider == "google", Integration.account == ""]
        session.execute(update(Integration).where(*where).values(refresh_token=token, access_token=None))
    attach_key_ring(engine, KeyRing(primary=key))
    with pytest.raises(DecryptionError, match="not bound"):
        get_valid_token(sessions, **VICTIM, client=client)
    with sessions.begin() as session:
        session.execute(text("UPDATE integrations SET refresh_token = 'plain'"))
    with pytest.raises(PlaintextFoundError):
        get_valid_token(sessions, **VICTIM, client=client)


def test_async(sessions: sessionmaker[Session], oauth_provider: Provider, engine: Engine) -> None:
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
    url = engine.url.set(drivername=drivers[engine.dialect.name])
    with sessions.begin() as session:
        by_update(session, "refresh_token")

    async def ask() -> None:
        own = create_async_engine(url)
        attach_key_ring(own, engine.dialect._sealchemy.key_ring)  # type: ignore[attr-defined]
        try:
            await get_valid_token_async(async_sessionmaker(own), **MALLORY, client=oauth_provider.client())
        finally:
            await own.dispose()

    with pytest.raises(DecryptionError):
        asyncio.run(ask())
    assert oauth_provider.counts["/token"] == 0
