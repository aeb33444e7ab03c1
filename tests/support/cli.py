"""A project with models, a database and keys, where the command runs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from sqlalchemy import text

from sealchemy import Key, KeyRing
from sealchemy.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

OLD, NEW = Key.generate(), Key.generate()
RING = KeyRing(primary=NEW, previous=[OLD])
CONTEXTS = {"accessToken": "i.access", "refresh": "i.refresh"}
MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sealchemy import EncryptedString

class Base(DeclarativeBase):
    pass

class Integration(Base):
    __tablename__ = "Integration"
    id: Mapped[int] = mapped_column(primary_key=True)
    access: Mapped[str] = mapped_column("accessToken", EncryptedString("i.access"))
    refresh: Mapped[str | None] = mapped_column(EncryptedString("i.refresh"))

class Empty:
    pass
"""


def run_in_this_process(
    arguments: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own would, without the second that starting one takes."""
    out, err, paths, status = io.StringIO(), io.StringIO(), list(sys.path), 0
    with (
        patch.dict(os.environ, environment, clear=True),
        patch.object(sys, "argv", ["sealchemy", *arguments]),
        patch.object(sys, "stdin", io.StringIO()),
        patch.object(logging.root, "handlers", []),
        patch.object(logging.root, "level", logging.WARNING),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.path[:] = paths
            for name in {name for name in sys.modules if name.partition(".")[0] == "shop"}:
                del sys.modules[name]
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


class Project:
    """A folder with models, a database and keys, where commands run."""

    def __init__(self, folder: Path, url: str, engine: Engine) -> None:
        self.folder, self.url, self.engine = folder, url, engine
        (folder / "shop").mkdir()
        (folder / "shop/models.py").write_text(MODELS)
        with engine.begin() as connection:
            connection.execute(
                text('CREATE TABLE "Integration" (id INTEGER PRIMARY KEY, "accessToken" TEXT NOT NULL, refresh TEXT)')
            )

    def fill(self, rows: int) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                text('INSERT INTO "Integration" VALUES (:id, :access, :refresh)'),
                [
                    {"id": number, "access": f"SENTINEL-a-{number}", "refresh": None if number % 2 else "SENTINEL-r"}
                    for number in range(1, rows + 1)
                ],
            )

    def fill_on_postgresql(self, rows: int) -> None:
        """Fill it in the server, which takes a moment for many rows."""
        self.execute(
            "INSERT INTO \"Integration\" SELECT i, 'SENTINEL-' || i, NULL FROM generate_series(1, :rows) AS i",
            rows=rows,
        )

    def execute(self, sql: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(sql), values)

    def raw(self) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text('SELECT * FROM "Integration" ORDER BY id'))]

    def environment(self, **variables: str) -> dict[str, str]:
        return {
            **os.environ,
            "COLUMNS": "200",
            "DATABASE_URL": self.url,
            "SHOP_KEY": NEW.reveal(),
            "SHOP_PREVIOUS_KEYS": OLD.reveal(),
            "SHOP_ROLLOUT": "migrate",
            **variables,
        }

    def command(self, name: str, *arguments: str) -> list[str]:
        program = [sys.executable, "-c", "from sealchemy.cli import main; main()"]
        return [*program, name, "--models", "shop.models:Base", "--prefix", "SHOP", *arguments]

    def run(self, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = run_in_this_process(self.command(name, *arguments)[3:], self.folder, self.environment(**variables))
        assert "SENTINEL" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def ok(self, name: str, *arguments: str, **variables: str) -> str:
        done = self.run(name, *arguments, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, name: str, *arguments: str, status: int = 1, **variables: str) -> str:
        done = self.run(name, *arguments, **variables)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def interrupt_and_continue(self, **variables: str) -> None:
        """Press Ctrl-C in `encrypt`: it ends between two batches, and the next run does the rest."""
        self.fill(400)
        process = subprocess.Popen(
            self.command("encrypt", "--batch-size", "10", "--pause", "0.2"),
            cwd=self.folder,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(200):
            if self._encrypted():
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert "interrupted after" in err
        assert "run it again to continue" in err
        done = self._encrypted()
        assert 0 < done < 400
        assert done % 10 == 0
        assert f"encrypt Integration: {400 - done} rows" in self.ok("encrypt", **variables)

    def _encrypted(self) -> int:
        return sum(row[1].startswith("sealchemy:") for row in self.raw())
