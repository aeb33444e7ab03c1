"""Objects that version 0.1 pickled, and databases that it wrote, can be read."""

from __future__ import annotations

import base64
import json
import pickle
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from pydantic import SecretStr
from sqlalchemy import create_engine, insert, select, text
from sqlalchemy.orm import Session, undefer_group

import sealchemy
from sealchemy import EncryptedString, Key, KeyRing, Rollout, SecretString, attach_key_ring
from sealchemy.integrations import Integration, IntegrationSettings, TokenGrant
from sealchemy.rewrite import Failure, Options, Progress
from tests.support.alembic import ROOT

VECTORS = Path(__file__).parents[1] / "vectors"
MINOR = ".".join(sqlalchemy.__version__.split(".")[:2])  # SQLAlchemy 2.0 does not read the rows and tables of 2.1
FROZEN = {
    **json.loads((VECTORS / "pickles-0.1.json").read_text()),
    **json.loads((VECTORS / f"pickles-0.1-sqlalchemy-{MINOR}.json").read_text()),
}
PICKLES = {name: base64.b64decode(pickled) for name, pickled in FROZEN.items()}
KEY = Key(bytes(range(32)))
TOKENS = [
    ("" if number == 3 else f"ya29.frozen-access-{number}", f"1//frozen-refresh-{number}" if number % 2 else None)
    for number in range(1, 6)
]


def load(name: str) -> Any:
    return pickle.loads(PICKLES[name])  # noqa: S301 - written by an earlier version of this library


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_of_version_0_1_is_read(name: str) -> None:
    assert load(name) is not None


def test_values_in_pickles_are_what_they_were() -> None:
    assert type(load("SecretString")) is SecretString
    assert load("SecretString") == "vector-secret"
    assert load("Rollout") == [Rollout.PREPARE, Rollout.MIGRATE, Rollout.STRICT]
    assert load("Options") == Options(batch_size=7)
    assert load("Progress") == Progress("t", "encrypt", 1, 2)
    assert load("Report").failures == [Failure((1,), "token", "DecryptionError: m")]
    assert load("TokenGrant") == TokenGrant(access_token="ya29.vector-grant")
    assert load("ColumnStatus").keys == {"0" * 12: 2}
    assert isinstance(load("UnknownKeyError"), sealchemy.UnknownKeyError)
    assert load("RewriteError").args == ("m",)


def test_a_pickled_object_of_a_model_has_its_tokens_and_hides_them() -> None:
    item = load("Integration")
    assert isinstance(item, Integration)
    assert (item.access_token, item.refresh_token) == ("ya29.vector-access", "1//vector-refresh")
    assert "vector" not in repr(item.__dict__) + repr(load("Row"))
    assert load("Row")[1] == "ya29.vector-access"


def test_a_pickled_table_still_encrypts() -> None:
    table = load("Table")
    assert isinstance(table.c.token.type, EncryptedString)
    engine = attach_key_ring(create_engine("sqlite://"), KeyRing(primary=KEY))
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(insert(table), {"token": "secret"})
        assert connection.scalar(text("SELECT token FROM t")).startswith("sealchemy:v1:")
        assert connection.scalar(select(table.c.token)) == "secret"
    engine.dispose()


@pytest.mark.parametrize("name", ["SecretString", "EncryptedString", "Rollout", "Options", "Report", "TokenGrant"])
def test_new_pickles_name_public_modules(name: str) -> None:
    pickled = pickle.dumps(load(name))
    assert b"._" not in pickled
    assert pickle.loads(pickled) is not None  # noqa: S301 - see above


@pytest.mark.parametrize("revision", ["0001", "0003"])
def test_a_database_of_version_0_1_is_upgraded_and_read(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "integrations.db"
    connection = sqlite3.connect(path)
    connection.executescript((VECTORS / f"integrations-{revision}.sql").read_text())
    connection.close()
    settings = IntegrationSettings.model_construct(
        database_url=f"sqlite:///{path}", integration_token_encryption_key=SecretStr(KEY.reveal())
    )
    config = Config(attributes={"settings": settings})
    config.set_main_option("script_location", str(ROOT / "migrations"))
    command.upgrade(config, "head")
    engine = attach_key_ring(create_engine(f"sqlite:///{path}"), KeyRing(primary=KEY))
    with Session(engine) as session:
        found = session.scalars(select(Integration).options(undefer_group("tokens")).order_by(Integration.id)).all()
        assert [(item.access_token, item.refresh_token) for item in found] == TOKENS
        assert all(isinstance(item.created_at, datetime) for item in found)
        assert "frozen" not in str(session.execute(text("SELECT access_token FROM integrations")).all())
    engine.dispose()
