"""What `alembic` prints when an operation refuses: one sentence, last and alone."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from alembic.util import CommandError
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, text

from sealchemy import EncryptedString, Key, KeyRing, RewriteError, SealchemyError
from tests.support.alembic import Application, Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
ENV = """
import os
from alembic import context
from sqlalchemy import create_engine
from sealchemy import KeyRing, Rollout, attach_key_ring

engine = create_engine("sqlite:///x.db")
attach_key_ring(engine, KeyRing.from_env("SHOP"), rollout=Rollout.MIGRATE)
with engine.connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""


def test_the_command_line_prints_the_sentence_alone(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE users (id INTEGER PRIMARY KEY, token TEXT)"))
        connection.execute(text("INSERT INTO users VALUES (1, 'SENTINEL')"))
    engine.dispose()
    project = Project(tmp_path, engine)
    project.revision("op.require_encryption('users', {'token': 'users.token'})")
    (project.folder / "env.py").write_text(ENV)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = project\n")
    environment = {"SHOP_KEY": RING.primary.reveal(), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = (done.stderr + done.stdout).strip().splitlines()
    assert line.startswith("FAILED: ")
    assert "its rollout stage is migrate" in line


def test_errors_keep_their_types_and_attributes(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine("sqlite://", RING)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE users (id INTEGER PRIMARY KEY, token TEXT)"))
        connection.execute(text("INSERT INTO users VALUES (1, 'sealchemy:v1:bad')"))
    project = Project(tmp_path, engine)
    project.revision("op.encrypt_columns('users', {'token': 'users.token'})")
    with pytest.raises(CommandError) as caught:
        project.upgrade()
    error = caught.value
    assert isinstance(error, RewriteError)
    assert type(error).__name__ == "RewriteError"
    assert error.report is not None
    assert error.report.failed == 1
    with pytest.raises(CommandError) as again:
        project.upgrade()
    assert type(again.value) is type(error)


def test_autogenerate_refuses_in_the_same_way(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    engine, metadata = make_engine("sqlite://", RING), MetaData()
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE users (id INTEGER PRIMARY KEY, token INTEGER)"))
    Table("users", metadata, Column("id", Integer, primary_key=True), Column("token", EncryptedString("u.t")))
    with pytest.raises(CommandError, match="cannot be encrypted") as caught:
        Application(tmp_path, engine, metadata).autogenerate()
    assert isinstance(caught.value, SealchemyError)
