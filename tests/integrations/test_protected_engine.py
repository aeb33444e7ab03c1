"""`create_protected_engine` refuses to start with invalid keys or unreadable rows."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.orm import Session

from sealchemy import (
    ColumnDefinitionError,
    IntegrationError,
    Key,
    KeyFormatError,
    KeyRing,
    MissingKeyError,
    PlaintextFoundError,
    Rollout,
    RolloutError,
    SealchemyError,
    UnknownKeyError,
)
from sealchemy.integrations import (
    Base,
    Integration,
    IntegrationPublic,
    IntegrationSettings,
    create_protected_engine,
    create_protected_engine_async,
)
from tests.support.leaks import SENTINEL, assert_silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = Key.generate().reveal()
PLACEHOLDER = "replace-me-with-the-output-of-sealchemy-generate-key"
INSERT = text("INSERT INTO integrations (user_id, provider, access_token) VALUES ('u', 'p', :token)")


def settings(url: str, key: str = KEY, **others: Any) -> IntegrationSettings:
    return IntegrationSettings(database_url=url, integration_token_encryption_key=SecretStr(key), **others)


def sync(given: IntegrationSettings) -> None:
    engine = create_protected_engine(given)
    with Session(engine) as session:
        session.add(Integration(user_id="u9", provider="google", access_token=SENTINEL))
        session.flush()
        stored = session.scalar(text("SELECT access_token FROM integrations WHERE user_id = 'u9'"))
        assert stored.startswith("sealchemy:v1:") or given.integration_token_encryption_rollout is Rollout.PREPARE
        session.rollback()
    engine.dispose()


def async_(given: IntegrationSettings) -> None:
    async def start() -> None:
        engine = await create_protected_engine_async(given)
        async with engine.connect() as connection:
            await connection.execute(select(Integration.access_token))
        await engine.dispose()

    asyncio.run(start())


@pytest.fixture(params=[sync, async_], ids=["sync", "async"])
def start(request: pytest.FixtureRequest) -> Callable[[IntegrationSettings], None]:
    return request.param


@pytest.fixture
def table(database_url: str) -> Engine:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    return engine


def test_starts_if_every_value_is_readable(
    database_url: str, table: Engine, start: Callable[[IntegrationSettings], None]
) -> None:
    start(settings(database_url))
    with table.begin() as connection:
        connection.execute(
            text(f"INSERT INTO integrations (user_id, provider, access_token) VALUES ('u', 'p', '{SENTINEL}')")
        )
    start(settings(database_url, integration_token_encryption_rollout=Rollout.MIGRATE))
    with pytest.raises(PlaintextFoundError) as caught:
        start(settings(database_url))
    assert_silent(caught.value, SENTINEL)
    table.dispose()


def test_refuses_to_start_with_values_under_an_unknown_key(
    database_url: str, table: Engine, start: Callable[[IntegrationSettings], None]
) -> None:
    stored = KeyRing(primary=Key.generate()).encrypt("x", "integrations.access_token")
    with table.begin() as connection:
        connection.execute(
            text(f"INSERT INTO integrations (user_id, provider, access_token) VALUES ('u', 'p', '{stored}')")
        )
    with pytest.raises(UnknownKeyError):
        start(settings(database_url))
    table.dispose()


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("", MissingKeyError),
        ("short", KeyFormatError),
        ("replace-me-with-the-output-of-sealchemy-generate-key", KeyFormatError),
    ],
)
def test_refuses_to_start_without_a_valid_key(
    database_url: str, start: Callable[[IntegrationSettings], None], key: str, error: type[SealchemyError]
) -> None:
    with pytest.raises(error, match="INTEGRATION_TOKEN_ENCRYPTION_KEY"):
        start(settings(database_url, key))


def test_missing_table_is_reported(database_url: str, start: Callable[[IntegrationSettings], None]) -> None:
    with pytest.raises(ColumnDefinitionError, match="integrations"):
        start(settings(database_url))


def test_options_are_passed_to_create_engine(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    protected = create_protected_engine(settings(url), pool_size=3, hide_parameters=False)
    assert (protected.pool.size(), protected.hide_parameters) == (3, False)  # type: ignore[attr-defined]
    protected.dispose()
    engine.dispose()


def test_the_public_schema_has_no_token(database_url: str, table: Engine) -> None:
    assert not [name for name in IntegrationPublic.model_fields if "token" in name and not name.startswith("has_")]
    protected = create_protected_engine(settings(database_url))
    with Session(protected) as session:
        session.add(Integration(user_id="u1", provider="google", access_token=SENTINEL, refresh_token=SENTINEL))
        session.flush()
        session.expunge_all()
        item = session.scalars(select(Integration)).one()
        shown = IntegrationPublic.model_validate(item)
        assert "access_token" not in item.__dict__  # not fetched
        assert SENTINEL not in f"{shown!r}{shown.model_dump()}{shown.model_dump_json()}"
        assert (shown.has_access_token, shown.has_refresh_token) == (True, True)
    protected.dispose()
    table.dispose()


@pytest.mark.parametrize("url", ["nonsense", "postgres://u:password-SENTINEL@h/d", "x://", ""])
def test_invalid_database_url_is_reported_and_not_shown(url: str, start: Callable[[IntegrationSettings], None]) -> None:
    with pytest.raises(IntegrationError, match="DATABASE_URL") as caught:
        start(settings(url))
    assert_silent(caught.value, "password-SENTINEL")


def test_unknown_stage_is_reported_without_showing_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTEGRATION_TOKEN_ENCRYPTION_KEY", KEY)
    monkeypatch.setenv("INTEGRATION_TOKEN_ENCRYPTION_ROLLOUT", "strikt")
    with pytest.raises(RolloutError, match=r"_ROLLOUT: .*'prepare', 'migrate', 'strict'") as caught:
        IntegrationSettings()
    assert_silent(caught.value, KEY, package=None)


def test_missing_extra_is_named_in_the_error() -> None:
    script = """
import sys
sys.modules.update(dict.fromkeys(["greenlet", "pydantic", "pydantic_settings", "authlib"]))
import sealchemy.integrations, sealchemy.integrations.models, sealchemy.integrations.service
for name in ("OAuthClient", "IntegrationSettings", "IntegrationPublic"):
    try:
        getattr(sealchemy.integrations, name)
    except ModuleNotFoundError as error:
        assert 'pip install "sealchemy[integrations]"' in str(error), error
    else:
        raise SystemExit(name)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_pickle_of_the_settings_has_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = Key.generate(), Key.generate()
    settings = IntegrationSettings(
        database_url="sqlite:///x.db",
        integration_token_encryption_key=SecretStr(here.reveal()),
        integration_token_encryption_rollout=Rollout.MIGRATE,
    )
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        text = pickle.dumps(settings, protocol)
        assert here.reveal()[20:].encode() not in text
        monkeypatch.setenv("INTEGRATION_TOKEN_ENCRYPTION_KEY", there.reveal())
        copied = pickle.loads(text)  # noqa: S301 - our own
        assert copied.key_ring().primary == there
        assert (copied.database_url, copied.integration_token_encryption_rollout) == ("sqlite:///x.db", "migrate")
    assert settings.model_copy().key_ring().primary == here
