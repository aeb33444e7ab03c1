"""Rewriting values that are bound to their row: both forms, the way there and back, and writers of each stage."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import CHAR, BigInteger, Column, Integer, MetaData, String, Table, Uuid, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sealchemy import (
    ColumnDefinitionError,
    DecryptionError,
    EncryptedBytes,
    EncryptedJSON,
    EncryptedString,
    Key,
    KeyRing,
    PlaintextFoundError,
    RewriteError,
    Rollout,
    UnsupportedOperationError,
    UnsupportedVersionError,
    attach_key_ring,
)
from sealchemy._databases.access import open_table
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting import constraint
from sealchemy.plan import plan, steps
from sealchemy.rewrite import BIND, DECRYPT, ENCRYPT, REKEY, UNBIND, VERIFY, Options, rewrite
from sealchemy.status import check_encryption, column_status, declared_status
from tests.support import alembic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

OLD, NEW = Key.generate(), Key.generate()
PARTS = ("user_id", "provider", "device")
CONTEXTS = {"token": "accounts.token", "data": "accounts.data", "profile": "accounts.profile"}
KINDS = {"data": "bytes", "profile": "json"}
TEXT = String(64).with_variant(String(64, collation="utf8mb4_bin"), "mysql", "mariadb")
ROWS = 30


def tables(*, bound: bool, metadata: MetaData) -> Table:
    bind_to: dict[str, Any] = {"bind_to": PARTS} if bound else {}
    return Table(
        "accounts",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("user_id", Integer, nullable=False),
        Column("provider", TEXT, nullable=False),
        Column("device", Uuid, nullable=False),
        Column("token", EncryptedString("accounts.token", **bind_to)),
        Column("data", EncryptedBytes("accounts.data", **bind_to)),
        Column("profile", EncryptedJSON("accounts.profile", **bind_to)),
    )


BOUND, UNBOUND = MetaData(), MetaData()
bound, unbound = tables(bound=True, metadata=BOUND), tables(bound=False, metadata=UNBOUND)
rows = [
    {
        "id": number,
        "user_id": number % 5 - 2,
        "provider": f"über-{number}",
        "device": uuid.UUID(int=number * 2**100 + 0xABC),
        "token": None if number == 7 else f"SENTINEL-{number}\nx",
        "data": bytes([number]),
        "profile": {"n": number, "t": "SENTINEL"},
    }
    for number in range(1, ROWS + 1)
]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, make_engine: Callable[..., Engine]) -> Engine:
    is_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'test.db'}" if is_file else request.getfixturevalue(f"{request.param}_url")
    engine = make_engine(url, KeyRing(primary=OLD))
    UNBOUND.create_all(engine)
    return engine


def fill(engine: Engine, table: Table, stage: Rollout, *some: dict[str, Any]) -> None:
    attach_key_ring(engine, KeyRing(primary=OLD), rollout=stage)
    with engine.begin() as connection:
        connection.execute(insert(table), list(some) or rows)


def read(engine: Engine, table: Table, stage: Rollout, *ring: Key) -> list[dict[str, Any]]:
    keys = ring or (OLD,)
    attach_key_ring(engine, KeyRing(primary=keys[0], previous=keys[1:]), rollout=stage)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]


def stage(engine: Engine, stage: Rollout) -> None:
    attach_key_ring(engine, KeyRing(primary=OLD), rollout=stage)


def change(engine: Engine, conversion: Any, **options: Any) -> Any:
    return rewrite(conversion, engine, "accounts", CONTEXTS, kinds=KINDS, bind_to=PARTS, **options)


def forms(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT token, data, profile FROM accounts")).all()
    values = [str(value) for row in found for value in row if value is not None]
    return {
        "plain" if not value.startswith("sealchemy:") else "bound" if value.split(":")[3] == "row" else "unbound"
        for value in values
    }


def test_from_plaintext_to_bound_and_back(engine: Engine) -> None:
    fill(engine, bound, Rollout.PREPARE)
    assert forms(engine) == {"plain"}
    assert read(engine, bound, Rollout.PREPARE) == rows
    stage(engine, Rollout.MIGRATE)
    assert change(engine, ENCRYPT).rewritten == ROWS
    assert forms(engine) == {"bound"}
    assert read(engine, bound, Rollout.PREPARE) == rows
    assert read(engine, bound, Rollout.STRICT) == rows
    assert change(engine, VERIFY).failed == 0
    attach_key_ring(engine, KeyRing(primary=NEW, previous=[OLD]))
    assert change(engine, REKEY).rewritten == ROWS
    assert forms(engine) == {"bound"}
    assert read(engine, bound, Rollout.STRICT, NEW) == rows
    attach_key_ring(engine, KeyRing(primary=NEW), rollout=Rollout.MIGRATE)
    assert change(engine, DECRYPT).rewritten == ROWS
    assert forms(engine) == {"plain"}
    assert read(engine, bound, Rollout.PREPARE, NEW) == rows


def test_from_unbound_to_bound_and_back(engine: Engine) -> None:
    fill(engine, unbound, Rollout.STRICT)
    with pytest.raises(DecryptionError, match="not bound"):
        read(engine, bound, Rollout.STRICT)
    for both in (Rollout.BIND_PREPARE, Rollout.BIND_MIGRATE, Rollout.MIGRATE, Rollout.PREPARE):
        assert read(engine, bound, both) == rows
    stage(engine, Rollout.BIND_MIGRATE)
    assert change(engine, BIND, options=Options(dry_run=True)).pending == ROWS
    assert change(engine, BIND, options=Options(max_rows=10)).rewritten == 10
    assert forms(engine) == {"bound", "unbound"}
    assert change(engine, VERIFY).failed == 0
    stage(engine, Rollout.STRICT)
    with pytest.raises(RewriteError, match="not bound"):
        change(engine, VERIFY)
    attach_key_ring(engine, KeyRing(primary=NEW, previous=[OLD]), rollout=Rollout.BIND_MIGRATE)
    assert change(engine, REKEY).rewritten == ROWS
    assert forms(engine) == {"bound", "unbound"}, "a rekey leaves each value in its form"
    assert change(engine, BIND).rewritten == ROWS - 10
    assert change(engine, BIND).rewritten == 0
    assert forms(engine) == {"bound"}
    assert read(engine, bound, Rollout.STRICT, NEW) == rows
    with pytest.raises(UnsupportedVersionError, match="bind_to"):
        read(engine, unbound, Rollout.STRICT, NEW)
    attach_key_ring(engine, KeyRing(primary=NEW), rollout=Rollout.BIND_MIGRATE)
    with pytest.raises(UnsupportedOperationError, match="bind_prepare"):
        change(engine, UNBIND)
    attach_key_ring(engine, KeyRing(primary=NEW), rollout=Rollout.BIND_PREPARE)
    assert change(engine, UNBIND).rewritten == ROWS
    assert forms(engine) == {"unbound"}
    assert read(engine, unbound, Rollout.STRICT, NEW) == rows


@pytest.mark.slow
def test_a_value_of_another_row_is_reported_and_left(engine: Engine) -> None:
    fill(engine, bound, Rollout.STRICT)
    with engine.begin() as connection:
        stolen = connection.scalar(text("SELECT token FROM accounts WHERE id = 1"))
        connection.execute(text("UPDATE accounts SET token = :v WHERE id = 2"), {"v": stolen})
    for conversion, at in ((VERIFY, Rollout.STRICT), (REKEY, Rollout.STRICT), (DECRYPT, Rollout.MIGRATE)):
        attach_key_ring(engine, KeyRing(primary=NEW, previous=[OLD]), rollout=at)
        with pytest.raises(RewriteError, match="1 values") as caught:
            change(engine, conversion)
        assert [(item.key, item.column) for item in caught.value.report.failures] == [((2,), "token")]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT token FROM accounts WHERE id = 2")) == stolen


def test_plaintext_is_not_bound(engine: Engine) -> None:
    fill(engine, bound, Rollout.PREPARE)
    stage(engine, Rollout.BIND_MIGRATE)
    with pytest.raises(RewriteError, match="plaintext"):
        change(engine, BIND)
    assert forms(engine) == {"plain"}


def test_status_check_and_plan(engine: Engine) -> None:
    fill(engine, unbound, Rollout.STRICT)
    stage(engine, Rollout.BIND_PREPARE)
    found = declared_status(engine, BOUND)
    assert [(item.column, item.bound, item.unbound) for item in found] == [
        ("token", 0, ROWS - 1),
        ("data", 0, ROWS),
        ("profile", 0, ROWS),
    ]
    check_encryption(engine, BOUND)
    stage(engine, Rollout.STRICT)
    with pytest.raises(DecryptionError, match="bind_migrate"):
        check_encryption(engine, BOUND)
    (table,) = plan(engine, BOUND)
    assert {item.state for item in table.columns} == {"not bound"}
    left = list(steps([table], command_options="--models m:Base", prefix="P"))
    assert "deploy everywhere with P_ROLLOUT=bind_prepare" in left
    assert any(step.startswith("sealchemy bind --models m:Base") for step in left)
    stage(engine, Rollout.BIND_MIGRATE)
    change(engine, BIND)
    stage(engine, Rollout.STRICT)
    check_encryption(engine, BOUND)
    assert [item.bound for item in declared_status(engine, BOUND)] == [ROWS - 1, ROWS, ROWS]
    (table,) = plan(engine, BOUND)
    assert not table.obstacles()
    left = list(steps([table], command_options="--models m:Base", prefix="P"))
    assert any("bound=True" in step for step in left)
    with pytest.raises(UnsupportedVersionError, match="bind_to"):
        check_encryption(engine, UNBOUND)
    names = {key: CONTEXTS[key] for key in CONTEXTS}
    assert [item.bound for item in column_status(engine, "accounts", names)] == [ROWS - 1, ROWS, ROWS]


def test_other_columns_in_bind_to_are_found(engine: Engine) -> None:
    fill(engine, bound, Rollout.STRICT)
    other = MetaData()
    Table(
        "accounts",
        other,
        Column("id", Integer, primary_key=True),
        Column("user_id", Integer, nullable=False),
        Column("provider", TEXT, nullable=False),
        Column("token", EncryptedString("accounts.token", bind_to=("provider", "user_id"))),
    )
    with pytest.raises(DecryptionError):
        check_encryption(engine, other)
    (table,) = plan(engine, other)
    assert [item.label for item in table.findings if item.code == "binding"] == ["binding:token"]
    assert "does not authenticate in its row" in str(table.findings)


def test_a_part_that_takes_different_texts_for_equal_is_found(engine: Engine) -> None:
    collation = {"sqlite": "NOCASE", "mysql": "utf8mb4_general_ci"}.get(engine.dialect.name)
    if engine.dialect.name == "postgresql":
        collation = "blind"
        with engine.begin() as connection:
            connection.execute(
                text("CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
            )
    metadata = MetaData()
    plain = Table(
        "loose",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("provider", String(64, collation=collation), nullable=False),
        Column("token", EncryptedString("loose.token").load_dialect_impl(engine.dialect)),
    )
    plain.create(engine)
    Table(
        "loose",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("provider", String(64), nullable=False),
        Column("token", EncryptedString("loose.token", bind_to=["provider"])),
    )
    with engine.begin() as connection:
        connection.execute(insert(plain).values(id=1, provider="g", token="SENTINEL"))
    stage(engine, Rollout.MIGRATE)
    with pytest.raises(UnsupportedOperationError, match="collation:provider"):
        for problem in plan(engine, metadata)[0].obstacles():
            raise UnsupportedOperationError(str(problem))
    with pytest.raises(UnsupportedOperationError, match="collation:provider"):
        check_encryption(engine, metadata)
    project_columns = {"token": "loose.token"}
    with pytest.raises(UnsupportedOperationError, match="collation:provider"):
        run_operation(engine, "encrypt_columns", "loose", project_columns, bind_to=["provider"])


def run_operation(engine: Engine, name: str, *arguments: Any, **options: Any) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context) as operations:
            getattr(operations, name)(*arguments, own_transaction=False, **options)
        connection.commit()


@pytest.mark.slow
def test_operations_and_the_check(engine: Engine, tmp_path: Path) -> None:
    fill(engine, unbound, Rollout.STRICT)
    project = alembic.Project(tmp_path, engine)
    options = f"kinds={KINDS!r}, bind_to={PARTS!r}"
    project.revision(f"op.require_encryption('accounts', {CONTEXTS!r})")
    project.revision(
        f"op.bind_columns('accounts', {CONTEXTS!r}, {options})",
        f"op.unbind_columns('accounts', {CONTEXTS!r}, {options})",
    )
    project.revision(f"op.require_encryption('accounts', {CONTEXTS!r}, bound=True)")
    project.upgrade("r0")
    stage(engine, Rollout.PREPARE)
    with pytest.raises(UnsupportedOperationError, match="prepare"):
        project.upgrade("r1")
    stage(engine, Rollout.STRICT)
    project.upgrade("r2")
    project.upgrade("r2")
    assert forms(engine) == {"bound"}
    assert read(engine, bound, Rollout.STRICT) == rows
    stage(engine, Rollout.BIND_PREPARE)
    with pytest.raises(UnsupportedOperationError, match="bind_prepare"):
        check_encryption(engine, BOUND)
    with pytest.raises((IntegrityError, DBAPIError)), engine.begin() as connection:
        connection.execute(update(bound).where(*(bound.c[key] == rows[0][key] for key in PARTS)).values(token="x"))
    with engine.begin() as connection, pytest.raises((IntegrityError, DBAPIError)):
        connection.execute(text("UPDATE accounts SET token = 'SENTINEL' WHERE id = 1"))
    assert {item.state for item in plan(engine, BOUND)[0].columns} == {"required"}
    project.downgrade("r0", rollout=Rollout.BIND_PREPARE)
    assert forms(engine) == {"unbound"}
    assert read(engine, unbound, Rollout.STRICT) == rows


def plant(engine: Engine, value: str) -> None:
    """Store a value that the CHECK refuses, as who may alter the table, or owns the file, can."""
    store = text("UPDATE accounts SET token = :v WHERE id = 1").bindparams(v=value)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            checks = "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'"
            name, condition = connection.execute(text(f"{checks} AND conname ~ 'token'")).one()
            connection.execute(text(f"ALTER TABLE accounts DROP CONSTRAINT {name}"))
            connection.execute(store)
            again = f"ALTER TABLE accounts ADD CONSTRAINT {name} {condition} NOT VALID"
            connection.exec_driver_sql(again.replace("%", "%%"))
            connection.execute(text(f"UPDATE pg_constraint SET convalidated = true WHERE conname = '{name}'"))
        else:
            setting = (
                "PRAGMA ignore_check_constraints" if engine.dialect.name == "sqlite" else "SET check_constraint_checks"
            )
            connection.exec_driver_sql(f"{setting} = {int(engine.dialect.name == 'sqlite')}")
            connection.execute(store)
            connection.exec_driver_sql(f"{setting} = {int(engine.dialect.name != 'sqlite')}")
        connection.commit()


def test_planted_copies_are_not_bound(engine: Engine, tmp_path: Path) -> None:
    """Where the CHECK requires bound values, others got in past it."""
    fill(engine, bound, Rollout.STRICT)
    project = alembic.Project(tmp_path, engine)
    project.revision(f"op.require_encryption('accounts', {CONTEXTS!r}, bound=True)")
    project.revision(f"op.bind_columns('accounts', {CONTEXTS!r}, kinds={KINDS!r}, bind_to={PARTS!r})")
    project.upgrade("r0")
    planted = KeyRing(primary=OLD).encryptor("accounts.token")("SENTINEL of another row")
    plant(engine, planted)
    with pytest.raises(DecryptionError, match="1 values are not bound to their row, although the column requires it"):
        project.upgrade("r1")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT token FROM accounts WHERE id = 1")) == planted


def test_bind_to_must_name_columns(engine: Engine) -> None:
    fill(engine, unbound, Rollout.BIND_MIGRATE)
    for bind_to, message in (
        ("user_id", "tuple"),
        (["nothing"], "nothing"),
        (["data"], "encrypted itself"),
        ({"other": ["user_id"]}, "other"),
        ((), "bind_to"),
    ):
        with pytest.raises((ColumnDefinitionError, UnsupportedOperationError), match=message):
            rewrite(BIND, engine, "accounts", CONTEXTS, kinds=KINDS, bind_to=bind_to)


@pytest.mark.slow
@pytest.mark.parametrize("required", [False, True])
def test_autogenerate(engine: Engine, tmp_path: Path, *, required: bool) -> None:
    fill(engine, unbound, Rollout.STRICT)
    application = alembic.Application(tmp_path, engine, BOUND)
    if required:
        with open_table(engine, TableColumns("accounts", CONTEXTS)) as access:
            constraint.require_encryption(access)
    stage(engine, Rollout.BIND_PREPARE)
    assert application.is_clean()
    stage(engine, Rollout.BIND_MIGRATE)
    (generated,) = application.complete()
    assert "op.bind_columns('accounts'" in generated
    assert "'token': ('user_id', 'provider', 'device')" in generated
    assert "op.unbind_columns('accounts'" in generated
    assert "require" not in generated
    assert forms(engine) == {"bound"}
    stage(engine, Rollout.STRICT)
    (generated,) = application.complete()
    assert "bound=True" in generated
    assert ("op.allow_unbound" if required else "op.allow_plaintext") in generated
    assert "bind_columns" not in generated
    assert read(engine, bound, Rollout.STRICT) == rows
    application.downgrade("base", rollout=Rollout.BIND_PREPARE)
    assert read(engine, unbound, Rollout.STRICT) == rows


class Base(DeclarativeBase):
    pass


class Login(Base):
    """A part that a mapper names otherwise than the database."""

    __tablename__ = "logins"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int] = mapped_column("owner_no")
    secret: Mapped[str] = mapped_column(EncryptedString("logins.secret", bind_to=("owner",)))


def test_declared_names_are_those_of_the_mapper(engine: Engine) -> None:
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Login).values(id=1, owner=7, secret="SENTINEL"))
    assert [(item.bind_to, item.bound) for item in declared_status(engine, Base.metadata)] == [(("owner_no",), 1)]
    check_encryption(engine, Base.metadata)
    assert rewrite(VERIFY, engine, "logins", {"secret": "logins.secret"}, bind_to=["owner_no"]).failed == 0


def test_a_part_that_may_be_null_is_reported(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE loose (id INTEGER PRIMARY KEY, part INTEGER, token TEXT)"))
        connection.execute(text("INSERT INTO loose VALUES (1, 5, 'SENTINEL'), (2, NULL, 'SENTINEL')"))
    stage(engine, Rollout.MIGRATE)
    with pytest.raises(RewriteError, match="is NULL") as caught:
        rewrite(ENCRYPT, engine, "loose", {"token": "loose.token"}, bind_to=["part"])
    assert [item.key for item in caught.value.report.failures] == [(2,)]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT token FROM loose WHERE id = 2")) == "SENTINEL"


def test_a_trigger_that_changes_a_part_is_noticed(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, KeyRing(primary=OLD))
    UNBOUND.create_all(engine)
    fill(engine, unbound, Rollout.BIND_MIGRATE)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN NEW.provider := upper(NEW.provider); RETURN NEW; END'"
            )
        )
        connection.execute(text("CREATE TRIGGER move BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION move()"))
    with pytest.raises(RewriteError, match="does not keep the new value"):
        change(engine, BIND)
    assert forms(engine) == {"unbound"}


def test_padding_is_no_part(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    """MariaDB takes 'a' and 'a ' for equal, also with a binary collation."""
    engine = make_engine(mariadb_url, KeyRing(primary=OLD))
    metadata = MetaData()
    table = Table(
        "padded",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("code", CHAR(8, collation="utf8mb4_bin"), nullable=False),
        Column("token", EncryptedString("padded.token", bind_to=["code"])),
    )
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(table).values(id=1, code="a", token="SENTINEL"))
        with pytest.raises(UnsupportedOperationError, match="blanks"):
            connection.execute(update(table).where(table.c.code == "a ").values(token="LOST"))
        assert connection.scalar(select(table.c.token)) == "SENTINEL"


def test_errors_of_plaintext_in_the_bind_stages(engine: Engine) -> None:
    fill(engine, bound, Rollout.PREPARE)
    for each in (Rollout.BIND_PREPARE, Rollout.BIND_MIGRATE, Rollout.STRICT):
        with pytest.raises(PlaintextFoundError):
            read(engine, bound, each)
        with pytest.raises(PlaintextFoundError, match=each.value):
            check_encryption(engine, BOUND)


def test_a_part_with_a_newline_is_reported(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE noted (id INTEGER PRIMARY KEY, part VARCHAR(9) NOT NULL, token TEXT)"))
        connection.execute(text("INSERT INTO noted VALUES (1, :part, 'SENTINEL')"), {"part": "a\nb"})
    stage(engine, Rollout.MIGRATE)
    with pytest.raises(RewriteError, match="newline"):
        rewrite(ENCRYPT, engine, "noted", {"token": "noted.token"}, bind_to=["part"])
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT token FROM noted")) == "SENTINEL"


@pytest.mark.parametrize("value", [None, "a\nb"])
def test_rows_that_cannot_be_named_are_found_before_anything_is_bound(engine: Engine, value: str | None) -> None:
    long_text = "MEDIUMTEXT" if engine.dialect.name == "mysql" else "TEXT"
    collate = " COLLATE utf8mb4_bin" if engine.dialect.name == "mysql" else ""
    with engine.begin() as connection:
        connection.execute(
            text(f"CREATE TABLE named (id INTEGER PRIMARY KEY, part VARCHAR(9){collate}, token {long_text})")
        )
        connection.execute(
            text("INSERT INTO named VALUES (1, 'a', 'SENTINEL'), (2, :part, 'SENTINEL')"), {"part": value}
        )
    metadata = MetaData()
    Table(
        "named",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("part", TEXT, nullable=False),
        Column("token", EncryptedString("named.token", bind_to=["part"])),
    )
    stage(engine, Rollout.PREPARE)
    with pytest.raises(UnsupportedOperationError, match="part:part"):
        check_encryption(engine, metadata)
    assert [item.label for item in plan(engine, metadata)[0].obstacles()] == ["part:part"]
    stage(engine, Rollout.MIGRATE)
    with pytest.raises(UnsupportedOperationError, match="part:part"):
        run_operation(engine, "encrypt_columns", "named", {"token": "named.token"}, bind_to=["part"])


def test_going_back_keeps_the_check_against_plaintext(engine: Engine, tmp_path: Path) -> None:
    fill(engine, unbound, Rollout.STRICT)
    application = alembic.Application(tmp_path, engine, BOUND)
    with open_table(engine, TableColumns("accounts", CONTEXTS)) as access:
        constraint.require_encryption(access)
    application.complete()
    application.downgrade("base", rollout=Rollout.BIND_PREPARE)
    assert forms(engine) == {"unbound"}
    with open_table(engine, TableColumns("accounts", CONTEXTS)) as access:
        assert constraint.required_columns(access) == set(CONTEXTS)
        assert constraint.required_columns(access, bound=True) == set()
    with engine.begin() as connection, pytest.raises((IntegrityError, DBAPIError)):
        connection.execute(text("UPDATE accounts SET token = 'SENTINEL' WHERE id = 1"))


def test_models_that_lost_bind_to_are_found(engine: Engine) -> None:
    fill(engine, bound, Rollout.STRICT)
    (table,) = plan(engine, UNBOUND)
    assert {item.label for item in table.obstacles()} == {"binding:token", "binding:data", "binding:profile"}
    left = list(steps([table], command_options="--models m:Base", prefix="P"))
    assert [step.startswith("repair accounts") for step in left] == [True]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (CHAR(8), "a"),
        (CHAR(8), "abcdefgh"),
        (String(8), "ü"),
        (Integer(), -7),
        (BigInteger(), 2**40),
        (Uuid(), uuid.UUID(int=5)),
    ],
    ids=str,
)
def test_a_rewrite_and_the_application_bind_to_the_same_text(engine: Engine, type_: Any, value: Any) -> None:
    metadata = MetaData()
    part, key = Column("part", type_, nullable=False), Column("id", Integer, primary_key=True, autoincrement=False)
    table = Table("parts", metadata, key, part, Column("token", EncryptedString("parts.token", bind_to=("part",))))
    metadata.create_all(engine)
    stage(engine, Rollout.PREPARE)
    columns: dict[str, Any] = {"columns": {"token": "parts.token"}, "bind_to": ["part"]}
    with engine.begin() as connection:
        connection.execute(insert(table), {"id": 1, "part": value, "token": "SENTINEL"})
    stage(engine, Rollout.MIGRATE)
    assert rewrite(ENCRYPT, engine, "parts", **columns).rewritten == 1
    with engine.begin() as connection:
        connection.execute(insert(table), {"id": 2, "part": value, "token": "SENTINEL"})
    stage(engine, Rollout.STRICT)
    assert rewrite(VERIFY, engine, "parts", **columns).failed == 0
    with engine.connect() as connection:
        assert connection.scalars(select(table.c.token)).all() == ["SENTINEL", "SENTINEL"]


def test_a_column_that_adds_zeros_is_no_part(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(mariadb_url, KeyRing(primary=OLD), rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE padded (id int primary key, part int(5) zerofill NOT NULL, token text)"))
    with pytest.raises(ColumnDefinitionError, match="ZEROFILL"):
        rewrite(ENCRYPT, engine, "padded", {"token": "padded.token"}, bind_to=["part"])
