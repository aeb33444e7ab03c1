"""`alembic revision --autogenerate` and `alembic check` in the project of an application."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.util import CommandError
from sqlalchemy import (
    CheckConstraint,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.types import TypeDecorator

from sealchemy import (
    ColumnDefinitionError,
    EncryptedString,
    Key,
    KeyRing,
    RewriteError,
    Rollout,
    UnsupportedOperationError,
    attach_key_ring,
)
from sealchemy.alembic.autogenerate import GUESSED, LIVE, PLAINTEXT, WIDE
from sealchemy.alembic.rendering import MIXED
from sealchemy.scrub import scrub
from tests.support import constraint
from tests.support.alembic import PLUGINS, Application

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine
    from sqlalchemy.types import TypeEngine

RING = KeyRing(primary=Key.generate())
ROWS = [{"id": number, "access": f"token-{number}", "refresh": None} for number in range(1, 6)]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def engine(request: pytest.FixtureRequest, make_engine: Callable[..., Engine], tmp_path: Path) -> Engine:
    if request.param == "sqlite":
        return make_engine(f"sqlite:///{tmp_path / 'test.db'}", RING)
    return make_engine(request.getfixturevalue(f"{request.param}_url"), RING)


def models(
    access: TypeEngine[Any] | None, refresh: TypeEngine[Any] | None = None, schema: str | None = None
) -> MetaData:
    metadata = MetaData(schema=schema)
    columns: list[Column[Any]] = [Column("id", Integer, primary_key=True)]
    columns += [Column("access", access)] if access else []
    Table("grants", metadata, *columns, Column("refresh", refresh or Text()))
    return metadata


def encrypted(*, schema: str | None = None) -> MetaData:
    return models(EncryptedString("g.access"), EncryptedString("g.refresh"), schema)


def create(engine: Engine, metadata: MetaData, rows: list[dict[str, Any]]) -> None:
    metadata.create_all(engine)
    if rows:
        with engine.begin() as connection:
            connection.execute(insert(metadata.tables["grants"]), rows)


def body(revision: str, function: str) -> list[str]:
    """Return the lines of one function of a revision, without Alembic's comments."""
    found = re.search(rf"def {function}\(\) -> None:\n(.*?)(?=\n\ndef |\Z)", revision, re.DOTALL)
    assert found is not None
    lines = [line.strip() for line in found[1].splitlines()]
    return [line for line in lines if line and line != MIXED and not line.startswith(('"""', "# ###"))]


ENCRYPT = "op.encrypt_columns('grants', {'access': 'g.access', 'refresh': 'g.refresh'})"
REQUIRE = "op.require_encryption('grants', {'access': 'g.access', 'refresh': 'g.refresh'})"
ALLOW = "op.allow_plaintext('grants', {'access': 'g.access', 'refresh': 'g.refresh'})"
DECRYPT = "op.decrypt_columns('grants', {'access': 'g.access', 'refresh': 'g.refresh'})"


@pytest.mark.slow
@pytest.mark.parametrize("rows", [ROWS, []], ids=["rows", "empty"])
def test_newly_encrypted_column_is_migrated_and_can_be_downgraded(
    engine: Engine, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    create(engine, models(String(500)), rows)
    application = Application(tmp_path, engine, encrypted())
    assert not application.is_clean()
    narrow = {"sqlite": [], "postgresql": ["access"]}.get(engine.dialect.name, ["access", "refresh"])
    expected = [
        ([WIDE, f"op.widen_columns('grants', {narrow!r})"], f"# 'grants': {narrow!r} stay wide"),
        ([PLAINTEXT, ENCRYPT], DECRYPT),
        ([LIVE, REQUIRE], ALLOW),
    ]
    for upgrade, downgrade in expected if narrow else expected[1:]:
        revision = application.autogenerate()
        assert body(revision, "upgrade") == upgrade
        assert body(revision, "downgrade")[0].startswith(downgrade)
        assert set(re.findall(r"^(?:import|from) (\w+)", revision, re.MULTILINE)) <= {"alembic", "sqlalchemy", "typing"}
        with pytest.raises(CommandError, match="not up to date"):
            command.check(application.config())
        application.upgrade()
    assert application.is_clean()
    with engine.connect() as connection:
        stored = connection.scalars(text("SELECT access FROM grants")).all()
        read = connection.scalars(select(encrypted().tables["grants"].c.access)).all()
    assert all(value.startswith("sealchemy:v1:") for value in stored)
    assert sorted(read) == [row["access"] for row in rows]
    if rows:
        with pytest.raises(UnsupportedOperationError, match="allow-plaintext=yes"):
            application.downgrade("base")
        with pytest.raises(UnsupportedOperationError, match=r"stage is strict.*_ROLLOUT=migrate"):
            application.downgrade("base", "allow-plaintext=yes", rollout=Rollout.STRICT)
        application.upgrade()
    else:
        application.downgrade("base", rollout=Rollout.STRICT)
        application.upgrade()
    assert application.is_clean()
    application.downgrade("base", "allow-plaintext=yes")
    with engine.connect() as connection:
        assert sorted(connection.scalars(text("SELECT access FROM grants"))) == [row["access"] for row in rows]
    application.upgrade()
    assert application.is_clean()


def test_revision_does_not_need_the_models(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(String(500)), ROWS)
    application = Application(tmp_path, engine, encrypted())
    while "encrypt_columns" not in application.autogenerate():
        application.upgrade()
    application.attributes["metadata"] = None
    application.upgrade()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM grants WHERE access LIKE 'sealchemy:v1:%'")) == len(ROWS)


def test_new_table_requires_encryption(engine: Engine, tmp_path: Path) -> None:
    application = Application(tmp_path, engine, encrypted())
    revision = application.autogenerate()
    type_ = "mysql.MEDIUMTEXT()" if engine.dialect.name in {"mysql", "mariadb"} else "sa.Text()"
    assert f"sa.Column('access', {type_}, nullable=True)" in revision
    assert body(revision, "upgrade")[-2:] == [LIVE, REQUIRE]
    assert body(revision, "downgrade")[:1] == [ALLOW]
    assert "encrypt_columns" not in revision
    application.upgrade()
    assert application.is_clean()
    application.downgrade("base")
    assert not inspect(engine).has_table("grants")


def test_new_column_requires_encryption(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(None), [])
    application = Application(tmp_path, engine, models(EncryptedString("g.access")))
    revision = application.autogenerate()
    lines = [line for line in body(revision, "upgrade") if line != LIVE]
    assert [line[:22] for line in lines] == ["op.add_column('grants'", "op.require_encryption("]
    application.upgrade()
    assert application.is_clean()
    application.downgrade("base")
    assert "access" not in {item["name"] for item in inspect(engine).get_columns("grants")}


def test_column_that_is_no_longer_encrypted_is_decrypted(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(Text()), ROWS)
    application = Application(tmp_path, engine, models(EncryptedString("grants.access")))
    application.complete()
    application.attributes["metadata"] = models(Text())
    assert not application.is_clean()
    revision = application.autogenerate()
    columns = "('grants', {'access': 'grants.access'})"
    assert body(revision, "upgrade")[:3] == [GUESSED, f"op.decrypt_columns{columns}", f"op.allow_plaintext{columns}"]
    assert body(revision, "downgrade")[-2:] == [f"op.encrypt_columns{columns}", f"op.require_encryption{columns}"]
    with pytest.raises(UnsupportedOperationError, match="stage is strict"):
        command.upgrade(application.config("allow-plaintext=yes"), "head")
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    command.upgrade(application.config("allow-plaintext=yes"), "head")
    assert application.is_clean()
    with engine.connect() as connection:
        assert sorted(connection.scalars(text("SELECT access FROM grants"))) == [row["access"] for row in ROWS]


def test_wrongly_guessed_context_loses_no_data(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(Text()), ROWS)
    application = Application(tmp_path, engine, models(EncryptedString("another.context")))
    application.complete()
    application.attributes["metadata"] = models(Text())
    application.autogenerate()
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    with pytest.raises(RewriteError, match="5 values cannot be read"):
        command.upgrade(application.config("allow-plaintext=yes"), "head")
    with engine.connect() as connection:
        read = connection.scalars(
            select(Column("access", EncryptedString("another.context"))).select_from(text("grants"))
        )
        assert sorted(read) == [row["access"] for row in ROWS]
    assert constraint.is_required(engine, "grants", ["access"])


def test_dropping_a_column_removes_its_check_first(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(Text()), ROWS)
    application = Application(tmp_path, engine, models(EncryptedString("grants.access")))
    application.complete()
    application.attributes["metadata"] = models(None)
    revision = application.autogenerate()
    assert [line[:19] for line in body(revision, "upgrade")] == ["op.allow_plaintext(", "op.drop_column('gra"]
    application.upgrade()
    assert application.is_clean()


def test_excluded_columns_are_ignored(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(Text()), ROWS)

    def include(_object: object, name: str | None, kind: str, *_: object) -> bool:
        return not (kind == "column" and name == "refresh")

    application = Application(tmp_path, engine, encrypted(), include_object=include)
    assert all("refresh" not in revision for revision in application.complete())
    application.attributes["configure"]["include_object"] = lambda _object, name, *_: name != "access"
    assert all("access" not in revision for revision in application.complete())


def test_excluded_column_missing_from_the_models_is_ignored(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(Text()), ROWS)
    application = Application(tmp_path, engine, models(EncryptedString("grants.access")))
    application.complete()
    application.attributes["metadata"] = models(None)
    application.attributes["configure"]["include_name"] = lambda name, _kind, _parents: name != "access"
    assert application.is_clean()


def test_check_with_another_condition_does_not_count(engine: Engine, tmp_path: Path) -> None:
    metadata = models(Text())
    metadata.tables["grants"].append_constraint(CheckConstraint("access <> ''", "ck_grants_access_encrypted"))
    create(engine, metadata, ROWS)
    application = Application(tmp_path, engine, models(EncryptedString("g.access")))
    assert not application.is_clean()


def test_column_whose_python_key_differs_from_its_name_is_encrypted(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(Text()), ROWS)
    metadata = MetaData()
    columns = Column("id", Integer, primary_key=True), Column("access", EncryptedString("g.access"), key="other")
    Table("grants", metadata, *columns, Column("refresh", Text()))
    application = Application(tmp_path, engine, metadata)
    revisions = [body(script, "upgrade") for script in application.complete()]
    assert [PLAINTEXT, "op.encrypt_columns('grants', {'access': 'g.access'})"] in revisions


@pytest.mark.parametrize("plugins", [None, ["alembic.autogenerate.*"]])
def test_no_difference_is_reported_without_the_plugin(
    engine: Engine, tmp_path: Path, plugins: list[str] | None
) -> None:
    create(engine, models(Text()), ROWS)
    configure = {"compare_type": False, "autogenerate_plugins": plugins or ["alembic.autogenerate.*"]}
    application = Application(tmp_path, engine, encrypted(), **configure)
    if plugins is None:
        del application.attributes["configure"]["autogenerate_plugins"]
    assert application.is_clean()


def test_alembics_own_check_comparison_ignores_the_encryption_check(engine: Engine, tmp_path: Path) -> None:
    pytest.importorskip("alembic.ext.checkconstraint_byname", reason="Alembic before 1.19.2 has no such plugin")
    create(engine, models(Text()), ROWS)
    application = Application(tmp_path, engine, encrypted())
    application.complete()
    plugins = [*PLUGINS, "alembic.ext.checkconstraint_byname"]
    application.attributes["configure"]["autogenerate_plugins"] = plugins
    assert application.is_clean()
    application.attributes["metadata"] = models(Text())
    assert "drop_constraint" not in application.autogenerate()


def test_operations_are_rendered_outside_batch_blocks(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(Text()), ROWS)
    metadata = encrypted()
    metadata.tables["grants"].append_column(Column("note", Text()))
    application = Application(tmp_path, engine, metadata, render_as_batch=True)
    revision = application.autogenerate()
    operation = "widen_columns" if engine.dialect.name == "mysql" else "encrypt_columns"
    assert "\n    with op.batch_alter_table('grants'" in revision
    assert f"\n    op.{operation}(" in revision
    assert (revision.index("batch_alter_table") < revision.index(operation)) is (operation == "encrypt_columns")
    application.upgrade()
    application.complete()


def test_render_item_of_the_user_takes_precedence(engine: Engine, tmp_path: Path) -> None:
    def render(kind: str, item: object, _context: object) -> str | bool:
        return "sa.String(4000)" if kind == "type" and isinstance(item, EncryptedString) else False

    application = Application(tmp_path, engine, encrypted(), render_item=render)
    revision = application.autogenerate()
    assert "sa.Column('access', sa.String(4000)" in revision


def test_table_in_another_schema_is_encrypted(
    postgresql_url: str, make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        here = connection.scalar(text("SELECT current_schema()"))
        connection.execute(text(f"CREATE SCHEMA {here}_other"))
    create(engine, models(String(500), schema=f"{here}_other"), [])
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO {here}_other.grants VALUES (1, 'token-1', NULL)"))

    def only(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "schema" or name == f"{here}_other"

    metadata = encrypted(schema=f"{here}_other")
    application = Application(tmp_path, engine, metadata, include_schemas=True, include_name=only)
    assert all(f"schema='{here}_other')" in revision for revision in application.complete())
    with engine.begin() as connection:
        assert connection.scalar(text(f"SELECT access FROM {here}_other.grants")).startswith("sealchemy:v1:")
        connection.execute(text(f"DROP SCHEMA {here}_other CASCADE"))


@pytest.mark.filterwarnings(
    "ignore:Can.t validate argument:sqlalchemy.exc.SAWarning"
)  # SQLAlchemy warns when it reflects the CHECK
def test_unvalidated_check_does_not_count(
    postgresql_url: str, make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = make_engine(postgresql_url, RING)
    create(engine, models(Text()), ROWS)
    application = Application(tmp_path, engine, models(EncryptedString("g.access")))
    with engine.begin() as connection:
        check = "CHECK (access COLLATE \"C\" LIKE 'sealchemy:v1:____________:_%') NOT VALID"
        connection.execute(text(f"ALTER TABLE grants ADD CONSTRAINT ck_grants_access_encrypted {check}"))
    assert not application.is_clean()
    with engine.begin() as connection:
        connection.execute(text("UPDATE grants SET access = 'sealchemy:v1:0123456789ab:' || access"))
        connection.execute(text("ALTER TABLE grants VALIDATE CONSTRAINT ck_grants_access_encrypted"))
    assert application.is_clean()


def test_renamed_column_keeps_its_check(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(Text()), ROWS)
    application = Application(tmp_path, engine, models(EncryptedString("g.access")))
    application.complete()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE grants RENAME COLUMN access TO old"))
        connection.execute(text("ALTER TABLE grants ADD COLUMN access TEXT"))
    metadata = models(EncryptedString("g.access"))
    metadata.tables["grants"].append_column(Column("old", EncryptedString("g.old")))
    application.attributes["metadata"] = metadata
    assert not application.is_clean()
    with pytest.raises(ColumnDefinitionError, match="has a condition other than"):
        constraint.require_encryption(engine, "grants", {"access": "g.access"})


@pytest.mark.parametrize("other", ["text", "C", "like", "binary", "glob", "check", "ck_grants_access_encrypted"])
def test_column_named_like_a_word_of_the_condition_is_not_taken_for_encrypted(
    engine: Engine, tmp_path: Path, other: str
) -> None:
    def declare(second: TypeEngine[Any]) -> MetaData:
        columns = Column("access", EncryptedString("g.access")), Column(other, second)
        return Table("grants", MetaData(), Column("id", Integer, primary_key=True), *columns).metadata

    create(engine, declare(Text()), [])
    constraint.require_encryption(engine, "grants", {"access": "g.access"})
    application = Application(tmp_path, engine, declare(Text()))
    assert application.is_clean()
    application.attributes["metadata"] = declare(EncryptedString("g.other"))
    assert not application.is_clean()
    constraint.allow_plaintext(engine, "grants", {other: "g.other"})
    application.attributes["metadata"] = declare(Text())
    assert application.is_clean()


def test_refused_revision_can_be_run_again(
    postgresql_url: str, make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = make_engine(postgresql_url, RING)
    application = Application(tmp_path, engine, encrypted())
    application.autogenerate()
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    with pytest.raises(UnsupportedOperationError, match="its rollout stage is migrate"):
        application.upgrade()
    assert not inspect(engine).has_table("grants")
    attach_key_ring(engine, RING)
    application.upgrade()
    assert application.is_clean()


def test_unvalidated_check_on_a_plain_column_is_a_difference(
    postgresql_url: str, make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = make_engine(postgresql_url, RING)
    create(engine, models(Text()), [])
    with engine.begin() as connection:
        check = "CHECK (access COLLATE \"C\" LIKE 'sealchemy:v1:____________:_%') NOT VALID"
        connection.execute(text(f"ALTER TABLE grants ADD CONSTRAINT ck_grants_access_encrypted {check}"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy warns when it reflects the CHECK
        assert not Application(tmp_path, engine, models(Text())).is_clean()


def test_renamed_table_and_column_stay_encrypted(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(Text()), ROWS)
    application = Application(tmp_path, engine, models(EncryptedString("g.access")))
    application.complete()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE grants RENAME COLUMN access TO token"))
        connection.execute(text("ALTER TABLE grants RENAME TO renamed"))

    def renamed(type_: TypeEngine[Any]) -> MetaData:
        columns = Column("id", Integer, primary_key=True), Column("token", type_), Column("refresh", Text())
        return Table("renamed", MetaData(), *columns).metadata

    application.attributes["metadata"] = renamed(EncryptedString("g.access"))
    assert application.is_clean()
    application.attributes["metadata"] = renamed(Text())
    assert not application.is_clean()
    constraint.allow_plaintext(engine, "renamed", {"token": "g.access"})
    with engine.begin() as connection:
        connection.execute(text("UPDATE renamed SET token = 'plain' WHERE id = 1"))


def test_binary_column_is_refused(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(LargeBinary()), [])
    application = Application(tmp_path, engine, models(EncryptedString("g.access")))
    with pytest.raises(ColumnDefinitionError, match="column access holds bytes"):
        application.autogenerate()


def test_table_without_a_primary_key_is_refused_before_it_is_created(engine: Engine, tmp_path: Path) -> None:
    metadata = MetaData()
    Table("links", metadata, Column("token", EncryptedString("links.token")))
    with pytest.raises(ColumnDefinitionError, match="no primary key"):
        Application(tmp_path, engine, metadata).autogenerate()


def test_column_that_is_too_narrow_is_widened(engine: Engine, tmp_path: Path) -> None:
    create(engine, models(String(64)), [])
    constraint.require_encryption(engine, "grants", {"access": "g.access"})
    application = Application(tmp_path, engine, models(EncryptedString("g.access")))
    if engine.dialect.name == "sqlite":  # does not enforce a width
        assert application.is_clean()
    else:
        assert "alter_column" in application.autogenerate()
        application.upgrade()
        assert application.is_clean()


class Wrapped(TypeDecorator[str]):
    """A user-defined type that wraps `EncryptedString`."""

    impl = EncryptedString("g.access")
    cache_ok = True


class Derived(EncryptedString):
    """A user-defined subclass of `EncryptedString`."""

    cache_ok = True


@pytest.mark.parametrize("type_", [Wrapped(), Derived("g.access")], ids=["wrapped", "derived"])
def test_user_defined_encrypted_type_is_supported(engine: Engine, tmp_path: Path, type_: TypeEngine[Any]) -> None:
    create(engine, models(Text()), ROWS)
    application = Application(tmp_path, engine, models(type_))
    revisions = [body(script, "upgrade") for script in application.complete()]
    assert [PLAINTEXT, "op.encrypt_columns('grants', {'access': 'g.access'})"] in revisions
    with pytest.raises(UnsupportedOperationError, match=r"g\.access"), engine.begin() as connection:
        connection.execute(insert(models(type_).tables["grants"]).values(access=func.lower("ya29")))


@pytest.mark.parametrize("type_", [Wrapped(), Derived("g.access")], ids=["wrapped", "derived"])
def test_derived_type_works_in_a_new_table(engine: Engine, tmp_path: Path, type_: TypeEngine[Any]) -> None:
    application = Application(tmp_path, engine, models(type_))
    application.complete()


NAMES = [
    ("Grants", "accessToken"),
    ("my table", "my col"),
    ('ta"b', 'c"d'),
    ("per%cent", "c%s"),
    ("back\\slash", "c\\n"),
    ("new\nline", "c\nd"),
    ("t:x", "c:y"),
    (":bind", ":other"),
    ("quotes", "q'u\"ote"),  # Alembic cannot reflect a table with an apostrophe on PostgreSQL
    ("dollar", "a$b"),
    ("t" * 60, "c" * 60),
    ("tücher", "order"),
    ("x", "y, CONSTRAINT ck_x_access_encrypted CHECK ("),
]


@pytest.mark.slow
@pytest.mark.parametrize(("table", "column"), NAMES)
def test_any_table_and_column_name_works(
    database_url: str, make_engine: Callable[..., Engine], tmp_path: Path, table: str, column: str
) -> None:
    engine = make_engine(database_url, RING)

    def declare(type_: TypeEngine[Any]) -> Table:
        return Table(table, MetaData(), Column("id", Integer, primary_key=True), Column(column, type_))

    before, after = declare(String(300)), declare(EncryptedString("g.access"))
    before.create(engine)
    with engine.begin() as connection:
        connection.execute(insert(before), [{column: "token"}])
    application = Application(tmp_path, engine, after.metadata)
    application.complete()
    with engine.connect() as connection:
        assert connection.scalars(select(after.c[column])).all() == ["token"]
        assert connection.scalars(select(before.c[column])).one().startswith("sealchemy:v1:")
    application.attributes["metadata"] = before.metadata
    assert not application.is_clean()
    application.downgrade("base", "allow-plaintext=yes")
    with engine.connect() as connection:
        assert connection.scalars(select(before.c[column])).all() == ["token"]
    application.attributes["metadata"] = after.metadata
    application.upgrade()
    scrub(engine, table)


def test_guessed_context_is_valid(engine: Engine, tmp_path: Path) -> None:
    metadata = MetaData()
    Table("a b", metadata, Column("id", Integer, primary_key=True), Column("ü", EncryptedString("g.access")))
    application = Application(tmp_path, engine, metadata)
    application.complete()
    kept = MetaData()
    Table("a b", kept, Column("id", Integer, primary_key=True))
    application.attributes["metadata"] = kept
    application.complete()


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import alembic, sealchemy",
        "import sealchemy, alembic",
        "import sealchemy.operations",
        "import sealchemy.alembic.autogenerate",
        "import alembic.autogenerate, sealchemy.alembic.plugin",
        "from alembic import context, op; import sealchemy.types",
    ],
)
def test_plugin_is_registered_in_any_import_order(imports: str) -> None:
    code = f"{imports}\nfrom alembic.runtime.plugins import _all_plugins\nassert 'sealchemy' in _all_plugins"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


def test_alembic_is_not_imported_unless_used() -> None:
    code = (
        "import sys, sealchemy, sealchemy.rewrite, sealchemy._rewriting.constraint\nassert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)
