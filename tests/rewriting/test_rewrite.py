"""Rewrites are complete and idempotent, report what they cannot do, and show no values."""

from __future__ import annotations

import signal
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
    event,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError

from sealchemy import (
    ColumnDefinitionError,
    Key,
    KeyRing,
    KeyRingNotAttachedError,
    RewriteError,
    Rollout,
    UnsupportedOperationError,
    attach_key_ring,
)
from sealchemy._databases import postgresql_parts
from sealchemy._rewriting import walk
from sealchemy.rewrite import DECRYPT, ENCRYPT, REKEY, VERIFY, Options, Progress, rewrite
from tests.support import constraint
from tests.support.leaks import assert_silent
from tests.support.tables import COLUMNS, grants, raw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RING = KeyRing(primary=Key.generate())


@pytest.fixture
def engine(database_url: str, make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(database_url, RING)


def revealed(engine: Engine, ring: KeyRing = RING) -> dict[int, tuple[str | None, ...]]:
    return {
        key: tuple(value and ring.decrypt(value, context) for value, context in zip(row, COLUMNS.values(), strict=True))
        for key, row in raw(engine).items()
    }


@pytest.mark.parametrize(("rows", "batch_size"), [(0, 10), (1, 10), (10, 10), (25, 10), (25, 1000)])
def test_encrypt_then_decrypt_restores_the_table(engine: Engine, rows: int, batch_size: int) -> None:
    before = grants(engine, rows)
    report = rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=batch_size))
    assert report.rewritten == rows
    assert revealed(engine) == before
    after = raw(engine)
    assert rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=batch_size)).rewritten == 0
    assert raw(engine) == after
    assert rewrite(DECRYPT, engine, "grants", COLUMNS, options=Options(batch_size=batch_size)).rewritten == rows
    assert raw(engine) == before


def test_rekey_moves_everything_to_the_primary_key(engine: Engine) -> None:
    before = grants(engine, 25)
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    new = KeyRing(primary=Key.generate(), previous=[RING.primary])
    attach_key_ring(engine, new)
    assert rewrite(REKEY, engine, "grants", COLUMNS, options=Options(batch_size=10)).rewritten == 25
    assert revealed(engine, KeyRing(primary=new.primary)) == before
    assert rewrite(REKEY, engine, "grants", COLUMNS).rewritten == 0


def test_rekey_never_encrypts_plaintext(engine: Engine) -> None:
    grants(engine, 3)
    before = raw(engine)
    with pytest.raises(RewriteError, match="PlaintextFoundError") as caught:
        rewrite(REKEY, engine, "grants", COLUMNS)
    assert caught.value.report.failed == 5  # type: ignore[union-attr]
    assert raw(engine) == before


def test_unreadable_values_are_reported_and_left_while_the_rest_is_rewritten(engine: Engine) -> None:
    grants(engine, 30)
    good = RING.encrypt("x", "grants.access")
    damaged = {
        3: "sealchemy:my-own-scheme",
        5: "sealchemy:v2:later",
        7: KeyRing(primary=Key.generate()).encrypt("x", "grants.access"),
        11: RING.encrypt("x", "grants.refresh"),
        13: good[:-6] + "AAAAA=",
    }
    with engine.begin() as connection:
        for key, value in damaged.items():
            connection.execute(text("UPDATE grants SET access = :value WHERE id = :id"), {"value": value, "id": key})
    for _ in range(2):
        with pytest.raises(RewriteError) as caught:
            rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=10))
        report: Any = caught.value.report
        assert {failure.key for failure in report.failures} == {(key,) for key in damaged}
        assert {failure.column for failure in report.failures} == {"access"}
        assert all(f"({key},)" in str(caught.value) for key in damaged)
        assert_silent(caught.value, *damaged.values(), "access-SENTINEL")
        after = raw(engine)
        assert {key: after[key][0] for key in damaged} == damaged
        assert all(
            RING.decrypt(row[0], "grants.access") is not None for key, row in after.items() if key not in damaged
        )
        assert all(row[1] is None or RING.decrypt(row[1], "grants.refresh") for row in after.values())


def test_prefix_match_is_case_sensitive(engine: Engine) -> None:
    grants(engine, 1)
    shouted = RING.encrypt("x", "grants.access").upper()
    with engine.begin() as connection:
        connection.execute(text("UPDATE grants SET access = :value"), {"value": shouted})
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert revealed(engine)[1][0] == shouted


KEYS = [
    pytest.param([Column("k", String(40))], lambda n: (f"key '{n}' %s",), id="text"),
    pytest.param([Column("k", Uuid)], lambda n: (uuid.UUID(int=n << 96),), id="uuid"),
    pytest.param([Column("a", Integer), Column("b%c", String(9))], lambda n: (n % 3, f"b{n}"), id="composite"),
    pytest.param([Column("Key Id", Integer)], lambda n: (-n,), id="quoted"),
]


@pytest.mark.parametrize(("key", "value"), KEYS)
def test_any_primary_key_type_and_quoted_names_work(engine: Engine, key: list[Column[Any]], value: Any) -> None:
    columns = [Column(item.name, item.type, primary_key=True, autoincrement=False) for item in key]
    table = Table("User Grants", MetaData(), *columns, Column("accessToken", Text), Column("100%", Text))
    table.create(engine)
    rows = [
        dict(zip(table.c.keys(), (*value(number), f"a{number}", f"b{number}"), strict=True)) for number in range(1, 48)
    ]
    with engine.begin() as connection:
        connection.execute(insert(table), rows)
    contexts = {"accessToken": "g.a", "100%": "g.b"}
    assert rewrite(ENCRYPT, engine, "User Grants", contexts, options=Options(batch_size=10)).rewritten == 47
    with engine.connect() as connection:
        stored = connection.execute(select(table)).all()
    expected = {tuple(row.values())[:-2]: (row["accessToken"], row["100%"]) for row in rows}
    found = {tuple(row[:-2]): (str(RING.decrypt(row[-2], "g.a")), str(RING.decrypt(row[-1], "g.b"))) for row in stored}
    assert found == expected


def test_table_in_another_schema_is_rewritten(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        schema = connection.scalar(text("SELECT current_schema() || '_Other'"))
        connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        connection.execute(text(f'CREATE TABLE "{schema}".t (id int PRIMARY KEY, access text)'))
        connection.execute(text(f"INSERT INTO \"{schema}\".t VALUES (1, 'x')"))
    assert rewrite(ENCRYPT, engine, "t", {"access": "t.access"}, schema=schema).table == f"{schema}.t"
    with engine.begin() as connection:
        assert connection.scalar(text(f'SELECT access FROM "{schema}".t')).startswith("sealchemy:v1:")
        connection.execute(text(f'DROP SCHEMA "{schema}" CASCADE'))


def test_progress_counts_rows(engine: Engine) -> None:
    grants(engine, 25)
    seen: list[Progress] = []
    rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=10), progress=seen.append)
    assert seen == [Progress("grants", "encrypt", done, 25) for done in (10, 20, 25)]
    seen.clear()
    rewrite(VERIFY, engine, "grants", COLUMNS, options=Options(batch_size=20), progress=seen.append)
    assert seen == [Progress("grants", "verify", done, 25) for done in (20, 25)]


def test_rewrite_on_a_connection_can_be_rolled_back_by_the_caller(engine: Engine) -> None:
    before = grants(engine, 25)
    with engine.connect() as connection:
        assert rewrite(ENCRYPT, connection, "grants", COLUMNS, options=Options(batch_size=10)).rewritten == 25
        connection.rollback()
    assert raw(engine) == before


def test_in_memory_sqlite_is_rewritten(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine("sqlite://", RING)
    before = grants(engine, 25)
    rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=10))
    assert revealed(engine) == before


def test_rewrite_works_with_sqlalchemys_sqlite_transaction_recipe(
    tmp_path: Any, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'recipe.db'}", RING)
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    before = grants(engine, 25)
    rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=10))
    assert revealed(engine) == before


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
def test_rewrite_works_at_any_isolation_level(
    database_url: str, make_engine: Callable[..., Engine], level: str
) -> None:
    engine = make_engine(database_url, RING, isolation_level=level)
    before = grants(engine, 25)
    rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=10))
    assert revealed(engine) == before


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ("no_such_table", COLUMNS, "no such table"),
        ("grants", {"acess": "grants.access"}, "no column acess; its columns are id, access"),  # codespell:ignore acess
        ("grants", {"id": "grants.id"}, "not text"),
        ("keyless", {"access": "keyless.access"}, "no primary key"),
        ("grants", {"access": "not a context"}, "permanent name"),
    ],
)
def test_wrong_table_or_column_is_explained(engine: Engine, table: str, columns: dict[str, str], message: str) -> None:
    grants(engine, 3)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE keyless (access TEXT)"))
    before = raw(engine)
    with pytest.raises(ColumnDefinitionError, match=message):
        rewrite(ENCRYPT, engine, table, columns)
    assert raw(engine) == before


def test_nothing_changes_without_a_ring_or_in_the_wrong_stage(
    database_url: str, make_engine: Callable[..., Engine]
) -> None:
    from sqlalchemy import create_engine

    engine = create_engine(database_url)
    before = grants(engine, 3)
    with pytest.raises(KeyRingNotAttachedError):
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    with pytest.raises(UnsupportedOperationError, match="no column"):
        rewrite(ENCRYPT, engine, "grants", {})
    attach_key_ring(engine, RING, rollout=Rollout.PREPARE)
    with pytest.raises(UnsupportedOperationError, match="stage is prepare"):
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert raw(engine) == before
    engine.dispose()


@pytest.mark.parametrize("options", [{}, {"isolation_level": "AUTOCOMMIT"}], ids=["default", "autocommit"])
def test_batch_is_not_committed_if_the_database_changes_a_value(
    database_url: str, make_engine: Callable[..., Engine], options: dict[str, str]
) -> None:
    engine = make_engine(database_url, RING, **options)
    before = grants(engine, 3)
    if engine.dialect.name == "sqlite":
        trigger = (
            "CREATE TRIGGER cut AFTER UPDATE OF access ON grants WHEN length(NEW.access) > 60 BEGIN"
            " UPDATE grants SET access = substr(NEW.access, 1, 60) WHERE id = NEW.id; END"
        )
    else:
        trigger = (
            "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN NEW.access = left(NEW.access, 60); RETURN NEW; END';"
            "CREATE TRIGGER cut BEFORE UPDATE ON grants FOR EACH ROW EXECUTE FUNCTION cut()"
        )
    with engine.begin() as connection:
        connection.execute(text(trigger))
    with pytest.raises(RewriteError, match=r"grants\.access, primary key \(1,\).*does not keep") as caught:
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert_silent(caught.value, "access-SENTINEL")
    assert raw(engine) == before


def test_rows_locked_by_other_sessions_are_waited_for(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    before = grants(engine, 25)
    done: list[Any] = []
    worker = threading.Thread(
        target=lambda: done.append(rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=10))),
        daemon=True,
    )
    others = text("SELECT count(*) FROM grants WHERE access LIKE 'sealchemy:%'")
    with engine.connect() as holder, engine.connect() as connection:
        holder.execute(text("SELECT 1 FROM grants WHERE id IN (4, 9) FOR UPDATE"))
        worker.start()
        for _ in range(200):
            if connection.scalar(others) == 23:
                break
            connection.rollback()
            worker.join(0.05)
        assert connection.scalar(others) == 23
        assert worker.is_alive()
    worker.join(30)
    assert done[0].rewritten == 25
    assert revealed(engine) == before


def test_rows_that_stay_locked_are_reported(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    grants(engine, 25)
    with engine.connect() as holder:
        holder.execute(text("SELECT 1 FROM grants WHERE id IN (4, 9) FOR UPDATE"))
        with pytest.raises(RewriteError, match="2 rows were locked by others") as caught:
            rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=10, lock_timeout=0.05))
    assert caught.value.report.rewritten == 23  # type: ignore[union-attr]
    assert rewrite(ENCRYPT, engine, "grants", COLUMNS).rewritten == 2


def test_a_writer_that_keeps_storing_plaintext_is_reported(engine: Engine) -> None:
    grants(engine, 5)
    writes = iter(range(1_000))

    def old_process(progress: Progress) -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE grants SET access = :new WHERE id = 1"), {"new": f"plain-{next(writes)}"})

    with pytest.raises(RewriteError, match="still being written, 1 rows in the last of 4 passes"):
        rewrite(ENCRYPT, engine, "grants", COLUMNS, progress=old_process)


def test_run_ends_even_if_rows_keep_being_appended(engine: Engine) -> None:
    grants(engine, 5)
    new = iter(range(1000, 1200))

    def append(progress: Progress) -> None:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO grants (id, access) VALUES (:id, 'plain')"), {"id": next(new)})

    with pytest.raises(RewriteError, match="still being written"):
        rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=1), progress=append)


@pytest.mark.parametrize("kind", ["integer[]", "jsonb", "folded"])
def test_primary_keys_without_exact_comparison_are_refused(
    postgresql_url: str, make_engine: Callable[..., Engine], kind: str
) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        connection.execute(text("CREATE EXTENSION citext"))
        connection.execute(text("CREATE DOMAIN folded AS citext"))
        connection.execute(text(f"CREATE TABLE odd (k {kind} PRIMARY KEY, access TEXT)"))
    with pytest.raises(ColumnDefinitionError, match="primary key k is of type"):
        rewrite(ENCRYPT, engine, "odd", {"access": "odd.access"})


def test_single_precision_primary_key_is_supported(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE odd (k real, n integer, access TEXT, PRIMARY KEY (k, n))"))
        connection.execute(text("INSERT INTO odd SELECT i / 3.0, i, 'plain' FROM generate_series(1, 50) AS i"))
    report = rewrite(ENCRYPT, engine, "odd", {"access": "odd.access"}, options=Options(batch_size=7))
    assert report.rewritten == 50


SQLITE_KEYS = {
    "numeric": ("numeric", "9007199254740992", "9007199254740993"),
    "real": ("numeric", "0.123456789", "0.12345678901"),
    "boolean": ("boolean", "1", "2"),
    "datetime": ("datetime", "'2024-01-01 00:00:00'", "'2024-01-01 00:00:00.000000'"),
    "date": ("date", "'2024-01-01'", "'not a date'"),
    "uuid": ("uuid", "'12345678-1234-5678-1234-567812345678'", "'x'"),
    "blob": ("blob", "x'00'", "x'00ff'"),
    "decimal": ("decimal(20)", "1234567890123456789", "1234567890123456788"),
}


@pytest.mark.parametrize(("type_", "one", "two"), SQLITE_KEYS.values(), ids=SQLITE_KEYS.keys())
@pytest.mark.parametrize("batch_size", [1, 1000])
def test_sqlite_keys_are_distinguished_by_stored_value(
    make_engine: Callable[..., Engine], type_: str, one: str, two: str, batch_size: int
) -> None:
    engine = make_engine("sqlite://", RING)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE t (id {type_} PRIMARY KEY, access TEXT)")
        connection.exec_driver_sql(f"INSERT INTO t VALUES ({one}, 'one'), ({two}, 'two')")
    assert rewrite(ENCRYPT, engine, "t", {"access": "t.access"}, options=Options(batch_size=batch_size)).rewritten == 2
    with engine.begin() as connection:
        found = [
            connection.exec_driver_sql(f"SELECT access FROM t WHERE id = {key}").scalar_one() for key in (one, two)
        ]
    assert [RING.decrypt(value, "t.access") for value in found] == ["one", "two"]


def test_null_in_a_primary_key_is_refused(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine("sqlite://", RING)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id TEXT PRIMARY KEY, access TEXT)")
        connection.exec_driver_sql("INSERT INTO t VALUES (NULL, 'a'), (NULL, 'b'), ('z', 'c')")
    with pytest.raises(ColumnDefinitionError, match="primary key is NULL"):
        rewrite(ENCRYPT, engine, "t", {"access": "t.access"})


def test_invalid_utf8_is_reported_by_primary_key(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine("sqlite://", RING)
    before = grants(engine, 3)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE grants SET access = CAST(x'53454e54494e454cff' AS TEXT) WHERE id = 2")
    with engine.connect() as connection, pytest.raises(DBAPIError) as unreadable:
        connection.exec_driver_sql("SELECT access FROM grants").all()
    assert_silent(unreadable.value, "x SENTINEL x")
    with pytest.raises(RewriteError, match=r"\(2,\) access: PlaintextTypeError"):
        rewrite(ENCRYPT, engine, "grants", COLUMNS)
    with engine.connect() as connection:
        assert (
            connection.exec_driver_sql("SELECT hex(access) FROM grants WHERE id = 2").scalar() == "53454E54494E454CFF"
        )
        done = connection.exec_driver_sql("SELECT access FROM grants WHERE id = 3").scalar_one()
    assert RING.decrypt(done, "grants.access") == before[3][0]


def test_table_with_inheriting_tables_is_refused(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE p (id int PRIMARY KEY, access text)"))
        connection.execute(text("CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (p)"))
        connection.execute(text("INSERT INTO p VALUES (1, 'parent')"))
        connection.execute(text("INSERT INTO heir VALUES (1, 'child')"))
    with pytest.raises(ColumnDefinitionError, match="inherit"):
        rewrite(ENCRYPT, engine, "p", {"access": "p.access"})
    assert rewrite(ENCRYPT, engine, "heir", {"access": "p.access"}).rewritten == 1
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT access FROM ONLY p")) == "parent"


def test_rows_with_keys_equal_in_python_keep_their_own_values(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        # Both are timedelta(days=365) in Python.
        connection.execute(text("CREATE TABLE t (id interval PRIMARY KEY, access text)"))
        connection.execute(text("INSERT INTO t VALUES ('1 year', 'one'), ('365 days', 'two')"))
    with pytest.raises((ColumnDefinitionError, RewriteError)):
        rewrite(ENCRYPT, engine, "t", {"access": "t.access"})
    with engine.connect() as connection:
        stored = connection.execute(text("SELECT access FROM t ORDER BY id DESC")).scalars().all()
    revealed = [value if not value.startswith("sealchemy:") else RING.decrypt(value, "t.access") for value in stored]
    assert sorted(revealed) == ["one", "two"]


def test_partitioned_table_and_collated_key_are_supported(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        connection.execute(
            text('CREATE TABLE t (id text COLLATE "C" PRIMARY KEY, access varchar(30)) PARTITION BY LIST (id)')
        )
        connection.execute(text("CREATE TABLE t1 PARTITION OF t FOR VALUES IN ('a', 'B')"))
        connection.execute(text("CREATE TABLE t2 PARTITION OF t DEFAULT"))
        connection.execute(text("INSERT INTO t SELECT chr(65 + n) , 'token' || n FROM generate_series(0, 40) n"))
    columns = {"access": "t.access"}
    constraint.widen(engine, "t", columns)
    assert rewrite(ENCRYPT, engine, "t", columns, options=Options(batch_size=7)).rewritten == 41
    constraint.require_encryption(engine, "t", columns)
    with engine.connect() as connection:
        stored = connection.execute(text("SELECT id, access FROM t")).all()
        assert {RING.decrypt(access, "t.access") for _, access in stored} == {f"token{n}" for n in range(41)}
        for table in ("t", "t1"):
            with pytest.raises(IntegrityError), connection.begin_nested():
                connection.execute(text(f"UPDATE {table} SET access = 'plain' WHERE id = 'B'"))


def test_the_check_on_citext_is_case_sensitive(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS citext SCHEMA pg_catalog"))
        connection.execute(text("CREATE TABLE t (id int PRIMARY KEY, access citext)"))
    constraint.require_encryption(engine, "t", {"access": "t.access"})
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (1, 'SEALCHEMY:V1:aaaaaaaaaaaa:plain')"))


def test_decrypting_a_nul_character_on_postgresql_is_reported(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING)
    grants(engine, 3)
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    with engine.begin() as connection:
        stored = {"value": RING.encrypt("a\0b", "grants.access")}
        connection.execute(text("UPDATE grants SET access = :value WHERE id = 2"), stored)
    with pytest.raises(RewriteError, match=r"\(2,\) access.*NUL"):
        rewrite(DECRYPT, engine, "grants", COLUMNS)
    assert raw(engine)[2][0] == stored["value"]
    assert raw(engine)[3][0] == "access-SENTINEL-3"


@pytest.mark.parametrize("own", [True, False])
def test_rows_hidden_by_row_level_security_are_an_error(
    postgresql_url: str, make_engine: Callable[..., Engine], own: bool
) -> None:
    engine = make_engine(postgresql_url, RING)
    grants(engine, 3)
    role = f"role_{uuid.uuid4().hex[:12]}"
    with engine.begin() as connection:
        schema = connection.scalar(text("SELECT current_schema()"))
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {role}"))
        connection.execute(text(f"GRANT ALL ON grants TO {role}"))
        connection.execute(text("ALTER TABLE grants ENABLE ROW LEVEL SECURITY"))
        connection.execute(text(f"CREATE POLICY one_row ON grants TO {role} USING (id = 1)"))
    restricted = make_engine(make_url(postgresql_url).set(username=role).render_as_string(hide_password=False), RING)
    with restricted.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM grants")) == 1
        connection.rollback()
        with pytest.raises(DBAPIError, match="row-level security"):
            rewrite(ENCRYPT, restricted if own else connection, "grants", COLUMNS)
    restricted.dispose()
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {role}"))
        connection.execute(text(f"DROP ROLE {role}"))


def test_child_rows_can_be_inserted_during_a_batch(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    grants(engine, 25)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE child (id serial PRIMARY KEY, grant_id int REFERENCES grants)"))
    other = make_engine(postgresql_url, RING)

    def insert_child(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE grants"):
            with other.begin() as connection:
                connection.execute(text("SET LOCAL lock_timeout = '2s'"))
                connection.execute(text("INSERT INTO child (grant_id) VALUES (3)"))

    event.listen(engine, "before_cursor_execute", insert_child)
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM child")) == 1


def test_sqlite_blocks_other_writers_while_a_batch_is_rewritten(
    tmp_path: Any, make_engine: Callable[..., Engine]
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    engine, other = make_engine(url, RING), make_engine(url, RING, connect_args={"timeout": 0.1})
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = wal")  # in this mode, a reader alone does not block writers
    grants(engine, 5)
    refused: list[str] = []

    def write_after_read(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT grants.id") and "LIMIT" in statement and not refused:
            try:
                with other.begin() as connection:
                    connection.exec_driver_sql("UPDATE grants SET note = 'x'")
            except DBAPIError as error:
                refused.append(str(error.orig))

    event.listen(engine, "after_cursor_execute", write_after_read)
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert refused == ["database is locked"]


@pytest.mark.slow
def test_wal_is_emptied_or_reported(tmp_path: Any, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = wal")
    grants(engine, 500)
    report = rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=100))
    assert (tmp_path / "x.db-wal").stat().st_size == 0
    assert len(report.left_behind) == 1
    with make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING).connect() as reader:
        reader.exec_driver_sql("BEGIN")
        reader.exec_driver_sql("SELECT count(*) FROM grants").scalar()
        assert "checkpoint" in rewrite(DECRYPT, engine, "grants", COLUMNS).left_behind[-1]


def test_overwritten_plaintext_is_zeroed_in_the_sqlite_file(tmp_path: Any, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING)
    grants(engine, 0)
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA secure_delete = OFF")
        connection.exec_driver_sql("INSERT INTO grants (id, access) VALUES (1, ?)", ("LONG-TOKEN" * 3000,))
    assert (tmp_path / "x.db").read_bytes().count(b"LONG-TOKEN") > 2900
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert (tmp_path / "x.db").read_bytes().count(b"LONG-TOKEN") == 0


def test_sqlite_files_hold_no_plaintext_after_scrub(tmp_path: Any, make_engine: Callable[..., Engine]) -> None:
    for mode in ("delete", "wal"):
        path = tmp_path / f"{mode}.db"
        engine = make_engine(f"sqlite:///{path}", RING)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA secure_delete = OFF")
            assert connection.exec_driver_sql(f"PRAGMA journal_mode = {mode}").scalar() == mode
        grants(engine, 500)
        assert b"SENTINEL" in b"".join(file.read_bytes() for file in tmp_path.glob(f"{mode}.db*"))
        rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=100))
        from sealchemy.scrub import scrub

        scrub(engine, "grants")
        assert b"SENTINEL" not in b"".join(file.read_bytes() for file in tmp_path.glob(f"{mode}.db*"))


def test_postgresql_statistics_hold_no_plaintext(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    grants(engine, 500)
    statistics = text(
        "SELECT string_agg(s::text, '') FROM pg_stats s WHERE tablename = 'grants' AND attname = 'access'"
    )
    with engine.begin() as connection:
        connection.execute(text("ANALYZE grants"))
        assert "SENTINEL" in connection.scalar(statistics)
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    with engine.connect() as connection:
        assert "SENTINEL" not in connection.scalar(statistics)


def test_column_definitions_are_unchanged(engine: Engine) -> None:
    grants(engine, 5)
    before = inspect(engine).get_columns("grants")
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert repr(inspect(engine).get_columns("grants")) == repr(before)


def test_ctrl_c_ends_the_light_walk_after_its_step(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_LONGEST_STEP", 10)
    monkeypatch.setattr(postgresql_parts, "_BYTES", 8192)
    grants(engine, 200)
    steps = 0

    def interrupt(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal steps
        if statement.startswith("SELECT 1"):
            steps += 1
            if steps == 5:
                signal.raise_signal(signal.SIGINT)

    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    event.listen(engine, "before_cursor_execute", interrupt)
    with pytest.raises(RewriteError, match="interrupted after 0 rows"):
        rewrite(REKEY, engine, "grants", COLUMNS, options=Options(batch_size=10))
    assert steps == 5


def test_a_few_plaintext_values_among_finished_rows_are_found(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_LONGEST_STEP", 20)
    before = grants(engine, 400)
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    with engine.begin() as connection:
        connection.execute(text("UPDATE grants SET access = 'late' WHERE id BETWEEN 200 AND 210"))
        connection.execute(text("UPDATE grants SET refresh = access WHERE id IN (100, 300)"))
    with pytest.raises(RewriteError, match="2 values cannot be read") as caught:
        rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=10))
    report = caught.value.report
    assert report.rewritten == 11
    assert [failure.key for failure in report.failures] == [(100,), (300,)]
    with engine.begin() as connection:
        connection.execute(text("UPDATE grants SET refresh = NULL WHERE id IN (100, 300)"))
    late = {key: ("late" if 200 <= key <= 210 else row[0], row[1]) for key, row in before.items()}
    assert revealed(engine) == late | {key: (late[key][0], None) for key in (100, 300)}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_columns_may_have_the_names_of_parameters(
    kind: str, request: pytest.FixtureRequest, make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    engine = make_engine(url, RING)
    long = "MEDIUMTEXT" if kind == "mariadb" else "TEXT"
    with engine.begin() as connection:
        connection.execute(
            text(f"CREATE TABLE t (k0 VARCHAR(9), k1 INTEGER, c0 {long}, c1 {long}, PRIMARY KEY (k0, k1))")
        )
        connection.execute(text("INSERT INTO t VALUES ('a', 1, 'one', 'two'), ('b', 2, 'three', NULL)"))
    columns = {"c0": "t.c0", "c1": "t.c1"}
    assert rewrite(ENCRYPT, engine, "t", columns).rewritten == 2
    assert rewrite(DECRYPT, engine, "t", columns).rewritten == 2
    with engine.begin() as connection:
        found = connection.execute(text("SELECT * FROM t ORDER BY k0")).all()
    assert found == [("a", 1, "one", "two"), ("b", 2, "three", None)]


def test_hundreds_of_equal_failures_are_one_sentence(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    grants(engine, 500)
    with pytest.raises(RewriteError) as caught:
        rewrite(VERIFY, engine, "grants", COLUMNS)
    message, report = str(caught.value), caught.value.report
    assert report is not None
    assert report.failed > 800
    assert message.count("PlaintextFoundError") == 2  # once for each column
    assert "(1,), (2,), (3,)" in message
    assert len(message) < 2000
    assert len(report.failures) == report.failed  # the list is still there
