"""Two minutes of everything that goes wrong between an application, its database and a provider."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, select, update
from sqlalchemy.orm import Session, sessionmaker

from sealchemy import Key, KeyRing, ReauthorizationRequiredError, attach_key_ring
from sealchemy.integrations import Base, Integration, TokenGrant, get_valid_token, upsert_integration
from tests.support import processes

if TYPE_CHECKING:
    import subprocess

    from tests.support.provider import Provider

USERS, PROCESSES, SECONDS = 12, 3, 120
AROUND_THE_ANSWER = (-0.5, 1.0)
"""The seconds, from when the provider issued a token, in which a kill loses it: the request may still be under way."""


def connect_users(sessions: sessionmaker[Session], provider: Provider) -> dict[str, str]:
    """Connect the users, whose access tokens have expired; return the family of each one's tokens."""
    families = {}
    for number in range(USERS):
        token = provider.grant(f"u{number}")
        grant = TokenGrant(access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
        families[f"u{number}"] = token.family
        with sessions.begin() as session:
            upsert_integration(session, user_id=f"u{number}", provider="google", grant=grant)
    return families


@pytest.mark.soak
def test_only_a_lost_answer_loses_an_integration(database_url: str, oauth_provider: Provider) -> None:
    key = Key.generate()
    engine = attach_key_ring(create_engine(database_url), KeyRing(primary=key))
    sessions = sessionmaker(engine)
    Base.metadata.create_all(engine)
    families = connect_users(sessions, oauth_provider)
    oauth_provider.lifetime = 1
    kinds = [""] * 40 + ["refuse", "fail", "hang", "fail", "drop"]
    oauth_provider.fault = lambda: random.choice(kinds)
    told = {"url": database_url, "keys": [key.reveal()], "token_endpoint": f"{oauth_provider.url}/token"}
    killed: dict[str, float] = {}

    def start() -> subprocess.Popen[str]:
        process = processes.start("soaking", **told, users=USERS)
        assert process.stdout
        assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
        return process

    running, until = [start() for _ in range(PROCESSES)], time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            time.sleep(random.uniform(1, 4))
            victim = running.pop(0)
            assert victim.poll() is None, victim.communicate()
            killed[str(victim.pid)] = time.monotonic()
            victim.kill()
            victim.communicate()
            running.append(start())
    finally:
        for process in running:
            killed[str(process.pid)] = time.monotonic()
            process.kill()
            process.communicate()
    oauth_provider.fault = lambda: ""

    with sessions.begin() as session:
        session.execute(update(Integration).values(next_attempt_at=None))
    lost = set()
    for user in families:
        try:
            get_valid_token(sessions, user_id=user, provider="google", client=oauth_provider.client())
        except ReauthorizationRequiredError:
            lost.add(user)
    with sessions() as session:
        marked = set(session.scalars(select(Integration.user_id).where(Integration.reauthorization_required)))
    engine.dispose()
    revoked = {token.family for token in oauth_provider.tokens if token.revoked}
    dead = {user for user, family in families.items() if family in revoked}
    assert marked == lost == dead
    assert oauth_provider.counts["/token"] > SECONDS
    for family, asked_by, asked_at in oauth_provider.reuses:
        earliest, latest = AROUND_THE_ANSWER
        was_killed_meanwhile = earliest < killed.get(asked_by, 0.0) - asked_at < latest
        assert family in oauth_provider.dropped or was_killed_meanwhile, (family, asked_by, asked_at, killed)
