"""`refresh_due`: bounded, fair between providers, and no faster than each allows."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from sqlalchemy import create_engine, event, func, insert, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from sealchemy import IntegrationError, Key, KeyRing, attach_key_ring
from sealchemy.integrations import (
    Base,
    DeadGrant,
    Integration,
    OAuthClient,
    RefreshReport,
    refresh_due,
    refresh_due_async,
)
from tests.support import processes
from tests.support.http_server import serving
from tests.support.integrations import TimeLimitError, time_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

ROWS = {"large": 9000, "small": 600, "limited": 200, "broken": 100, "hanging": 100}


@dataclass
class Endpoints:
    """Token endpoints of several providers, each at a path of its name.

    Attributes:
        url: the base URL.
        answers: what a provider answers, if not a grant.
        bodies: with which body.
        times: when each was asked.
        sent: the refresh tokens that each was sent.
        at_once: how many requests were under way at the same time, by provider, at most.
    """

    url: str = ""
    answers: dict[str, Callable[[], tuple[int, dict[str, str]]]] = field(default_factory=dict)
    bodies: dict[str, str] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sent: list[str] = field(default_factory=list)
    under_way: Counter[str] = field(default_factory=Counter)
    at_once: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, provider: str, **options: Any) -> OAuthClient:
        return OAuthClient("id", "client-secret-SENTINEL", f"{self.url}/{provider}", **options)

    def respond(self, provider: str, body: bytes) -> tuple[int, dict[str, str], str]:
        with self.lock:
            self.times[provider].append(time.monotonic())
            self.under_way[provider] += 1
            self.at_once[provider] = max(self.at_once[provider], self.under_way[provider])
            sent = parse_qs(body.decode())["refresh_token"][0]
            self.sent.append(sent)
        status, headers = self.answers[provider]() if provider in self.answers else (200, {})
        with self.lock:
            self.under_way[provider] -= 1
        grant = {"access_token": f"new-{sent}", "refresh_token": f"next-{sent}", "expires_in": 3600}
        return status, headers, json.dumps(grant) if status == 200 else self.bodies.get(provider, "")


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    found = Endpoints()
    with serving(lambda _method, path, _headers, body: found.respond(path.strip("/"), body)) as found.url:
        yield found


def fill(sessions: sessionmaker[Session], rows: dict[str, int], **more: Any) -> None:
    """Connect so many users with each provider, whose tokens expire in the next minutes."""
    now = datetime.now(UTC)
    with sessions.begin() as session:
        for provider, count in rows.items():
            new = [
                {
                    "user_id": f"u{number}",
                    "provider": provider,
                    "account": "",
                    "access_token": f"SENTINEL-access-{provider}-{number}",
                    "refresh_token": f"SENTINEL-refresh-{provider}-{number}",
                    "expires_at": now + timedelta(seconds=120 + number % 300),
                    **more,
                }
                for number in range(count)
            ]
            session.execute(insert(Integration), new)


def refreshed(sessions: sessionmaker[Session]) -> dict[str, int]:
    query = select(Integration.provider, func.count()).where(Integration.refreshed_at.is_not(None))
    with sessions() as session:
        return dict(session.execute(query.group_by(Integration.provider)).all())  # type: ignore[arg-type]


@pytest.mark.slow
def test_ten_thousand_rows_of_five_providers(sessions: sessionmaker[Session], endpoints: Endpoints) -> None:
    fill(sessions, ROWS)
    hangs = threading.Event()
    endpoints.answers = {
        "limited": lambda: (429, {"Retry-After": "3600"}),
        "broken": lambda: (503, {}),
        "hanging": lambda: ((hangs.wait(20) and 500) or 500, {}),
    }
    clients = {
        "large": endpoints.client("large", requests_per_second=20),
        "small": endpoints.client("small", requests_per_second=200),
        "limited": endpoints.client("limited"),
        "broken": endpoints.client("broken", requests_per_second=100),
        "hanging": endpoints.client("hanging", timeout=0.5),
    }
    try:
        report = refresh_due(sessions, clients, limit=200)
    finally:
        hangs.set()
    # Bounded, and the same share for each, though one has nine tenths of the rows.
    assert report.refreshed == {"large": 40, "small": 40} == refreshed(sessions)
    assert len(endpoints.sent) == len(set(endpoints.sent))
    # One that asks to wait is asked once; one that fails, three times.
    assert {name: len(times) for name, times in endpoints.times.items()} == {
        "large": 40,
        "small": 40,
        "limited": 1,
        "broken": 3,
        "hanging": 3,
    }
    assert report.failed == {("limited", "rate_limited"): 1, ("broken", "server_error"): 3, ("hanging", "timeout"): 3}
    assert report.left == {"limited": 39, "broken": 37, "hanging": 37}
    # No faster than it allows, one after the other, and those that hang hold up no other.
    large = endpoints.times["large"]
    assert large[-1] - large[0] > 39 / 20 * 0.9
    assert max(endpoints.at_once[name] for name in ("large", "small")) == 1
    assert endpoints.times["hanging"][0] < large[-1]  # one that takes its time holds up no other

    # The earliest first, and what was asked to wait is left alone by the next call.
    with sessions() as session:
        rest = select(func.min(Integration.expires_at)).where(Integration.refreshed_at.is_(None))
        done = select(Integration.refresh_token).where(
            Integration.provider == "small", Integration.refreshed_at.is_not(None)
        )
        assert session.scalar(rest) is not None
        assert {int(str(token).rsplit("-", 1)[1]) % 300 for token in session.scalars(done)} == set(range(20))
    endpoints.answers.clear()
    second = refresh_due(sessions, clients, limit=100)
    assert second.refreshed["large"] == second.refreshed["small"] == 25
    assert "limited" not in second.refreshed
    assert len(endpoints.times["limited"]) == 1


def test_rows_that_are_not_due_are_left_alone(sessions: sessionmaker[Session], endpoints: Endpoints) -> None:
    now = datetime.now(UTC)
    fill(sessions, {"p": 6, "other": 1})
    changes: list[dict[str, Any]] = [
        {"expires_at": now + timedelta(hours=1)},
        {"expires_at": None},
        {"reauthorization_required": True},
        {"next_attempt_at": now + timedelta(minutes=5)},
        {"refresh_lease": "b", "refresh_lease_until": now + timedelta(minutes=5), "expires_at": now - timedelta(1)},
    ]
    with sessions.begin() as session:
        for number, change in enumerate(changes):
            whose = (Integration.user_id == f"u{number}", Integration.provider == "p", Integration.account == "")
            session.execute(update(Integration).where(*whose).values(change))
    report = refresh_due(sessions, {"p": endpoints.client("p")})
    assert report.refreshed == {"p": 1}
    assert endpoints.sent == ["SENTINEL-refresh-p-5"]
    assert refresh_due(sessions, {"p": endpoints.client("p")}) == RefreshReport()


def test_a_row_without_a_refresh_token_is_not_due(sessions: sessionmaker[Session], endpoints: Endpoints) -> None:
    fill(sessions, {"p": 2}, refresh_token=None)
    assert refresh_due(sessions, {"p": endpoints.client("p")}) == RefreshReport()
    assert not endpoints.sent


def test_a_value_that_cannot_be_read_stops_no_other(
    sessions: sessionmaker[Session], endpoints: Endpoints, caplog: pytest.LogCaptureFixture
) -> None:
    fill(sessions, {"p": 3})
    with sessions.begin() as session:
        session.connection().exec_driver_sql(
            "UPDATE integrations SET access_token = refresh_token WHERE user_id = 'u1'"
        )
    report = refresh_due(sessions, {"p": endpoints.client("p")})
    assert report.refreshed == {"p": 2}
    assert report.failed == {("p", "DecryptionError"): 1}
    assert "SENTINEL" not in caplog.text


def test_dead_grants_are_announced_and_counted(sessions: sessionmaker[Session], endpoints: Endpoints) -> None:
    told: list[DeadGrant] = []
    fill(sessions, {"p": 3})
    endpoints.answers["p"] = lambda: (400, {})
    endpoints.bodies["p"] = '{"error": "invalid_grant"}'
    client = endpoints.client("p", on_reauthorization_required=told.append)
    report = refresh_due(sessions, {"p": client})
    assert report.failed == {("p", "invalid_grant"): 3}
    assert sorted(item.user_id for item in told) == ["u0", "u1", "u2"]
    assert refresh_due(sessions, {"p": client}) == RefreshReport()


@pytest.mark.parametrize("code", ["ratelimited", "slow_down", "temporarily_unavailable"])
def test_a_429_is_one_whatever_its_body_says(sessions: sessionmaker[Session], endpoints: Endpoints, code: str) -> None:
    fill(sessions, {"p": 4})
    endpoints.answers["p"] = lambda: (429, {"Retry-After": "600"})
    endpoints.bodies["p"] = json.dumps({"ok": False, "error": code})
    client = endpoints.client("p")
    for _ in range(2):
        refresh_due(sessions, {"p": client})
    assert len(endpoints.sent) == 1


def test_after_any_response_that_asks_to_wait_a_provider_is_left_alone(
    sessions: sessionmaker[Session], endpoints: Endpoints
) -> None:
    fill(sessions, {"p": 4})
    endpoints.answers["p"] = lambda: (503, {"Retry-After": "600"})
    assert refresh_due(sessions, {"p": endpoints.client("p")}).left == {"p": 3}
    assert len(endpoints.sent) == 1


def test_rows_that_cannot_be_read_leave_their_share_to_others(
    sessions: sessionmaker[Session], endpoints: Endpoints
) -> None:
    fill(sessions, {"p": 8})
    with sessions.begin() as session:
        first = "SELECT id FROM integrations ORDER BY expires_at, id LIMIT 4"
        session.connection().exec_driver_sql(
            f"UPDATE integrations SET access_token = refresh_token WHERE id IN (SELECT id FROM ({first}) AS f)"
        )
    report = refresh_due(sessions, {"p": endpoints.client("p")}, limit=2)
    assert report.refreshed == {"p": 2}
    assert report.failed == {("p", "DecryptionError"): 4}


def test_a_database_error_of_one_row_stops_no_other(sessions: sessionmaker[Session], endpoints: Endpoints) -> None:
    fill(sessions, {"p": 4, "q": 1})

    def fail(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        values = parameters.values() if isinstance(parameters, dict) else parameters
        if statement.startswith("SELECT") and "u1" in values:
            raise OperationalError(statement, parameters, Exception("the server is gone"))

    event.listen(sessions.kw["bind"], "before_cursor_execute", fail)
    report = refresh_due(sessions, {name: endpoints.client(name) for name in ("p", "q")})
    event.remove(sessions.kw["bind"], "before_cursor_execute", fail)
    assert report.refreshed == {"p": 3, "q": 1}
    assert report.failed == {("p", "OperationalError"): 1}


def test_an_interrupted_call_ends_its_threads(sessions: sessionmaker[Session], endpoints: Endpoints) -> None:
    fill(sessions, {"p": 40, "q": 40})
    clients = {name: endpoints.client(name, requests_per_second=10) for name in ("p", "q")}
    with time_limit(0.5), pytest.raises(TimeLimitError):
        refresh_due(sessions, clients)
    time.sleep(0.2)
    done = len(endpoints.sent)
    time.sleep(0.5)
    assert done == len(endpoints.sent) < 40


@pytest.mark.slow
def test_two_processes_share_the_work(database_url: str, endpoints: Endpoints, make_engine: Any) -> None:
    key = Key.generate()
    engine = make_engine(database_url, ring=KeyRing(primary=key))
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    fill(sessions, {"p": 60, "q": 60})
    arguments = {"url": database_url, "keys": [key.reveal()], "endpoints": endpoints.url, "providers": ["p", "q"]}
    started = [processes.start("scheduler", **arguments) for _ in range(3)]
    done = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in started]
    assert sum(done) == 120
    assert refreshed(sessions) == {"p": 60, "q": 60}
    assert len(endpoints.sent) == len(set(endpoints.sent)) == 120


def test_an_async_scheduler(tmp_path: Path, endpoints: Endpoints) -> None:
    url, ring = f"sqlite:///{tmp_path / 'a.db'}", KeyRing(primary=Key.generate())
    engine = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(engine)
    fill(sessionmaker(engine), {"p": 5, "q": 5})
    endpoints.answers["q"] = lambda: (429, {"Retry-After": "60"})

    async def refresh() -> RefreshReport:
        async_engine = create_async_engine(url.replace("sqlite", "sqlite+aiosqlite"))
        attach_key_ring(async_engine, ring)
        clients = {name: endpoints.client(name, requests_per_second=100) for name in ("p", "q")}
        report = await refresh_due_async(async_sessionmaker(async_engine), clients)
        await async_engine.dispose()
        return report

    report = asyncio.run(refresh())
    engine.dispose()
    assert report.refreshed == {"p": 5}
    assert report.failed == {("q", "rate_limited"): 1}
    assert report.left == {"q": 4}


def test_a_database_in_memory_is_used_in_its_thread(make_engine: Callable[..., Engine], endpoints: Endpoints) -> None:
    engine = make_engine("sqlite://")
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    fill(sessions, {"p": 2, "q": 2})
    report = refresh_due(sessions, {name: endpoints.client(name) for name in ("p", "q")})
    assert report.refreshed == {"p": 2, "q": 2}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"clients": []}, "takes a dictionary"),
        ({"clients": {"p": None}}, "takes a dictionary"),
        ({"ahead": float("inf")}, "ahead takes"),
        ({"limit": 0}, "limit takes"),
        ({"limit": "100"}, "limit takes"),
        ({"ahead": -1}, "ahead takes"),
        ({"ahead": "soon"}, "ahead takes"),
    ],
)
def test_wrong_arguments_are_refused(sessions: sessionmaker[Session], given: dict[str, Any], text: str) -> None:
    with pytest.raises(IntegrationError, match=text):
        refresh_due(sessions, **{"clients": {}, **given})
