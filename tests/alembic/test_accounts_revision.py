"""Revisions 0004 to 0006 on tables that others use: what refers to the table stays, and a killed run is continued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session, sessionmaker, undefer_group

from sealchemy import DecryptionError, Key, KeyRing, Rollout, attach_key_ring
from sealchemy._rewriting.constraint import existing_constraints
from sealchemy.integrations import (
    Base,
    Integration,
    IntegrationSettings,
    TokenGrant,
    get_valid_token,
    upsert_integration,
)
from sealchemy.status import check_encryption, declared_status
from tests.support.alembic import ROOT, cli
from tests.support.leaks import SENTINEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tests.support.provider import Provider

KEY = Key.generate()
STAGE = "INTEGRATION_TOKEN_ENCRYPTION_ROLLOUT"
COUNT = 30


def alembic(url: str, name: str, revision: str, stage: Rollout = Rollout.STRICT) -> None:
    """Run the revisions as the command does, without the second that starting it takes."""
    settings = IntegrationSettings(
        _env_file=None,
        database_url=url,
        integration_token_encryption_key=KEY.reveal(),
        integration_token_encryption_rollout=stage,
    )
    config = Config(attributes={"settings": settings})
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("path_separator", "os")
    getattr(command, name)(config, revision)


def old_table(url: str) -> Engine:
    """The table of version 0.1 in use, at revision 0003."""
    alembic(url, "upgrade", "0001")
    engine = create_engine(url)
    with engine.begin() as connection:
        for number in range(1, COUNT + 1):
            connection.execute(
                text(
                    "INSERT INTO integrations (user_id, provider, access_token, refresh_token)"
                    " VALUES (:user, 'google', :access, :refresh)"
                ),
                {"user": f"u{number}", "access": f"{SENTINEL}-a{number}", "refresh": f"{SENTINEL}-r{number}"},
            )
    alembic(url, "upgrade", "0003")
    return engine


def tokens(engine: Engine, stage: Rollout = Rollout.STRICT) -> set[tuple[str, str, str]]:
    attach_key_ring(engine, KeyRing(primary=KEY), rollout=stage)
    with Session(engine) as session:
        loaded = session.scalars(select(Integration).options(undefer_group("tokens")))
        return {(item.user_id, str(item.access_token), str(item.refresh_token)) for item in loaded}


ALL = {(f"u{number}", f"{SENTINEL}-a{number}", f"{SENTINEL}-r{number}") for number in range(1, COUNT + 1)}


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    is_file = request.param == "sqlite"
    return f"sqlite:///{tmp_path / 'test.db'}" if is_file else request.getfixturevalue(f"{request.param}_url")


@pytest.mark.slow
def test_upgrade_and_back(url: str) -> None:
    engine = old_table(url)
    alembic(url, "upgrade", "head")
    assert tokens(engine) == ALL
    check_encryption(engine, Base.metadata)
    with engine.begin() as connection, pytest.raises((IntegrityError, DBAPIError)):
        connection.execute(text("INSERT INTO integrations (user_id, provider) VALUES ('u1', 'google')"))
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO integrations (user_id, provider, account) VALUES ('u1', 'google', 'b')"))
    refused = cli("downgrade", "0003", url=url, key=KEY, **{STAGE: "strict"})
    assert "bind_prepare" in refused.stderr
    refused = cli("downgrade", "0003", url=url, key=KEY, **{STAGE: "bind_prepare"})
    assert refused.returncode != 0
    assert "1 integrations have an account" in refused.stderr
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM integrations WHERE account = 'b'"))
    alembic(url, "downgrade", "0003", stage=Rollout.BIND_PREPARE)
    with engine.connect() as connection:
        columns = {item["name"] for item in inspect(connection).get_columns("integrations")}
        found = {tuple(item["column_names"]) for item in inspect(connection).get_unique_constraints("integrations")}
        checks = existing_constraints(connection, None, "integrations", ["access_token", "refresh_token"])
    assert not columns & {"account", "details"}
    assert [[item.is_bound for item in found] for found in checks.values()] == [[False], [False]]
    assert found == {("user_id", "provider")}
    alembic(url, "upgrade", "head")
    assert tokens(engine) == ALL
    engine.dispose()


def test_a_live_application_goes_through_the_stages(url: str, oauth_provider: Provider) -> None:
    """The steps of the upgrade note, with what works in each."""
    engine = old_table(url)
    alembic(url, "upgrade", "0004", stage=Rollout.BIND_PREPARE)
    assert tokens(engine, Rollout.BIND_PREPARE) == ALL
    sessions, client = sessionmaker(engine), oauth_provider.client()
    grant = oauth_provider.grant()
    stored = TokenGrant(access_token=grant.access_token, refresh_token=grant.refresh_token, expires_in=0)
    with sessions.begin() as session:
        upsert_integration(session, user_id="new", provider="google", grant=stored)
    whose = {"user_id": "new", "provider": "google"}
    token = get_valid_token(sessions, **whose, client=client)
    assert all(item.bound == 0 for item in declared_status(engine, Base.metadata))
    attach_key_ring(engine, KeyRing(primary=KEY), rollout=Rollout.BIND_MIGRATE)
    token = get_valid_token(sessions, **whose, client=client, rejected=token)
    assert [item.bound for item in declared_status(engine, Base.metadata)] == [1, 1, 0]
    alembic(url, "upgrade", "0005", stage=Rollout.BIND_MIGRATE)
    attach_key_ring(engine, KeyRing(primary=KEY))
    check_encryption(engine, Base.metadata)
    token = get_valid_token(sessions, **whose, client=client, rejected=token)
    alembic(url, "upgrade", "head")
    assert get_valid_token(sessions, **whose, client=client, rejected=token)
    assert oauth_provider.counts["reused"] == 0
    engine.dispose()


@pytest.mark.slow
def test_a_run_that_was_killed_is_continued(url: str) -> None:
    """As if the process had died after its first steps, and after its last one."""
    engine = old_table(url)
    is_sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE integrations ADD COLUMN account varchar(255) DEFAULT '' NOT NULL"))
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(
                text("CREATE UNIQUE INDEX uq_integrations_user_id_provider_account ON integrations (user_id)")
            )
    alembic(url, "upgrade", "0004", stage=Rollout.BIND_PREPARE)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))
    alembic(url, "upgrade", "0004", stage=Rollout.BIND_PREPARE)
    assert tokens(engine, Rollout.BIND_PREPARE) == ALL
    for revision in ("0005", "head"):
        alembic(url, "upgrade", revision)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0004'"))
        alembic(url, "upgrade", "head")
    assert tokens(engine) == ALL
    assert not is_sqlite or engine.connect().exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    engine.dispose()


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_everything_around_the_table_stays_on_sqlite(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    engine = old_table(url)
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE audit (token text)",
            "CREATE TABLE child (id integer PRIMARY KEY, of integer REFERENCES integrations (id) ON DELETE CASCADE)",
            "INSERT INTO child SELECT id, id FROM integrations",
            "CREATE INDEX by_expression ON integrations (lower(provider), expires_at)",
            "CREATE VIEW report AS SELECT user_id, '50%' AS percent FROM integrations",
            (
                "CREATE TRIGGER note AFTER DELETE ON integrations BEGIN"
                " INSERT INTO audit VALUES (OLD.user_id || '%'); END"
            ),
        ):
            connection.exec_driver_sql(statement)
    query = (
        "SELECT name, sql FROM sqlite_master WHERE name IN ('child', 'by_expression', 'report', 'note') ORDER BY name"
    )
    with engine.connect() as connection:
        before = connection.exec_driver_sql(query).all()
    alembic(url, "upgrade", "head")
    with engine.connect() as connection:
        assert connection.exec_driver_sql(query).all() == before
        assert connection.exec_driver_sql("SELECT count(*) FROM child").scalar() == COUNT
        assert connection.exec_driver_sql("SELECT count(*) FROM audit").scalar() == 0
        assert connection.exec_driver_sql("SELECT count(*) FROM report").scalar() == COUNT
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    assert tokens(engine) == ALL
    alembic(url, "downgrade", "0003", stage=Rollout.BIND_PREPARE)
    with engine.connect() as connection:
        assert connection.exec_driver_sql(query).all() == before
        assert connection.exec_driver_sql("SELECT count(*) FROM child").scalar() == COUNT
    engine.dispose()


def test_a_table_that_is_made_otherwise_is_left_alone_on_sqlite(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    engine = old_table(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA writable_schema = 1")
        connection.exec_driver_sql(
            "UPDATE sqlite_master SET sql = replace(sql, 'UNIQUE (user_id, provider)', 'UNIQUE (user_id,provider)')"
        )
    refused = cli("upgrade", "head", url=url, key=KEY)
    assert refused.returncode != 0
    assert "make that UNIQUE (user_id, provider, account) by hand" in refused.stderr
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM integrations").scalar() == COUNT
    engine.dispose()


def test_a_swap_after_binding_is_an_error(url: str, make_engine: Callable[..., Engine]) -> None:
    engine = old_table(url)
    alembic(url, "upgrade", "head")
    with engine.begin() as connection:
        value = connection.scalar(text("SELECT access_token FROM integrations WHERE user_id = 'u1'"))
        connection.execute(text("UPDATE integrations SET access_token = :v WHERE user_id = 'u2'"), {"v": value})
    with pytest.raises(DecryptionError):
        tokens(engine)
    engine.dispose()
