"""The Alembic operations in the project of an application."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from sqlalchemy import String, create_engine, event, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import NullPool, StaticPool

from sealchemy import (
    Key,
    KeyRing,
    KeyRingNotAttachedError,
    PlaintextFoundError,
    RewriteError,
    Rollout,
    UnknownKeyError,
    UnsupportedOperationError,
    attach_key_ring,
)
from sealchemy._databases.access import database_of
from sealchemy._rewriting.constraint import constraint_name
from sealchemy._rewriting.pages import Pages
from sealchemy.alembic import operations
from sealchemy.rewrite import ENCRYPT as ENCRYPT_NOW
from sealchemy.rewrite import rewrite
from tests.support.alembic import Project
from tests.support.tables import COLUMNS, grants, raw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
ENCRYPT = f"op.encrypt_columns('grants', {COLUMNS!r})"
DECRYPT = f"op.decrypt_columns('grants', {COLUMNS!r})"
REQUIRE = f"op.require_encryption('grants', {COLUMNS!r})"
ALLOW = f"op.allow_plaintext('grants', {COLUMNS!r})"


@pytest.fixture
def engine(database_url: str, make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(database_url, RING)


@pytest.fixture
def project(tmp_path: Path, engine: Engine) -> Project:
    project = Project(tmp_path, engine)
    project.revision(ENCRYPT, DECRYPT)
    project.revision(REQUIRE, ALLOW)
    return project


def is_encrypted(engine: Engine) -> bool:
    values = [value for row in raw(engine).values() for value in row if value is not None]
    return bool(values) and all(value.startswith("sealchemy:v1:") for value in values)


def insert_plaintext(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO grants (id, access) VALUES (1000, 'plain')"))


def test_upgrade_downgrade_and_upgrade_again(engine: Engine, project: Project) -> None:
    before = grants(engine, 25)
    project.upgrade()
    assert is_encrypted(engine)
    with pytest.raises(IntegrityError):
        insert_plaintext(engine)
    project.upgrade()
    project.downgrade("base", "allow-plaintext=yes")
    assert raw(engine) == before
    insert_plaintext(engine)
    project.upgrade()
    assert is_encrypted(engine)


def test_downgrade_requires_allow_plaintext(engine: Engine, project: Project) -> None:
    grants(engine, 3)
    project.upgrade()
    for x in ((), ("allow-plaintext=no",), ("allow-plaintext",)):
        with pytest.raises(UnsupportedOperationError, match="-x allow-plaintext=yes"):
            project.downgrade("base", *x)
    assert is_encrypted(engine)


def test_token_that_only_looks_encrypted_is_reported(engine: Engine, project: Project) -> None:
    grants(engine, 3)
    with engine.begin() as connection:
        connection.execute(text("UPDATE grants SET access = 'sealchemy:mine' WHERE id = 2"))
    with pytest.raises(RewriteError, match=r"\(2,\) access"):
        project.upgrade()
    assert raw(engine)[2][0] == "sealchemy:mine"
    with pytest.raises(RewriteError, match=r"\(2,\) access"):
        project.upgrade()


def test_require_encryption_reports_the_number_of_plaintext_values(tmp_path: Path, engine: Engine) -> None:
    grants(engine, 7)
    project = Project(tmp_path, engine)
    project.revision(REQUIRE)
    with pytest.raises(RewriteError, match=r"grants\.access: 7 values"):
        project.upgrade()
    insert_plaintext(engine)


@pytest.mark.parametrize(
    ("operation", "rollout", "message"),
    [
        (ENCRYPT, Rollout.PREPARE, "stage is prepare"),
        (REQUIRE, Rollout.PREPARE, "stage is prepare"),
        (REQUIRE, Rollout.MIGRATE, "stage is migrate"),
        ("op.require_encryption('grants', ['access'])", {"grants.access": Rollout.MIGRATE}, "stage is migrate"),
    ],
)
def test_wrong_stage_is_refused(tmp_path: Path, engine: Engine, operation: str, rollout: Any, message: str) -> None:
    before = grants(engine, 3, type_=String(40))
    attach_key_ring(engine, RING, rollout=rollout)
    columns = repr(inspect(engine).get_columns("grants"))
    project = Project(tmp_path, engine)
    project.revision(operation)
    with pytest.raises(UnsupportedOperationError, match=message):
        project.upgrade()
    assert raw(engine) == before
    assert repr(inspect(engine).get_columns("grants")) == columns


def test_encrypting_in_stage_migrate_works(engine: Engine, project: Project) -> None:
    grants(engine, 3)
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    project.upgrade("r0")
    assert is_encrypted(engine)


def test_nothing_changes_without_a_ring(tmp_path: Path, database_url: str) -> None:
    engine = create_engine(database_url)
    before = grants(engine, 3)
    project = Project(tmp_path, engine)
    project.revision(ENCRYPT)
    with pytest.raises(KeyRingNotAttachedError, match="attach_key_ring"):
        project.upgrade()
    assert raw(engine) == before
    engine.dispose()


def test_changes_of_an_earlier_revision_in_the_same_run_are_seen(tmp_path: Path, engine: Engine) -> None:
    project = Project(tmp_path, engine)
    create = (
        "op.create_table('grants', sa.Column('id', sa.Integer, primary_key=True),"
        " sa.Column('access', sa.Text), sa.Column('refresh', sa.Text))"
    )
    project.revision(f"{create}; op.execute(\"INSERT INTO grants VALUES (1, 'a', NULL)\")")
    project.revision(ENCRYPT)
    project.revision(REQUIRE)
    project.upgrade()
    assert is_encrypted(engine)


@pytest.mark.parametrize("pool", [None, NullPool, StaticPool])
def test_operations_work_with_in_memory_sqlite_and_other_pools(
    tmp_path: Path, make_engine: Callable[..., Engine], pool: Any
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}" if pool is NullPool else "sqlite://"
    engine = make_engine(url, RING, poolclass=pool)
    before = grants(engine, 25)
    project = Project(tmp_path, engine)
    project.revision(ENCRYPT, DECRYPT)
    project.revision(REQUIRE, ALLOW)
    project.upgrade()
    assert is_encrypted(engine)
    with pytest.raises(IntegrityError):
        insert_plaintext(engine)
    project.downgrade("base", "allow-plaintext=yes")
    assert raw(engine) == before


def test_connection_in_a_transaction_is_refused_with_the_reason(engine: Engine, project: Project) -> None:
    before = grants(engine, 3)
    project.attributes["begin"] = True
    with pytest.raises(UnsupportedOperationError, match=r"already in one.*own_transaction=False"):
        project.upgrade()
    assert raw(engine) == before


def test_own_transaction_false_works_in_the_callers_transaction(engine: Engine) -> None:
    before = grants(engine, 25)
    with engine.connect() as connection:
        op: Any = Operations(MigrationContext.configure(connection))
        op.encrypt_columns("grants", COLUMNS, own_transaction=False)
        op.require_encryption("grants", COLUMNS, own_transaction=False)
        with pytest.raises(IntegrityError), connection.begin_nested():
            connection.execute(text("INSERT INTO grants (id, access) VALUES (1000, 'plain')"))
        op.allow_plaintext("grants", COLUMNS, own_transaction=False)
        connection.rollback()
    assert raw(engine) == before
    insert_plaintext(engine)


@pytest.mark.parametrize("how", ["search_path", "schema_translate_map"])
def test_table_is_looked_up_on_the_migration_connection(
    postgresql_url: str, tmp_path: Path, make_engine: Callable[..., Engine], how: str
) -> None:
    engine = make_engine(postgresql_url, RING)
    tenant = f"tenant_{tmp_path.name[-8:]}".lower()
    grants(engine, 3)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {tenant}"))
        connection.execute(text(f"CREATE TABLE {tenant}.grants (LIKE grants INCLUDING ALL)"))
        connection.execute(text(f"INSERT INTO {tenant}.grants SELECT * FROM grants"))
    before = raw(engine)
    with engine.connect() as connection:
        if how == "search_path":
            connection.execute(text(f"SET search_path TO {tenant}"))
            connection.commit()
        else:
            connection.execution_options(schema_translate_map={None: tenant})
        context = MigrationContext.configure(connection)
        op: Any = Operations(context)
        with context.begin_transaction():
            op.encrypt_columns("grants", COLUMNS)
            op.require_encryption("grants", COLUMNS)
    assert raw(engine) == before
    with engine.begin() as connection:
        stored = connection.execute(text(f"SELECT access FROM {tenant}.grants")).scalars().all()
        assert all(value.startswith("sealchemy:v1:") for value in stored)
        assert not inspect(engine).get_check_constraints("grants")
        assert len(inspect(engine).get_check_constraints("grants", schema=tenant)) == 2
        connection.execute(text(f"DROP SCHEMA {tenant} CASCADE"))


def test_varchar_is_widened(postgresql_url: str, tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    before = grants(engine, 5, type_=String(40))
    project = Project(tmp_path, engine)
    project.revision(ENCRYPT)
    project.upgrade()
    assert {str(column["type"]) for column in inspect(engine).get_columns("grants") if column["name"] in COLUMNS} == {
        "TEXT"
    }
    assert {key: RING.decrypt(row[0], "grants.access") for key, row in raw(engine).items()} == {
        key: row[0] for key, row in before.items()
    }


def test_existing_unvalidated_check_is_only_validated(
    postgresql_url: str, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING)
    grants(engine, 3)
    project = Project(tmp_path, engine)
    project.revision(ENCRYPT)
    project.revision(REQUIRE)
    project.upgrade("r0")
    name, today = constraint_name("grants", "access"), database_of(engine.dialect).encryption_checks[0]
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE grants ADD CONSTRAINT {name} CHECK ({today.on('access')}) NOT VALID")
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    project.upgrade()
    assert not [item for item in statements if "ADD CONSTRAINT" in item and name in item]
    assert [item for item in statements if "VALIDATE CONSTRAINT" in item and name in item]
    with engine.connect() as connection:
        assert connection.scalar(
            text("SELECT bool_and(convalidated) FROM pg_constraint WHERE conrelid = 'grants'::regclass")
        )


def test_plaintext_written_while_the_check_is_added_is_reported(
    postgresql_url: str, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING)
    grants(engine, 3)
    project = Project(tmp_path, engine)
    project.revision(ENCRYPT)
    project.revision(REQUIRE)
    project.upgrade("r0")
    other = create_engine(postgresql_url)

    def old_process(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "ADD CONSTRAINT" in statement and "access" in statement and "DROP" not in statement:  # the first time
            with other.begin() as connection:
                connection.execute(text("UPDATE grants SET access = 'plain' WHERE id = 2"))

    event.listen(engine, "before_cursor_execute", old_process)
    with pytest.raises(RewriteError, match="plaintext was written while"):
        project.upgrade()
    assert not inspect(engine).get_check_constraints("grants")
    with engine.begin() as connection:
        connection.execute(text("UPDATE grants SET note = 'still possible' WHERE id = 2"))
    other.dispose()


def test_sqlite_check_changes_nothing_else(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    schema = """
        CREATE TABLE /* ( */ grants -- (
        ( -- a comment with ) and ' in it
            id INTEGER PRIMARY KEY,
            access TEXT COLLATE NOCASE DEFAULT ', CONSTRAINT ck_grants_access_encrypted CHECK (',
            "refresh" TEXT /* ( */,
            [odd ) name] INTEGER CHECK ("odd ) name" > 0), -- last (
            UNIQUE (id, [odd ) name])
        ) STRICT;
        CREATE TABLE child (id INTEGER PRIMARY KEY, grant_id INTEGER REFERENCES grants ON DELETE CASCADE);
        CREATE INDEX by_size ON grants (abs("odd ) name")) WHERE refresh IS NOT NULL;
        CREATE TRIGGER noted AFTER INSERT ON grants BEGIN INSERT INTO child VALUES (NEW.id, NEW.id); END;
        CREATE VIEW seen AS SELECT id FROM grants;
        INSERT INTO grants (id, access, refresh, [odd ) name]) VALUES (1, 'a', 'b', 5), (2, 'c', NULL, 6);
    """
    with engine.begin() as connection:
        for statement in schema.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(f"{statement};".replace("END;", "END"))

    def everything() -> list[Any]:
        with engine.connect() as connection:
            rows = connection.execute(
                text("SELECT name, sql FROM sqlite_master WHERE tbl_name <> 'alembic_version' ORDER BY name")
            ).all()
            children = connection.execute(text("SELECT * FROM child")).all()
            return [*rows, *children, *connection.execute(text("PRAGMA table_xinfo(grants)")).all()]

    before = everything()
    project = Project(tmp_path, engine)
    project.revision(ENCRYPT, DECRYPT)
    project.revision(REQUIRE, ALLOW)
    project.upgrade()
    changed = [row for row in everything() if row not in before]
    assert [row[0] for row in changed] == ["grants"]
    names = {item["name"] for item in inspect(engine).get_check_constraints("grants")}
    assert {constraint_name("grants", "access"), constraint_name("grants", "refresh")} <= names
    for values in ("(9, 'plain', NULL, 1)", "(9, NULL, 'plain', 1)", "(9, NULL, NULL, 0)"):
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.exec_driver_sql(f"INSERT INTO grants VALUES {values}")
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO grants VALUES (10, NULL, NULL, 1)")
        assert connection.exec_driver_sql("SELECT count(*) FROM child").scalar() == 3
        connection.exec_driver_sql("DELETE FROM grants WHERE id = 10")
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    project.downgrade("base", "allow-plaintext=yes")
    assert everything() == before
    insert_plaintext(engine)


def test_sqlite_check_is_rolled_back_if_a_row_violates_it(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    from sealchemy import ColumnDefinitionError
    from sealchemy._databases import sqlite_schema

    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING)
    grants(engine, 3)
    with pytest.raises(ColumnDefinitionError, match="nothing was changed"), engine.begin() as connection:
        sqlite_schema.add_check(connection, None, "grants", "ck_x", "access GLOB 'x*'")
    assert not inspect(engine).get_check_constraints("grants")
    insert_plaintext(engine)


def test_long_constraint_names_fit_and_stay_unique() -> None:
    name = constraint_name("a" * 60, "b" * 60)
    assert len(name) <= 63
    assert name != constraint_name("a" * 60, "c" * 60)


@pytest.mark.parametrize(
    ("operation", "reverse"),
    [
        (operations.EncryptColumnsOp("t", COLUMNS), operations.DecryptColumnsOp),
        (operations.DecryptColumnsOp("t", COLUMNS, schema="s"), operations.EncryptColumnsOp),
        (operations.RequireEncryptionOp("t", COLUMNS), operations.AllowPlaintextOp),
        (operations.AllowPlaintextOp("t", ["access"]), operations.RequireEncryptionOp),
    ],
)
def test_every_operation_has_a_reverse_and_renders(operation: Any, reverse: type) -> None:
    assert isinstance(operation.reverse(), reverse)
    assert (operation.reverse().columns, operation.reverse().schema) == (operation.columns, operation.schema)
    code = render_python_code(ops.UpgradeOps([operation]))
    assert f"op.{operation.name}('t', {operation.columns!r}" in code
    assert ("schema='s'" in code) is (operation.schema == "s")


@pytest.mark.parametrize(
    "program",
    [
        "import alembic; alembic.op.encrypt_columns",
        "import sealchemy.operations; import alembic; alembic.op.encrypt_columns",
        "import sealchemy.alembic.plugin; import alembic; alembic.op.encrypt_columns",
        "import sealchemy; import sys; assert 'alembic' not in sys.modules and 'rich' not in sys.modules",
        "import alembic.autogenerate; import sealchemy.operations",
    ],
)
def test_imports_work_in_any_order(program: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@pytest.mark.parametrize("columns", [["a token"], {"a token": "any context, even this"}])
def test_allow_plaintext_needs_no_context(tmp_path: Path, engine: Engine, columns: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text('CREATE TABLE "my table" (id INTEGER PRIMARY KEY, "a token" TEXT)'))
    project = Project(tmp_path, engine)
    project.revision("op.require_encryption('my table', {'a token': 'my.token'})")
    project.revision(f"op.allow_plaintext('my table', {columns!r})")
    project.upgrade("r0")
    plaintext = text("INSERT INTO \"my table\" VALUES (1, 'plain')")
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(plaintext)
    project.upgrade()
    with engine.begin() as connection:
        connection.execute(plaintext)


def test_keys_that_are_not_the_applications_are_refused(engine: Engine, project: Project) -> None:
    grants(engine, 5)
    stranger = KeyRing(primary=Key.generate())
    with engine.begin() as connection:
        value = stranger.encrypt("x", "grants.access")
        connection.execute(text("UPDATE grants SET access = :value WHERE id = 3"), {"value": value})
    before = raw(engine)
    with pytest.raises(UnknownKeyError, match=stranger.primary.id) as caught:
        project.upgrade("r0")
    assert caught.value.key_id == stranger.primary.id
    assert raw(engine) == before


def test_planted_plaintext_is_not_encrypted_where_encryption_is_required(
    postgresql_url: str, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING)
    grants(engine, 3)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"ALTER TABLE grants ADD CONSTRAINT {constraint_name('grants', 'access')}"
            " CHECK (access COLLATE \"C\" LIKE 'sealchemy:v1:____________:_%%') NOT VALID"
        )
    before = raw(engine)
    project = Project(tmp_path, engine)
    project.revision(ENCRYPT)
    with pytest.raises(PlaintextFoundError, match="3 values are plaintext, although the column requires encryption"):
        project.upgrade()
    assert raw(engine) == before
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    project.upgrade()
    assert is_encrypted(engine)


def test_upgrade_to_head_goes_on_after_it_was_killed_anywhere(engine: Engine, tmp_path: Path) -> None:
    before = grants(engine, 5)
    whole = Project(tmp_path, engine)
    whole.revision("op.widen_columns('grants', ['access', 'refresh'])")
    whole.revision(ENCRYPT, DECRYPT)
    whole.revision(REQUIRE, ALLOW)
    whole.revision(ENCRYPT)  # as a revision that was stamped by nobody would run it again
    whole.upgrade("r2")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'r0'"))
    whole.upgrade()
    assert is_encrypted(engine)
    assert {key: RING.decrypt(row[0], "grants.access") for key, row in raw(engine).items()} == {
        key: row[0] for key, row in before.items()
    }


def test_options_are_passed_on(engine: Engine, tmp_path: Path) -> None:
    grants(engine, 5)
    project = Project(tmp_path, engine)
    limits = "lock_timeout=1, ddl_patience=2"
    project.revision(ENCRYPT.replace(")", f", {limits}, batch_size=2, pause=0.01)"), "pass")
    project.revision(REQUIRE.replace(")", f", {limits})"))
    commits: list[Any] = []
    event.listen(engine, "commit", commits.append)
    project.upgrade("r0")
    assert len(commits) > 4
    project.upgrade()
    project.revision(ENCRYPT.replace(")", ", batch_size=0)"))
    with pytest.raises(UnsupportedOperationError, match="batch_size must be"):
        project.upgrade()


@pytest.mark.parametrize("at", [1, 2], ids=["before the run", "during the run"])
def test_rows_inserted_into_an_empty_table_meanwhile_are_not_decrypted(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    grants(engine, 0)
    project = Project(tmp_path, engine)
    project.revision(ENCRYPT, DECRYPT)
    project.upgrade()
    is_empty, asked = Pages.is_empty, 0
    stored = RING.encrypt("late", "grants.access")

    def insert_after(pages: Pages) -> bool:
        nonlocal asked
        asked += 1
        found = is_empty(pages)
        if asked == at:
            # In the transaction of the migration the first time, and after the last check the second time.
            statement = text("INSERT INTO grants (id, access) VALUES (1, :stored)")
            pages._access.connection.execute(statement, {"stored": stored})
            if pages._access.owns_connection:
                pages._access.connection.commit()
        return found

    monkeypatch.setattr(Pages, "is_empty", insert_after)
    if at == 1:
        with pytest.raises(UnsupportedOperationError, match="allow-plaintext=yes"):
            project.downgrade("base")
    else:
        project.downgrade("base")
    assert asked == 2
    assert raw(engine) == {1: (stored, None)}


def test_legacy_reader_of_decrypt_columns_is_refused(engine: Engine, tmp_path: Path) -> None:
    grants(engine, 1)
    project = Project(tmp_path, engine)
    project.revision(ENCRYPT, DECRYPT.replace(")", ", legacy_reader=str)"))
    project.upgrade()
    with pytest.raises(UnsupportedOperationError, match="a legacy reader is for ENCRYPT"):
        project.downgrade("base", "allow-plaintext=yes")


def test_a_finished_table_costs_authentication_and_the_log_says_so(
    engine: Engine, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    grants(engine, 20)
    rewrite(ENCRYPT_NOW, engine, "grants", COLUMNS)
    with engine.begin() as connection:
        connection.execute(text("UPDATE grants SET access = refresh WHERE id = 7"))
    caplog.set_level("INFO", "sealchemy")
    with pytest.raises(RewriteError, match="1 value"):
        project.upgrade()
    with engine.begin() as connection:
        connection.execute(text("UPDATE grants SET access = NULL WHERE id = 7"))
    project.upgrade()
    assert "0 rows; nothing was left to do, so every value was only read and authenticated" in caplog.text
