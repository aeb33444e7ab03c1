"""Alembic projects for tests: the repository's own, and one that an application might have."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config

if TYPE_CHECKING:
    from sealchemy import Key

ROOT = Path(__file__).parents[2]

ENV = """
from alembic import context
connectable = context.config.attributes["engine"]
with connectable.connect() as connection:
    if context.config.attributes.get("begin"):
        connection.begin()
    context.configure(connection=connection, target_metadata=context.config.attributes.get("metadata"))
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = """
from alembic import op
import sqlalchemy as sa
revision = "{revision}"
down_revision = {down!r}
def upgrade():
    {upgrade}
def downgrade():
    {downgrade}
"""


def cli(*arguments: str, url: str, key: Key | None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `alembic` on the repository's migrations, in an empty folder: a developer may have a `.env` at home."""
    variables = {**os.environ, "DATABASE_URL": url, **environment}
    if key:
        variables["INTEGRATION_TOKEN_ENCRYPTION_KEY"] = key.reveal()
    command = [sys.executable, "-m", "alembic", "-c", str(ROOT / "pyproject.toml"), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


class Project:
    """An application's own migrations, run in this process on its engine."""

    def __init__(self, folder: Path, engine: Any, **attributes: Any) -> None:
        self.folder = folder / "project"
        (self.folder / "versions").mkdir(parents=True)
        (self.folder / "env.py").write_text(ENV)
        self.attributes = {"engine": engine, **attributes}
        self.last: str | None = None

    def revision(self, upgrade: str, downgrade: str = "pass") -> str:
        """Write a revision of these statements, and return its id."""
        revision = f"r{len(list((self.folder / 'versions').glob('*.py')))}"
        content = REVISION.format(revision=revision, down=self.last, upgrade=upgrade, downgrade=downgrade)
        (self.folder / "versions" / f"{revision}.py").write_text(content)
        self.last = revision
        return revision

    def config(self, *x: str) -> Config:
        """Return Alembic's configuration, with `-x` arguments."""
        config = Config(attributes=self.attributes, cmd_opts=Namespace(x=list(x)))
        config.set_main_option("script_location", str(self.folder))
        return config

    def upgrade(self, revision: str = "head") -> None:
        """Run `alembic upgrade`."""
        command.upgrade(self.config(), revision)

    def downgrade(self, revision: str, *x: str) -> None:
        """Run `alembic -x ... downgrade`."""
        command.downgrade(self.config(*x), revision)
