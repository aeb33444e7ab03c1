"""Rewriting in place: complete, idempotent, honest about what it cannot do, and silent about values."""

from __future__ import annotations

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
    select,
    text,
)

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
from sealchemy.rewrite import DECRYPT, ENCRYPT, REKEY, Progress, rewrite

from .support.leaks import assert_silent
from .support.tables import COLUMNS, grants, raw

if TYPE_CHECKING:
    from collections.abc import Callable

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
def test_encrypt_then_decrypt(engine: Engine, rows: int, batch_size: int) -> None:
    before = grants(engine, rows)
    report = rewrite(ENCRYPT, engine, "grants", COLUMNS, batch_size=batch_size)
    assert report.rewritten == rows
    assert revealed(engine) == before
    after = raw(engine)
    assert rewrite(ENCRYPT, engine, "grants", COLUMNS, batch_size=batch_size).rewritten == 0
    assert raw(engine) == after
    assert rewrite(DECRYPT, engine, "grants", COLUMNS, batch_size=batch_size).rewritten == rows
    assert raw(engine) == before


def test_rekey_moves_everything_to_the_primary_key(engine: Engine) -> None:
    before = grants(engine, 25)
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    new = KeyRing(primary=Key.generate(), previous=[RING.primary])
    attach_key_ring(engine, new)
    assert rewrite(REKEY, engine, "grants", COLUMNS, batch_size=10).rewritten == 25
    assert revealed(engine, KeyRing(primary=new.primary)) == before
    assert rewrite(REKEY, engine, "grants", COLUMNS).rewritten == 0


def test_rekey_never_encrypts_plaintext(engine: Engine) -> None:
    grants(engine, 3)
    before = raw(engine)
    with pytest.raises(RewriteError, match="PlaintextFoundError") as caught:
        rewrite(REKEY, engine, "grants", COLUMNS)
    assert caught.value.report.failed == 5  # type: ignore[union-attr]
    assert raw(engine) == before


def test_what_cannot_be_read_is_named_and_left_and_the_rest_is_done(engine: Engine) -> None:
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
            rewrite(ENCRYPT, engine, "grants", COLUMNS, batch_size=10)
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


def test_the_pattern_is_case_sensitive(engine: Engine) -> None:
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
def test_any_primary_key_and_names_that_need_quoting(engine: Engine, key: list[Column[Any]], value: Any) -> None:
    columns = [Column(item.name, item.type, primary_key=True, autoincrement=False) for item in key]
    table = Table("User Grants", MetaData(), *columns, Column("accessToken", Text), Column("100%", Text))
    table.create(engine)
    rows = [
        dict(zip(table.c.keys(), (*value(number), f"a{number}", f"b{number}"), strict=True)) for number in range(1, 48)
    ]
    with engine.begin() as connection:
        connection.execute(insert(table), rows)
    contexts = {"accessToken": "g.a", "100%": "g.b"}
    assert rewrite(ENCRYPT, engine, "User Grants", contexts, batch_size=10).rewritten == 47
    with engine.connect() as connection:
        stored = connection.execute(select(table)).all()
    expected = {tuple(row.values())[:-2]: (row["accessToken"], row["100%"]) for row in rows}
    found = {tuple(row[:-2]): (str(RING.decrypt(row[-2], "g.a")), str(RING.decrypt(row[-1], "g.b"))) for row in stored}
    assert found == expected


def test_table_in_another_schema(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
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
    rewrite(ENCRYPT, engine, "grants", COLUMNS, batch_size=10, progress=seen.append)
    assert seen[:3] == [Progress("grants", 10, 25), Progress("grants", 20, 25), Progress("grants", 25, 25)]


def test_in_the_transaction_of_the_caller(engine: Engine) -> None:
    before = grants(engine, 25)
    with engine.connect() as connection:
        assert rewrite(ENCRYPT, connection, "grants", COLUMNS, batch_size=10).rewritten == 25
        connection.rollback()
    assert raw(engine) == before


def test_in_memory_sqlite(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine("sqlite://", RING)
    before = grants(engine, 25)
    rewrite(ENCRYPT, engine, "grants", COLUMNS, batch_size=10)
    assert revealed(engine) == before


def test_sqlite_with_sqlalchemys_recipe_for_begin(tmp_path: Any, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'recipe.db'}", RING)
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    before = grants(engine, 25)
    rewrite(ENCRYPT, engine, "grants", COLUMNS, batch_size=10)
    assert revealed(engine) == before


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
def test_whatever_isolation_level_the_engine_has(
    database_url: str, make_engine: Callable[..., Engine], level: str
) -> None:
    engine = make_engine(database_url, RING, isolation_level=level)
    before = grants(engine, 25)
    rewrite(ENCRYPT, engine, "grants", COLUMNS, batch_size=10)
    assert revealed(engine) == before


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ("no_such_table", COLUMNS, "no such table"),
        ("grants", {"acess": "grants.access"}, "no column acess; its columns are id, access"),
        ("grants", {"id": "grants.id"}, "not text"),
        ("keyless", {"access": "keyless.access"}, "no primary key"),
        ("grants", {"access": "not a context"}, "permanent name"),
    ],
)
def test_wrong_names_are_explained(engine: Engine, table: str, columns: dict[str, str], message: str) -> None:
    grants(engine, 3)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE keyless (access TEXT)"))
    before = raw(engine)
    with pytest.raises(ColumnDefinitionError, match=message):
        rewrite(ENCRYPT, engine, table, columns)
    assert raw(engine) == before


def test_nothing_is_touched_without_a_ring_or_in_the_wrong_stage(
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


def test_a_value_that_the_database_changes_is_not_committed(engine: Engine) -> None:
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


def test_rows_that_others_hold_are_waited_for(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    before = grants(engine, 25)
    holder = engine.connect()
    holder.execute(text("SELECT 1 FROM grants WHERE id IN (4, 9) FOR UPDATE"))
    done: list[Any] = []
    worker = threading.Thread(target=lambda: done.append(rewrite(ENCRYPT, engine, "grants", COLUMNS, batch_size=10)))
    worker.start()
    with engine.connect() as connection:
        others = text("SELECT count(*) FROM grants WHERE access LIKE 'sealchemy:%'")
        for _ in range(200):
            if connection.scalar(others) == 23:
                break
            connection.rollback()
            worker.join(0.05)
        assert connection.scalar(others) == 23
    assert worker.is_alive()
    holder.rollback()
    holder.close()
    worker.join(30)
    assert done[0].rewritten == 25
    assert revealed(engine) == before


def test_rows_that_stay_locked_are_reported(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    grants(engine, 25)
    with engine.connect() as holder:
        holder.execute(text("SELECT 1 FROM grants WHERE id IN (4, 9) FOR UPDATE"))
        with pytest.raises(RewriteError, match="2 rows were locked by others") as caught:
            rewrite(ENCRYPT, engine, "grants", COLUMNS, batch_size=10, lock_timeout=0.05)
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


def test_sqlite_keeps_no_plaintext_in_the_file(tmp_path: Any, make_engine: Callable[..., Engine]) -> None:
    for mode in ("delete", "wal"):
        path = tmp_path / f"{mode}.db"
        engine = make_engine(f"sqlite:///{path}", RING)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA secure_delete = OFF")
            assert connection.exec_driver_sql(f"PRAGMA journal_mode = {mode}").scalar() == mode
        grants(engine, 500)
        assert b"SENTINEL" in b"".join(file.read_bytes() for file in tmp_path.glob(f"{mode}.db*"))
        rewrite(ENCRYPT, engine, "grants", COLUMNS, batch_size=100)
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


def test_the_table_is_as_it_was(engine: Engine) -> None:
    grants(engine, 5)
    before = inspect(engine).get_columns("grants")
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert repr(inspect(engine).get_columns("grants")) == repr(before)
