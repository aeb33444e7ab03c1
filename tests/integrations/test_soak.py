"""Two minutes of everything that goes wrong between an application, its database and a provider."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, select, update
from sqlalchemy.orm import sessionmaker

from sealchemy import Key, KeyRing, ReauthorizationRequiredError, attach_key_ring
from sealchemy.integrations import Base, Integration, TokenGrant, get_valid_token, upsert_integration
from tests.support import processes

if TYPE_CHECKING:
    import subprocess

    from tests.support.provider import Provider

USERS, PROCESSES, SECONDS = 12, 3, 120


@pytest.mark.slow
def test_only_a_lost_answer_loses_an_integration(database_url: str, oauth_provider: Provider) -> None:
    key = Key.generate()
    engine = attach_key_ring(create_engine(database_url), KeyRing(primary=key))
    sessions = sessionmaker(engine)
    Base.metadata.create_all(engine)
    families = {}
    for number in range(USERS):
        token = oauth_provider.grant(f"u{number}")
        grant = TokenGrant(access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
        families[f"u{number}"] = token.family
        with sessions.begin() as session:
            upsert_integration(session, user_id=f"u{number}", provider="google", grant=grant)
    oauth_provider.lifetime = 1
    kinds = [""] * 40 + ["refuse", "fail", "hang", "fail", "drop"]
    oauth_provider.fault = lambda: random.choice(kinds)
    told = {"url": database_url, "keys": [key.reveal()], "token_endpoint": f"{oauth_provider.url}/token"}
    killed: set[str] = set()

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
            victim.kill()
            victim.communicate()
            killed.add(str(victim.pid))
            running.append(start())
    finally:
        for process in running:
            process.kill()
            process.communicate()
            killed.add(str(process.pid))
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
    for family, asked_by in oauth_provider.reuses:
        assert family in oauth_provider.dropped or asked_by in killed, (family, asked_by, killed)
