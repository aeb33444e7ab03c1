"""The migrations of the ready-made table, run through the `alembic` command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, undefer_group

from sealchemy import Key, KeyRing, attach_key_ring
from sealchemy.integrations.models import Base, Integration
from sealchemy.integrations.settings import IntegrationSettings
from tests.support.alembic import ROOT, cli
from tests.support.leaks import SENTINEL

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

KEY = Key.generate()
ROWS = {1: (SENTINEL, f"1//{SENTINEL}"), 2: ("", None), 3: (None, "ключ 🔑"), 4: ("x" * 2048, "y" * 512)}


@pytest.fixture
def plaintext(database_url: str) -> Engine:
    """The plaintext table of an existing application, with rows."""
    assert cli("upgrade", "0001", url=database_url, key=KEY).returncode == 0
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for key, (access, refresh) in ROWS.items():
            connection.execute(
                text(
                    "INSERT INTO integrations (id, user_id, provider, access_token, refresh_token)"
                    " VALUES (:id, :user, 'google', :access, :refresh)"
                ),
                {"id": key, "user": f"u{key}", "access": access, "refresh": refresh},
            )
    return engine


def tokens(engine: Engine) -> dict[int, tuple[str | None, str | None]]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, access_token, refresh_token FROM integrations ORDER BY id"))
        return {row[0]: (row[1], row[2]) for row in rows}


@pytest.mark.slow
def test_upgrade_downgrade_and_upgrade_again(database_url: str, plaintext: Engine) -> None:
    for _ in range(2):
        done = cli("upgrade", "head", url=database_url, key=KEY)
        assert done.returncode == 0, done.stderr
        encrypted = tokens(plaintext)
        assert all(value is None or value.startswith("sealchemy:v1:") for row in encrypted.values() for value in row)
        again = cli("upgrade", "head", url=database_url, key=KEY)
        assert again.returncode == 0
        assert tokens(plaintext) == encrypted
        with pytest.raises(IntegrityError), plaintext.begin() as connection:
            connection.execute(text("UPDATE integrations SET access_token = 'plain' WHERE id = 1"))
        attach_key_ring(plaintext, KeyRing(primary=KEY))
        with Session(plaintext) as session:
            loaded = session.scalars(select(Integration).options(undefer_group("tokens")))
            assert {item.id: (item.access_token, item.refresh_token) for item in loaded} == ROWS
        refused = cli("downgrade", "0001", url=database_url, key=KEY)
        assert refused.returncode != 0
        assert "allow-plaintext=yes" in refused.stderr + refused.stdout
        strict = cli("-x", "allow-plaintext=yes", "downgrade", "0001", url=database_url, key=KEY)
        assert strict.returncode != 0
        assert "INTEGRATION_TOKEN_ENCRYPTION_ROLLOUT" in strict.stderr + strict.stdout
        assert tokens(plaintext) == encrypted
        migrate = {"INTEGRATION_TOKEN_ENCRYPTION_ROLLOUT": "migrate"}
        down = cli("-x", "allow-plaintext=yes", "downgrade", "0001", url=database_url, key=KEY, **migrate)
        assert down.returncode == 0
        assert tokens(plaintext) == ROWS
        assert "SENTINEL" not in "".join(
            out for run in (done, again, refused, strict, down) for out in (run.stdout, run.stderr)
        )
    assert cli("-x", "allow-plaintext=yes", "downgrade", "base", url=database_url, key=KEY).returncode == 0
    plaintext.dispose()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "no encryption key"),
        ({"INTEGRATION_TOKEN_ENCRYPTION_KEY": "replace-me-with-the-output-of-sealchemy-generate-key"}, "placeholder"),
        ({"INTEGRATION_TOKEN_ENCRYPTION_KEY": "c2hvcnQ="}, "not 8 characters"),
        (
            {"INTEGRATION_TOKEN_ENCRYPTION_KEY": KEY.reveal(), "INTEGRATION_TOKEN_ENCRYPTION_KEY_FILE": "/x"},
            "both INTEGRATION_TOKEN_ENCRYPTION_KEY and",
        ),
    ],
)
def test_upgrade_without_a_valid_key_changes_no_row(
    database_url: str, plaintext: Engine, environment: dict[str, str], message: str
) -> None:
    stopped = cli("upgrade", "head", url=database_url, key=None, **environment)
    assert stopped.returncode != 0
    assert message in stopped.stderr + stopped.stdout
    assert "INTEGRATION_TOKEN_ENCRYPTION_KEY" in stopped.stderr + stopped.stdout
    assert "Traceback" not in stopped.stderr
    assert tokens(plaintext) == ROWS
    plaintext.dispose()


@pytest.mark.slow
def test_token_that_only_looks_encrypted_is_reported(database_url: str, plaintext: Engine) -> None:
    with plaintext.begin() as connection:
        connection.execute(text("UPDATE integrations SET access_token = 'sealchemy:mine' WHERE id = 4"))
    stopped = cli("upgrade", "head", url=database_url, key=KEY)
    assert stopped.returncode != 0
    assert "(4,) access_token" in stopped.stderr + stopped.stdout
    assert tokens(plaintext)[4][0] == "sealchemy:mine"
    assert str(tokens(plaintext)[1][0]).startswith("sealchemy:v1:")
    plaintext.dispose()


@pytest.mark.slow
def test_models_and_revisions_agree(database_url: str) -> None:
    assert cli("upgrade", "head", url=database_url, key=KEY).returncode == 0
    checked = cli("check", url=database_url, key=KEY)
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_offline_mode_is_refused_with_the_reason(database_url: str) -> None:
    stopped = cli("upgrade", "head", "--sql", url=database_url, key=KEY)
    assert stopped.returncode != 0
    assert "--sql" in stopped.stderr + stopped.stdout


def test_autogenerate_writes_sa_text_and_no_import_of_this_package(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    settings = IntegrationSettings(_env_file=None, database_url=url, integration_token_encryption_key=KEY.reveal())
    config = Config(attributes={"settings": settings})
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", str(tmp_path))
    script = command.revision(config, "x", autogenerate=True, version_path=str(tmp_path))
    content = next(tmp_path.glob("*.py")).read_text()
    assert script
    assert re.search(r"Column\('access_token', sa\.Text\(\)", content)
    assert "sealchemy" not in content
    assert set(re.findall(r"^(?:import|from) (\w+)", content, re.MULTILINE)) == {"alembic", "sqlalchemy"}


def test_metadata_contains_only_the_integrations_table() -> None:
    assert set(Base.metadata.tables) == {"integrations"}
