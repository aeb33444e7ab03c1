"""The commands on columns of JSON and bytes, from the databases' own types to encrypted and back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from sealchemy import EncryptedBytes, EncryptedJSON, KeyRing
from tests.support.cli import NEW, OLD, run_in_this_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODELS = """
from typing import Any
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator
from sealchemy import EncryptedBytes, EncryptedJSON

class Base(DeclarativeBase):
    pass

class Wrapped(TypeDecorator):
    impl = EncryptedBytes
    cache_ok = True

class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    profile: Mapped[Any] = mapped_column(EncryptedJSON("a.profile"))
    data: Mapped[Any] = mapped_column(Wrapped("a.data"))
"""
TYPES = {
    "sqlite": ("JSON", "BLOB", "x'00ff'"),
    "postgresql": ("jsonb", "bytea", r"'\x00ff'"),
    "mariadb": ("JSON", "BLOB", "0x00ff"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_the_whole_rollout(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, make_engine: Callable[..., Any]
) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    json_type, bytes_type, value = TYPES[kind]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/models.py").write_text(MODELS)
    engine = make_engine(url, KeyRing(primary=NEW, previous=[OLD]))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE accounts (id INTEGER PRIMARY KEY, profile {json_type}, data {bytes_type})"
        )
        sql = f"INSERT INTO accounts VALUES (1, '{{\"token\": \"SENTINEL\"}}', {value}), (2, '[1]', NULL)"
        connection.exec_driver_sql(sql)

    def run(name: str, *arguments: str, status: int = 0, **variables: str) -> str:
        environment = {
            **os.environ,
            "DATABASE_URL": url,
            "SHOP_KEY": OLD.reveal(),
            "SHOP_ROLLOUT": "migrate",
        } | variables
        command = [name, "--models", "shop.models:Base", "--prefix", "SHOP", *arguments]
        done = run_in_this_process(command, tmp_path, environment)
        shown = done.stdout + done.stderr
        assert done.returncode == status, shown
        assert "SENTINEL" not in shown
        assert "Traceback" not in shown
        return shown

    converts = kind != "sqlite"
    planned = run("plan", status=int(converts))
    assert ("type:profile" in planned) is ("type:data" in planned) is ("sealchemy widen" in planned) is converts
    if converts:
        assert "turn it into text" in run("encrypt", status=1)
        assert "is" in run("check", status=1)
        assert "widen accounts: " in run("widen")
    assert "nothing to do" in run("widen")
    run("check")
    assert "2 rows" in run("encrypt")
    assert "every value authenticates" in run("verify")
    assert "plaintext" in run("status")
    new = {"SHOP_KEY": NEW.reveal(), "SHOP_PREVIOUS_KEYS": OLD.reveal(), "SHOP_ROLLOUT": "strict"}
    run("check", **new)
    assert "2 rows moved" in run("rekey", **new)
    assert "0 values are plaintext" not in run("status", "--fail-if-plaintext", "--fail-if-key", OLD.id, **new)
    read = EncryptedJSON("a.profile").result_processor(engine.dialect, None)
    read_bytes = EncryptedBytes("a.data").result_processor(engine.dialect, None)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT profile, data FROM accounts ORDER BY id")).all()
    assert [(read(profile), read_bytes(data)) for profile, data in rows] == [
        ({"token": "SENTINEL"}, b"\0\xff"),
        ([1], None),
    ]
    run("decrypt", "--allow-plaintext", **(new | {"SHOP_ROLLOUT": "migrate"}))
    with engine.connect() as connection:
        data = connection.scalars(text("SELECT data FROM accounts ORDER BY id")).all()
    assert data == [r"\x00ff" if converts else b"\0\xff", None]
