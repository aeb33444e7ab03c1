"""A Celery worker refreshes what is due, and reads a token where it calls the provider: no message has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import celery
import httpx
import pytest
from celery.contrib.testing.worker import start_worker
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from sealchemy import KeyRing, attach_key_ring
from sealchemy.integrations import Base, IntegrationAuth, refresh_due
from tests.support.integrations import WHOSE, connect
from tests.support.leaks import SENTINEL

if TYPE_CHECKING:
    from tests.support.provider import Provider


@pytest.mark.slow
def test_a_retry_shows_arguments_unless_it_is_told_again() -> None:
    app = celery.Celery("app", broker="memory://", backend="cache+memory://", set_as_current=False)
    seen: list[str] = []

    @app.task(name="refresh", bind=True, max_retries=2, shared=False)
    def refresh(self: Any, token: str) -> None:
        seen.append(self.request.argsrepr)
        if self.request.retries < 2:
            hidden = {"argsrepr": "(***)", "kwargsrepr": "{}"} if self.request.retries == 0 else {}
            raise self.retry(countdown=0, **hidden)

    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
        refresh.apply_async((SENTINEL,), argsrepr="(***)", kwargsrepr="{}").get(timeout=20)
    assert seen[:2] == ["(***)", "(***)"]
    assert SENTINEL in seen[2]


@pytest.mark.slow
def test_a_worker_refreshes_and_calls(url: str, ring: KeyRing, oauth_provider: Provider) -> None:
    engine = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    connect(sessions, oauth_provider)
    app = celery.Celery("app", broker="memory://", backend="cache+memory://", set_as_current=False)

    @app.task(name="refresh", shared=False)
    def refresh() -> int:
        report = refresh_due(sessions, {"google": oauth_provider.client()})
        return sum(report.refreshed.values())

    @app.task(name="list_events", shared=False)
    def list_events(user_id: str) -> list[str]:
        whose = {**WHOSE, "user_id": user_id}
        auth = IntegrationAuth(sessions, **whose, client=oauth_provider.client(), purpose="celery")
        answer = httpx.get(f"{oauth_provider.url}/calendar", auth=auth)
        answer.raise_for_status()
        found: list[str] = answer.json()["events"]
        return found

    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
        assert refresh.delay().get(timeout=20) == 1  # beat_schedule={"refresh": {"task": "refresh", "schedule": 60}}
        assert refresh.delay().get(timeout=20) == 0
        assert list_events.delay("u1").get(timeout=20) == []
    assert oauth_provider.counts["/token"] == 1
    engine.dispose()
