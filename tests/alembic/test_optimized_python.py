"""Refusals do not depend on `assert` statements, which `python -O` removes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.alembic import ROOT

SCRIPT = """
import sys
from pathlib import Path
from sqlalchemy import create_engine, text
from sealchemy import Key, KeyRing, UnsupportedOperationError, attach_key_ring
from tests.support.alembic import Project

folder = Path(sys.argv[1])
engine = attach_key_ring(create_engine(f"sqlite:///{folder / 'x.db'}"), KeyRing(primary=Key.generate()))
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE grants (id INTEGER PRIMARY KEY, access TEXT)"))
    connection.execute(text("INSERT INTO grants (access) VALUES ('plain')"))
project = Project(folder, engine, begin=True)
project.revision("op.encrypt_columns('grants', {'access': 'grants.access'})")
try:
    project.upgrade()
except UnsupportedOperationError as error:
    print(error)
with engine.connect() as connection:
    print(connection.scalar(text("SELECT access FROM grants")))
"""


def test_a_connection_in_a_foreign_transaction_is_refused_under_python_o(tmp_path: Path) -> None:
    command = [sys.executable, "-O", "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    refusal, stored = done.stdout.splitlines()
    assert "env.py handed Alembic a connection that is already in one" in refusal
    assert stored == "plain"
