"""Whatever goes wrong between a caller, the row and the provider: no token shows, and no client secret."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import logging
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from joserfc.jwk import ECKey
from sqlalchemy import create_engine, event, select, text, update
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from sealchemy import Key, KeyRing, SealchemyError, attach_key_ring
from sealchemy.cli import app
from sealchemy.integrations import (
    Base,
    Integration,
    IntegrationAuth,
    OAuthClient,
    TokenGrant,
    disconnect_integration,
    get_valid_token,
    get_valid_token_async,
    refresh_due,
    sync_async,
    upsert_integration,
)
from tests.support.integrations import WHOSE, TimeLimitError, connect, store, time_limit
from tests.support.leaks import shown_by
from tests.support.provider import CLIENT_SECRET, Answer, Provider, logged_by_provider

if TYPE_CHECKING:
    from collections.abc import Callable

SENTINEL = "SENTINEL"  # in every token of the provider, in the client's secret, and in the answers below
ECHO = {"error_description": "1//SENTINEL-echo", "refresh_token": "1//SENTINEL-echo", "access_token": "ya29.SENTINEL"}


class Scene:
    """A user who has connected, whose access token has expired."""

    def __init__(self, sessions: sessionmaker[Session], provider: Provider) -> None:
        self.sessions, self.provider, self.shown = sessions, provider, ""
        connect(sessions, provider)

    def client(self, **options: Any) -> OAuthClient:
        return self.provider.client(client_secret=CLIENT_SECRET, **options)

    def fails(self, call: Callable[[], Any]) -> None:
        """Keep everything that the error of a call shows."""
        try:
            call()
        except (SealchemyError, SQLAlchemyError, TimeLimitError) as error:
            self.shown += shown_by(error)
        else:
            pytest.fail("nothing went wrong")

    def token(self, **options: Any) -> Any:
        client = options.pop("client", None) or self.client()
        return get_valid_token(self.sessions, **WHOSE, client=client, **options)

    def refused(self, *answers: Answer, **options: Any) -> None:
        """Have the provider answer so, one after the other."""
        for answer in answers:
            with self.sessions.begin() as session:
                session.execute(update(Integration).values(next_attempt_at=None))
            self.provider.answers = [answer]
            self.fails(lambda: self.token(**options))


def dead_grants(scene: Scene) -> None:
    scene.refused(Answer(400, {**ECHO, "error": "invalid_grant"}), Answer(500))  # the second is not asked for


def a_dead_grant_in_other_words(scene: Scene) -> None:
    scene.refused(
        Answer(400, {**ECHO, "error": "inactive_user"}), client=scene.client(dead_grant_errors=["inactive_user"])
    )


def five_refusals(scene: Scene) -> None:
    echoes = [
        str(scene.provider.tokens[-1].refresh_token),
        CLIENT_SECRET,
        {"type": "ya29.SENTINEL"},
        ["1//SENTINEL"],
        "x",
    ]
    scene.refused(*[Answer(400, {**ECHO, "error": echo}) for echo in echoes])


def unusable_answers(scene: Scene) -> None:
    bomb = gzip.compress(b'{"access_token": "ya29.SENTINEL"}').decode("latin1")
    scene.refused(
        Answer(200, bomb, {"Content-Encoding": "gzip"}),
        Answer(200, {"refresh_token": "1//SENTINEL-only"}),
        Answer(200, {"access_token": ["ya29.SENTINEL"]}),
        Answer(200, '{"access_token": "ya29.SENTINEL\\ud800"}'),
        Answer(200, "ya29.SENTINEL not JSON"),
        Answer(302, "", {"Location": "http://127.0.0.1:1/ya29.SENTINEL"}),
        Answer(429, "ya29.SENTINEL", {"Retry-After": "ya29.SENTINEL"}),
    )


def a_provider_that_hangs(scene: Scene) -> None:
    scene.provider.delay = 0.6
    scene.fails(lambda: scene.token(client=scene.client(timeout=0.3)))


def a_deadline(scene: Scene) -> None:
    scene.provider.delay = 0.6
    scene.fails(lambda: scene.token(deadline=0.2))
    scene.token()


def a_signal_handler_that_raises(scene: Scene) -> None:
    scene.provider.delay = 0.5
    with time_limit(0.2):
        scene.fails(scene.token)
    scene.token()


def a_grant_that_cannot_be_stored(scene: Scene) -> None:
    engine, failing = scene.sessions.kw["bind"], []

    @event.listens_for(engine, "before_cursor_execute")
    def fail(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if failing and statement.startswith("UPDATE"):
            raise OperationalError(statement, parameters, Exception("the server is gone"))

    @event.listens_for(engine, "after_cursor_execute")
    def began(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE") and "refresh_lease" in statement:
            failing.append(1)

    scene.fails(scene.token)
    event.remove(engine, "before_cursor_execute", fail)
    event.remove(engine, "after_cursor_execute", began)


def a_rejected_token_without_refresh_token(scene: Scene) -> None:
    with scene.sessions.begin() as session:
        session.execute(text("DELETE FROM integrations"))
    only = "ya29.SENTINEL-only"
    store(scene.sessions, access_token=only)
    scene.fails(lambda: scene.token(rejected=only))


def tokens_that_belong_to_another_row(scene: Scene) -> None:
    with scene.sessions.begin() as session:
        grant = TokenGrant(access_token="ya29.SENTINEL-2", refresh_token="1//SENTINEL-2", expires_in=0)
        upsert_integration(session, **WHOSE, account="second", grant=grant)
        pasted = "SELECT i.refresh_token FROM integrations i WHERE i.account = 'second'"
        session.execute(text(f"UPDATE integrations SET refresh_token = ({pasted}) WHERE account = ''"))
    scene.fails(scene.token)
    scene.fails(lambda: disconnect_integration(scene.sessions, **WHOSE, client=scene.client()))
    disconnect_integration(scene.sessions, **WHOSE, client=scene.client(), forget=True)


def a_grant_that_is_not_revoked(scene: Scene) -> None:
    scene.provider.answers = [Answer(503, "1//SENTINEL"), Answer(400, {**ECHO, "error": "1//SENTINEL"})]
    scene.fails(lambda: disconnect_integration(scene.sessions, **WHOSE, client=scene.client()))
    disconnect_integration(scene.sessions, **WHOSE, client=scene.client(), forget=True)


def a_mark_that_is_cleared(scene: Scene) -> None:
    scene.refused(Answer(400, {**ECHO, "error": "invalid_grant"}))
    url = scene.sessions.kw["bind"].url.render_as_string(hide_password=False)
    app(["integrations", "retry", "--url", url], standalone_mode=False)
    scene.token()


def async_callers(scene: Scene) -> None:
    async def ask() -> None:
        bind = scene.sessions.kw["bind"]
        url = bind.url.set(drivername={"sqlite": "sqlite+aiosqlite"}.get(bind.dialect.name, "postgresql+psycopg"))
        engine = create_async_engine(url)
        attach_key_ring(engine, RINGS[bind])
        common = {**WHOSE, "client": scene.client()}
        scene.provider.answers = [Answer(400, {**ECHO, "error": "inactive_user"})]
        try:
            await get_valid_token_async(async_sessionmaker(engine), **common)
        except SealchemyError as error:
            scene.shown += shown_by(error)
        scene.provider.delay = 0.4
        with scene.sessions.begin() as session:
            session.execute(update(Integration).values(next_attempt_at=None))
        try:
            await asyncio.wait_for(get_valid_token_async(async_sessionmaker(engine), **common), 0.2)
        except TimeoutError as error:
            scene.shown += shown_by(error)
        await asyncio.sleep(0.5)
        await get_valid_token_async(async_sessionmaker(engine), **common)
        await engine.dispose()

    asyncio.run(ask(), debug=True)


def other_ways_to_authenticate(scene: Scene) -> None:
    key = ECKey.generate_key("P-256").as_pem(private=True).decode()
    said = {**ECHO, "error": key.splitlines()[1], "id_token": "ya29.SENTINEL"}
    for options in (
        {"auth_method": "private_key_jwt", "private_key": key, "client_secret": None},
        {"auth_method": "client_secret_jwt", "client_secret": f"{CLIENT_SECRET}-which-is-long-enough"},
        {"auth_method": "client_secret_basic_raw", "body": "json", "headers": {"A": "b"}},
        {"auth_method": "client_secret_post", "token_params": {"audience": "b"}, "response_path": ("user",)},
    ):
        client = scene.provider.client(**options)
        scene.refused(Answer(400, said), Answer(200, {"user": said}), Answer(200, "access_token="), client=client)
        scene.shown += f"{client!r}{vars(client)}"
        assert key.splitlines()[1] not in scene.shown


def what_is_said_besides(scene: Scene) -> None:
    def on_grant(grant: TokenGrant) -> Any:
        scene.shown += repr(grant) + repr(grant.response)
        raise RuntimeError(grant.access_token)

    def on_dead(_grant: Any) -> None:
        raise RuntimeError("ya29.SENTINEL")

    good = {"access_token": "ya29.SENTINEL-1", "refresh_token": "1//SENTINEL-1", "expires_in": 0}
    scene.provider.answers = [Answer(200, {**good, "id_token": "SENTINEL-id"}), Answer(400, {"error": "invalid_grant"})]
    client = scene.client(on_grant=on_grant, on_reauthorization_required=on_dead, details=("id_token",))
    scene.token(client=client)
    scene.fails(lambda: scene.token(client=client))


def a_scheduler(scene: Scene) -> None:
    bad = [Answer(400, {**ECHO, "error": "1//SENTINEL"}), Answer(200, "ya29.SENTINEL"), Answer(429, "ya29.SENTINEL")]
    for answer in bad:
        with scene.sessions.begin() as session:
            session.execute(update(Integration).values(next_attempt_at=None))
        scene.provider.answers = [answer]
        scene.shown += repr(refresh_due(scene.sessions, {"google": scene.client()}))
    with scene.sessions.begin() as session:
        session.execute(update(Integration).values(next_attempt_at=None))
        session.execute(text("UPDATE integrations SET refresh_token = access_token"))
    scene.shown += repr(refresh_due(scene.sessions, {"google": scene.client()}))


def requests_of_the_application(scene: Scene) -> None:
    auth = IntegrationAuth(scene.sessions, **WHOSE, client=scene.client(), purpose="a purpose")
    for url in ("/calendar", "/refuses"):
        httpx.get(f"{scene.provider.url}{url}", auth=auth)
    scene.provider.answers = [Answer(400, {**ECHO, "error": "invalid_grant"})]
    scene.fails(lambda: httpx.get(f"{scene.provider.url}/refuses", auth=auth))
    scene.fails(lambda: httpx.get("http://provider.example/", auth=auth))
    scene.shown += f"{auth!r}{vars(auth)}"


RINGS: dict[Any, KeyRing] = {}


@pytest.fixture
def known_sessions(database_url: str) -> Any:
    ring = KeyRing(primary=Key.generate())
    engine = attach_key_ring(create_engine(database_url), ring)
    RINGS[engine] = ring
    Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    del RINGS[engine]
    engine.dispose()


@pytest.mark.parametrize(
    "path",
    [
        dead_grants,
        a_dead_grant_in_other_words,
        five_refusals,
        unusable_answers,
        a_provider_that_hangs,
        a_deadline,
        a_signal_handler_that_raises,
        a_grant_that_cannot_be_stored,
        a_rejected_token_without_refresh_token,
        tokens_that_belong_to_another_row,
        a_grant_that_is_not_revoked,
        a_mark_that_is_cleared,
        async_callers,
        other_ways_to_authenticate,
        what_is_said_besides,
        a_scheduler,
        requests_of_the_application,
    ],
    ids=lambda path: path.__name__,
)
def test_no_token_shows(
    path: Callable[[Scene], None],
    known_sessions: sessionmaker[Session],
    oauth_provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)  # prints what it sends
    monkeypatch.setattr(sync_async, "STORE_SECONDS", 0.5)
    monkeypatch.setattr(threading, "excepthook", lambda told: pytest.fail(f"a thread died: {told.exc_type}"))
    caplog.set_level(logging.DEBUG)
    scene = Scene(known_sessions, oauth_provider)
    path(scene)

    ours = [record for record in caplog.records if not logged_by_provider(record)]
    assert any(record.name == "sealchemy" for record in ours)
    printed = capfd.readouterr()
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in ours)
    with Session(known_sessions.kw["bind"]) as session:
        rows = [dict(row) for row in session.execute(text("SELECT * FROM integrations")).mappings()]
        shown = repr(session.scalars(select(Integration)).all())
    for kind, found in (
        ("errors", scene.shown),
        ("the log", logged),
        ("output", printed.out + printed.err),
        ("the table", repr(rows)),
        ("objects", shown),
    ):
        at = found.find(SENTINEL)
        assert at < 0, f"{kind}: {found[max(0, at - 200) : at + 60]}"
