"""`sealchemy bind`, and what the other commands say of values that are bound to their row."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from sealchemy import KeyRing
from tests.support.cli import NEW, OLD, run_in_this_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODELS = """
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sealchemy import EncryptedString

class Base(DeclarativeBase):
    pass

class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column("owner_name", String(64))
    token: Mapped[str | None] = mapped_column(EncryptedString("a.token", bind_to=("owner",)))
    free: Mapped[str | None] = mapped_column(EncryptedString("a.free"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_plaintext_to_bound_by_the_steps_of_the_plan(  # noqa: PLR0915 - one story
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, make_engine: Callable[..., Any]
) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/models.py").write_text(MODELS)
    engine = make_engine(url, KeyRing(primary=NEW, previous=[OLD]))
    collate = " COLLATE utf8mb4_bin" if kind == "mariadb" else ""
    long_text = "MEDIUMTEXT" if kind == "mariadb" else "TEXT"
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE accounts (id INTEGER PRIMARY KEY, owner_name VARCHAR(64){collate} NOT NULL,"
            f" token {long_text}, free {long_text})"
        )
        connection.exec_driver_sql(
            "INSERT INTO accounts VALUES (1, 'ann', 'SENTINEL', 'SENTINEL'), (2, 'bob', 'x', NULL)"
        )

    def run(name: str, *arguments: str, status: int = 0, stage: str = "strict", **variables: str) -> str:
        environment = {**os.environ, "DATABASE_URL": url, "SHOP_KEY": OLD.reveal(), "SHOP_ROLLOUT": stage} | variables
        command = [name, "--models", "shop.models:Base", "--prefix", "SHOP", *arguments]
        done = run_in_this_process(command, tmp_path, environment)
        shown = done.stdout + done.stderr
        assert "SENTINEL" not in shown
        assert "Traceback" not in shown, shown
        assert done.returncode == status, shown
        return shown

    assert "SHOP_ROLLOUT=migrate" in run("plan", stage="migrate")
    assert "encrypt accounts: 2 rows" in run("encrypt", stage="migrate")
    state = json.loads(run("status", "--json"))
    assert [(item["column"], item.get("bind_to"), item.get("bound")) for item in state] == [
        ("token", ["owner_name"], 2),
        ("free", None, None),
    ]
    assert "every value authenticates" in run("verify")
    run("check")
    assert "nothing to do" in run("rekey", stage="strict")

    # As if the column had been encrypted before it was bound.
    for stage in ("prepare", "migrate", "bind_migrate", "strict"):
        said = run("bind", "--undo", status=1, stage=stage)
        assert f"the rollout stage is {stage}" in said
        assert "set SHOP_ROLLOUT=bind_prepare everywhere first" in said
    assert "unbind accounts: 2 rows" in run("bind", "--undo", stage="bind_prepare")
    assert "2 values are not bound" in run("check", status=1)
    run("check", stage="bind_prepare")
    assert "not bound to its row" in run("verify", status=1)
    run("verify", stage="bind_migrate")
    assert "bound to owner_name" in run("status", "--fail-if-plaintext")
    run("status", "--fail-if-unbound", status=1)
    steps = run("plan")
    assert "SHOP_ROLLOUT=bind_prepare" in steps
    assert "SHOP_ROLLOUT=bind_migrate" in steps
    assert "sealchemy bind --models shop.models:Base --prefix SHOP" in steps
    for stage in ("prepare", "bind_prepare"):
        assert "bind: the rollout stage is" in run("bind", status=1, stage=stage)
    assert "may have been copied from other rows" in run("bind", status=1, stage="strict")
    assert "2 rows would be rewritten" in run("bind", "--dry-run", stage="bind_migrate")
    assert "bind accounts: 2 rows" in run("bind", stage="bind_migrate")
    assert "bind accounts: 0 rows" in run("bind", stage="bind_migrate")
    run("status", "--fail-if-unbound")
    run("check")
    ring = {"SHOP_KEY": NEW.reveal(), "SHOP_PREVIOUS_KEYS": OLD.reveal()}
    assert f"2 rows moved to key {NEW.id}" in run("rekey", **ring)
    assert "every value authenticates" in run("verify", **ring)
    assert "bound=True" in run("plan", **ring)
    with engine.begin() as connection:
        value = connection.scalar(text("SELECT token FROM accounts WHERE id = 1"))
        connection.execute(text("UPDATE accounts SET token = :v WHERE id = 2"), {"v": value})
    assert "(2,) token: DecryptionError: a.token: an encrypted value does not authenticate" in run(
        "verify", status=1, **ring
    )
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM accounts WHERE id = 2"))
    assert "decrypt accounts: 1 rows" in run("decrypt", "--allow-plaintext", stage="migrate", **ring)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT token, free FROM accounts")).all() == [("SENTINEL", "SENTINEL")]


def test_models_without_bound_columns_say_so(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/models.py").write_text(MODELS.replace(', bind_to=("owner",)', ""))
    (tmp_path / "x.db").touch()
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path / 'x.db'}", "SHOP_KEY": OLD.reveal()}
    command = ["bind", "--models", "shop.models:Base", "--prefix", "SHOP"]
    done = run_in_this_process(command, tmp_path, environment | {"SHOP_ROLLOUT": "bind_migrate"})
    assert done.returncode == 1
    assert "no column of these models is declared with bind_to" in done.stderr
