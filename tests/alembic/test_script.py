"""`alembic upgrade --sql`: the operations that are statements are written, the others refuse."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert, text
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.exc import DBAPIError

from sealchemy import Key, KeyRing, UnsupportedOperationError
from sealchemy._rewriting.constraint import existing_constraints
from tests.support.alembic import ENV, Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
TEXT = Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")
OFFLINE = """
from alembic import context
context.configure(
    url=context.config.attributes["url"], transaction_per_migration=True, dialect_opts={"paramstyle": "named"}
)
with context.begin_transaction():
    context.run_migrations()
"""


def script(project: Project, engine: Engine, direction: str, revision: str) -> list[str]:
    """Return the statements that a script for the database of this engine has, without those about the version."""
    out = io.StringIO()
    config = Config(attributes={"url": engine.url}, output_buffer=out)
    config.set_main_option("script_location", str(project.folder))
    (project.folder / "env.py").write_text(OFFLINE)
    getattr(command, direction)(config, revision, sql=True)
    (project.folder / "env.py").write_text(ENV)
    statements = [line.strip() for line in re.sub(r"^--.*$", "", out.getvalue(), flags=re.MULTILINE).split(";\n")]
    return [item for item in statements if item]


@pytest.mark.parametrize("column", ["token", "a Token", "per%cent", "co:lon", "back\\slash", "from"])
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_script_requires_and_allows(
    request: pytest.FixtureRequest, make_engine: Callable[..., Any], tmp_path: Path, kind: str, column: str
) -> None:
    engine = make_engine(request.getfixturevalue(f"{kind}_url"), RING)
    users = Table("users", MetaData(), Column("id", Integer, primary_key=True), Column(column, TEXT))
    users.create(engine)
    project = Project(tmp_path, engine)
    columns = {column: "users.token"}
    project.revision(f"op.require_encryption('users', {columns!r})", f"op.allow_plaintext('users', {[column]!r})")
    run(engine, script(project, engine, "upgrade", "head"))
    with engine.connect() as connection:
        (check,) = existing_constraints(connection, None, "users", [column])[column]
    assert check.is_validated
    assert check.is_strict
    with pytest.raises(DBAPIError, match="_encrypted"), engine.begin() as connection:
        connection.execute(insert(users), {column: "plain"})
    with pytest.raises(DBAPIError):  # an existing CHECK of the name is never dropped: it may be another one
        run(engine, [item for item in script(project, engine, "upgrade", "head") if "ADD CONSTRAINT" in item])
    run(engine, script(project, engine, "downgrade", "r0:base"))
    with engine.begin() as connection:
        connection.execute(insert(users), {column: "plain"})


def run(engine: Engine, statements: list[str]) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            if statement not in {"BEGIN", "COMMIT"}:
                connection.execute(text(statement.replace(":", "\\:")))


def test_a_validation_is_in_a_transaction_of_its_own(
    postgresql_url: str, make_engine: Callable[..., Any], tmp_path: Path
) -> None:
    engine = make_engine(postgresql_url, RING)
    project = Project(tmp_path, engine)
    project.revision("op.require_encryption('users', {'token': 'users.token'}, schema='other', bound=True)")
    statements = script(project, engine, "upgrade", "head")
    (at,) = [at for at, item in enumerate(statements) if "VALIDATE CONSTRAINT" in item]
    assert statements[at - 2 : at] == ["ALTER TABLE", "COMMIT"] or "COMMIT" in statements[at - 2 : at]
    assert 'ALTER TABLE "other"."users"' in statements[at]
    assert any(":row:" in item or "row:" in item for item in statements)


def test_sqlite_and_operations_on_rows_are_refused_by_name(tmp_path: Path, make_engine: Callable[..., Any]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING)
    project = Project(tmp_path, engine)
    for operation in ("require_encryption", "encrypt_columns", "widen_columns"):
        project.revision(f"op.{operation}('users', {{'token': 'users.token'}})")
        with pytest.raises(UnsupportedOperationError, match=f"{operation} .*--sql"):
            script(project, engine, "upgrade", f"{project.last}")
        next((project.folder / "versions").glob("*.py")).unlink()
        project.last = None
