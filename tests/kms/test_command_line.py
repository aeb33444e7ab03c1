"""`sealchemy wrap-key` and `reveal-key`, and what other commands do with wrapped keys."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sealchemy import Key, KeyRing
from sealchemy._values.kms.wrapped_key import parse

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.openbao import OpenBao

URI = "vault-transit://transit/sealchemy"
KEY = Key.generate()


def run(*arguments: str, text: str = "", folder: Path | None = None, **environ: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from sealchemy.cli import main; main()", *arguments],
        cwd=folder,
        env={**os.environ, **environ},
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_key_is_wrapped_moved_and_revealed(vault: OpenBao) -> None:
    status, wrapped, error = run("wrap-key", "--to", URI, text=f"{KEY.reveal()}\n")
    assert (status, error) == (0, "")
    assert parse(wrapped.strip()).key_id == KEY.id
    status, moved, error = run("wrap-key", "--to", URI, text=wrapped)
    assert (status, error) == (0, "")
    assert parse(moved.strip()).sealed == parse(wrapped.strip()).sealed
    assert moved != wrapped
    assert run("reveal-key", "--yes", text=moved) == (0, f"{KEY.reveal()}\n", "")
    assert vault.url


def test_a_new_key_is_seen_by_no_one(vault: OpenBao) -> None:
    first, second = (run("wrap-key", "--to", URI, "--new")[1].strip() for _ in range(2))
    assert Key.parse(first) != Key.parse(second)
    assert vault.url


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "text", "says"),
    [
        (["reveal-key"], KEY.reveal(), "pass --yes"),
        (["reveal-key", "--yes"], "", "there is no key on standard input"),
        (["wrap-key", "--to", URI], "", "--new"),
        (["wrap-key", "--to", URI, "--new"], KEY.reveal(), "leave one of them out"),
        (["wrap-key", "--to", URI], "rubbish", "must be 32 bytes in base64"),
        (["wrap-key", "--to", "transit/sealchemy"], KEY.reveal(), "scheme://"),
        (["wrap-key", "--to", KEY.reveal()], "", "there is no key on standard input"),
        (["wrap-key", "--to", KEY.reveal(), "--new"], "", "scheme://"),
        (["wrap-key", "--to", "nothing://key"], KEY.reveal(), "no KMS has the scheme nothing"),
        (["wrap-key", "--to", URI], KEY.reveal(), "VAULT_TOKEN must be set"),
    ],
    ids=[
        "yes",
        "no key",
        "no key to wrap",
        "two keys",
        "rubbish",
        "no URI",
        "key as URI",
        "key as URI of a new one",
        "scheme",
        "token",
    ],
)
def test_errors_are_one_line_without_a_key(arguments: list[str], text: str, says: str) -> None:
    status, out, error = run(*arguments, text=text, VAULT_ADDR="http://127.0.0.1:1", VAULT_TOKEN="")
    assert (status, out) == (1, "")
    assert error.startswith("sealchemy: ")
    assert error.count("\n") == 1
    assert says in error
    assert KEY.reveal()[20:] not in error


@pytest.mark.slow
def test_status_asks_no_kms_and_check_does(vault: OpenBao, tmp_path: Path) -> None:
    text = KEY.wrap(URI)
    (tmp_path / "models.py").write_text(
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column\nfrom sealchemy import EncryptedString\n"
        "class Base(DeclarativeBase): pass\n"
        "class T(Base):\n    __tablename__ = 't'\n    id: Mapped[int] = mapped_column(primary_key=True)\n"
        "    token: Mapped[str] = mapped_column(EncryptedString('t.token'))\n"
    )
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, token TEXT)")
    connection.execute("INSERT INTO t VALUES (1, ?)", [KeyRing(primary=KEY).encrypt("x", "t.token")])
    connection.commit()
    connection.close()
    options = ["--models", "models:Base", "--url", f"sqlite:///{tmp_path / 'x.db'}", "--prefix", "T"]
    assert run("check", *options, folder=tmp_path, T_KEY=text)[0] == 0
    away = {"T_KEY": text, "VAULT_ADDR": "http://127.0.0.1:1"}
    began = time.monotonic()
    status, out, error = run("status", *options, folder=tmp_path, **away)
    assert (status, error) == (0, "")
    assert f"key {KEY.id} (primary)" in out
    status, out, error = run("check", *options, folder=tmp_path, **away)
    assert (status, out) == (1, "")
    assert error.startswith(f"sealchemy: T_KEY: key {KEY.id}: {URI}: ")
    assert time.monotonic() - began < 60
    assert vault.url
