"""A project with models, a database and keys, where the command runs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from sealchemy import Key, KeyRing

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
        done = subprocess.run(
            self.command(name, *arguments),
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
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
