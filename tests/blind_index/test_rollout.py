"""An index is filled on a table in use, and no lookup finds a wrong row or misses one in silence meanwhile."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from sealchemy import (
    BlindIndex,
    ColumnDefinitionError,
    EncryptedString,
    Key,
    KeyRing,
    MissingKeyError,
    RewriteError,
    Rollout,
    SealchemyError,
    UnsupportedOperationError,
    attach_key_ring,
    normalize_email,
)
from sealchemy.plan import plan, steps
from sealchemy.rewrite import ENCRYPT, rewrite
from sealchemy.status import check_encryption
from tests.support import processes
from tests.support.blind_index import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

CONTEXT = "keys.token"
INDEX_KEY = Key.generate()
PRIMARY = Key.generate()
RING = KeyRing(primary=PRIMARY, index_key=INDEX_KEY)

metadata = MetaData()
keys = Table(
    "api_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner", String(40), nullable=False),
    Column("token", EncryptedString(CONTEXT)),
    Column("token_index", BlindIndex(CONTEXT, during_rollout="plaintext")),
)
old = Table(  # as a release without the index has it
    "api_keys",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("owner", String(40), nullable=False),
    Column("token", Text),
)
old_encrypting = Table(  # as a release that encrypts, without the index, has it
    "api_keys",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("owner", String(40), nullable=False),
    Column("token", EncryptedString(CONTEXT)),
)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return (
        f"sqlite:///{tmp_path / 'x.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue(f"{request.param}_url")
    )


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = attach_key_ring(create_engine(url, poolclass=NullPool), RING, rollout=Rollout.PREPARE)
    if url.startswith("sqlite"):
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = wal")
    with engine.begin() as connection:
        long_text = "MEDIUMTEXT" if connection.dialect.name in {"mysql", "mariadb"} else "TEXT"
        connection.exec_driver_sql(
            f"CREATE TABLE api_keys (id INTEGER PRIMARY KEY, owner VARCHAR(40) NOT NULL, token {long_text})"
        )
    yield engine
    engine.dispose()


def fill(engine: Engine, rows: int, table: Table = old) -> None:
    with engine.begin() as connection:
        connection.execute(
            insert(table), [{"id": n, "owner": "o", "token": f"t{n}" if n % 5 else None} for n in range(1, rows + 1)]
        )


def add_blind_index(engine: Engine, **options: Any) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction():
            Operations(context).add_blind_index("api_keys", {"token": CONTEXT}, **options)  # type: ignore[attr-defined]


def wrong(engine: Engine) -> dict[int, tuple[str | None, str | None]]:
    """Return the rows whose index is not the digest of their secret."""
    with engine.connect() as connection:
        found = connection.execute(select(keys.c.id, keys.c.token, keys.c.token_index)).all()
    digests = {row.id: row.token and digest_of(INDEX_KEY, CONTEXT, row.token) for row in found}
    return {row.id: (row.token, row.token_index) for row in found if row.token_index != digests[row.id]}


def find(engine: Engine, presented: str) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(select(keys.c.id).where(keys.c.token == presented)))


def test_an_index_is_added_and_filled(engine: Engine) -> None:
    fill(engine, 2500)
    add_blind_index(engine)
    assert wrong(engine) == {}
    with engine.begin() as connection:
        assert connection.scalar(select(func.count(keys.c.token_index))) == 2000
        # A digest of another row, one of an older secret, one without a secret, and none.
        connection.execute(text("UPDATE api_keys SET token_index = 'sealchemy-index:v1:x' WHERE id IN (1, 1500)"))
        connection.execute(update(old).where(old.c.id == 2).values(token="new"))
        connection.execute(update(old).where(old.c.id == 3).values(token=None))
        connection.execute(text("UPDATE api_keys SET token_index = NULL WHERE id = 4"))
    assert sorted(wrong(engine)) == [1, 2, 3, 4, 1500]
    add_blind_index(engine)
    assert wrong(engine) == {}


def test_encrypted_values_and_other_names(engine: Engine) -> None:
    attach_key_ring(engine, RING)
    fill(engine, 30, old_encrypting)
    add_blind_index(engine, index="digest", batch_size=7)
    add_blind_index(engine, index={"token": "lowered"}, normalize=normalize_email)
    with engine.connect() as connection:
        for number, digest, lower in connection.execute(text("SELECT id, digest, lowered FROM api_keys")):
            assert digest == lower == (digest_of(INDEX_KEY, CONTEXT, f"t{number}") if number % 5 else None)


def test_values_that_cannot_be_read_are_reported_and_left(engine: Engine) -> None:
    attach_key_ring(engine, RING)
    fill(engine, 3, old_encrypting)
    with engine.begin() as connection:
        connection.execute(insert(old), {"id": 7, "owner": "o", "token": "plain SENTINEL"})
        connection.execute(insert(old), {"id": 8, "owner": "o", "token": "sealchemy:v1:0123456789ab:AAAA"})
    with pytest.raises(RewriteError) as caught:
        add_blind_index(engine)
    assert caught.value.report.failed == 2
    assert "SENTINEL" not in str(caught.value)
    with engine.connect() as connection:
        indexed = connection.scalars(text("SELECT id FROM api_keys WHERE token_index IS NOT NULL"))
        assert sorted(indexed) == [1, 2, 3]


def test_refusals_come_before_the_table_is_touched(engine: Engine) -> None:
    attach_key_ring(engine, KeyRing(primary=PRIMARY))
    with pytest.raises(MissingKeyError, match="_INDEX_KEY"):
        add_blind_index(engine)
    attach_key_ring(engine, RING)
    with pytest.raises(ColumnDefinitionError, match="not among the columns"):
        add_blind_index(engine, index={"other": "x"})
    with engine.connect() as connection:
        assert not connection.execute(text("SELECT * FROM api_keys")).keys() & {"token_index"}


def _write_without_the_index(url: str, stop: threading.Event, count: list[int]) -> None:
    """Be an old release: replace secrets all over the table, and let their digests be."""
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": 60} if url.startswith("sqlite") else {})
    number = 0
    while not stop.is_set():
        number += 1
        try:
            with engine.begin() as connection:
                connection.execute(update(old).where(old.c.id == number * 37 % 2000 + 1).values(token=f"old-{number}"))
        except DBAPIError:
            continue
        count[0] += 1
    engine.dispose()


@pytest.mark.slow
def test_an_old_release_that_writes_meanwhile_leaves_no_stale_digest(engine: Engine, url: str) -> None:
    fill(engine, 2000)
    stop, count = threading.Event(), [0]
    writer = threading.Thread(target=_write_without_the_index, args=(url, stop, count))
    writer.start()
    try:
        start = time.monotonic()
        while time.monotonic() < start + 2 or (count[0] <= 20 and time.monotonic() < start + 60):
            try:
                add_blind_index(engine, batch_size=200)
            except RewriteError as error:
                assert "does not know the index" in str(error)
            # Whatever the index has by now, a plaintext is found by itself, and by nothing else.
            with engine.connect() as connection:
                for number, token in connection.execute(select(old.c.id, old.c.token).limit(20)):
                    if token is None:
                        continue
                    for row in find(engine, token):
                        assert row == number
    finally:
        stop.set()
        writer.join()
    assert count[0] > 20
    add_blind_index(engine)  # as the plan says: after the last process that does not know it
    assert wrong(engine) == {}


@pytest.mark.parametrize("url", ["postgresql", "mariadb"], indirect=True)
def test_rows_that_others_have_locked_are_filled_when_they_are_released(engine: Engine) -> None:
    fill(engine, 300)
    add_blind_index(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE api_keys SET token_index = NULL"))
    holder = engine.connect()
    holder.execute(update(old).where(old.c.id == 7).values(token="held"))
    released = threading.Timer(1.0, holder.commit)
    released.start()
    try:
        add_blind_index(engine, lock_timeout=10)
    finally:
        released.join()
        holder.close()
    assert wrong(engine) == {}
    assert find(engine, "held") == [7]


def test_lookups_in_each_stage(engine: Engine) -> None:
    fill(engine, 50)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE api_keys ADD COLUMN token_index VARCHAR(64)")
    # Before the backfill, rows have no digest.
    assert find(engine, "t7") == [7]
    add_blind_index(engine)
    with engine.begin() as connection:  # an old release replaces a secret
        connection.execute(update(old).where(old.c.id == 7).values(token="new"))
    assert find(engine, "t7") == []  # which its old digest still has
    assert find(engine, "new") == [7]
    with engine.begin() as connection:  # a new one does
        connection.execute(update(keys).where(keys.c.id == 8).values(token="newer"))
    assert find(engine, "newer") == [8]
    add_blind_index(engine)
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.execute(update(keys).where(keys.c.id == 9).values(token="encrypted"))
    assert [find(engine, item) for item in ("encrypted", "new", "t11", "t9")] == [[9], [7], [11], []]
    rewrite(ENCRYPT, engine, "api_keys", {"token": CONTEXT})
    assert [find(engine, item) for item in ("encrypted", "new", "t11", "t9")] == [[9], [7], [11], []]
    attach_key_ring(engine, RING)
    assert [find(engine, item) for item in ("encrypted", "new", "t11", "t9")] == [[9], [7], [11], []]
    with engine.connect() as connection:
        some = connection.scalars(select(keys.c.id).where(keys.c.token.in_(["new", "t11", "zzz"])).order_by(keys.c.id))
        assert some.all() == [7, 11]
        others = connection.scalar(select(func.count()).select_from(keys).where(keys.c.token != "new"))
        assert others == 39
    assert wrong(engine) == {}


STRANGE = ["", "\ud800", "\0", "sealchemy:v1:x", "sealchemy:", "sealchemy-index:v1:x", "x" * 100_000]


@pytest.mark.parametrize("stage", list(Rollout))
def test_whatever_a_stranger_presents_is_not_found(engine: Engine, stage: Rollout) -> None:
    add_blind_index(engine)
    attach_key_ring(engine, RING, rollout=stage)
    with engine.connect() as connection:
        for presented in STRANGE:
            for condition in (keys.c.token == presented, keys.c.token_index.in_([presented, "x"])):
                assert connection.scalars(select(keys.c.id).where(condition)).all() == []


def test_strict_sends_no_plaintext_to_compare(engine: Engine) -> None:
    """In stage strict no value is plaintext, so what was presented stays out of the server's log."""
    fill(engine, 2)
    add_blind_index(engine)
    seen: list[Any] = []
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    rewrite(ENCRYPT, engine, "api_keys", {"token": CONTEXT})
    attach_key_ring(engine, RING)
    event.listen(engine, "before_cursor_execute", lambda *arguments: seen.append(arguments[3]))
    assert find(engine, "t1") == [1]
    assert seen
    assert "t1" not in repr(seen)


def test_check_and_plan_name_an_index_that_is_not_filled(engine: Engine) -> None:
    fill(engine, 5)
    (found,) = plan(engine, metadata)
    assert found.indexes[0].missing is None
    said = list(steps([found], command_options="", prefix="KEYS"))
    assert "op.add_column('api_keys'" in said[0]
    assert next(n for n, item in enumerate(said) if "reindex" in item) < next(
        n for n, item in enumerate(said) if "sealchemy encrypt" in item
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE api_keys ADD COLUMN token_index VARCHAR(64)")
    assert plan(engine, metadata)[0].indexes[0].missing == 4
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    rewrite(ENCRYPT, engine, "api_keys", {"token": CONTEXT})
    attach_key_ring(engine, RING)
    with pytest.raises(UnsupportedOperationError, match="4 rows have no digest"):
        check_encryption(engine, metadata)
    add_blind_index(engine)
    check_encryption(engine, metadata)
    (found,) = plan(engine, metadata)
    assert found.indexes[0].missing == 0
    assert not any("index" in item for item in steps([found], command_options="", prefix="KEYS"))
    for ring, problem in (
        (KeyRing(primary=PRIMARY, index_key=Key.generate()), "the index key or the normalize function"),
        (KeyRing(primary=PRIMARY), "_INDEX_KEY"),
    ):
        attach_key_ring(engine, ring)
        with pytest.raises(SealchemyError, match=problem):
            check_encryption(engine, metadata)


@pytest.mark.parametrize("rows", [20_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_a_lookup_uses_the_index_of_the_database(
    postgresql_url: str, rows: int, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING)
    metadata = MetaData()
    table = Table(
        "many",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("token", EncryptedString(CONTEXT)),
        Column("token_index", BlindIndex(CONTEXT), unique=True),
    )
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO many (token, token_index)"
                f" SELECT 'x', 'sealchemy-index:v1:' || n FROM generate_series(1, {rows}) n"
            )
        )
        connection.execute(insert(table), {"token": "wanted"})
        connection.execute(text("ANALYZE many"))
        plans: list[str] = []

        @event.listens_for(connection, "before_cursor_execute", retval=True)
        def explain(*arguments: Any) -> tuple[str, Any]:
            return f"EXPLAIN {arguments[2]}", arguments[3]

        for condition in (
            table.c.token == "wanted",
            table.c.token.in_(["wanted", "other"]),
            table.c.token_index == "x",
        ):
            result = connection.execute(select(table.c.id).where(condition))
            plans.append("\n".join(row[0] for row in result.cursor.fetchall()))
    assert all("many_token_index_key" in item for item in plans), plans
    assert not any("Seq Scan" in item for item in plans), plans


def test_unique_in_the_plan_names_the_index(engine: Engine) -> None:
    with engine.begin() as connection:
        length = "(40)" if engine.dialect.name in {"mysql", "mariadb"} else ""
        connection.exec_driver_sql(f"CREATE UNIQUE INDEX one_token ON api_keys (token{length})")
        connection.exec_driver_sql("ALTER TABLE api_keys ADD COLUMN token_index VARCHAR(64)")
    (found,) = plan(engine, metadata)
    assert any("BlindIndex" in item.message for item in found.findings if item.code == "unique")


def test_the_plan_names_uniqueness_that_is_missing_until_it_exists(engine: Engine) -> None:
    fill(engine, 3)
    models = MetaData()
    Table(
        "api_keys",
        models,
        Column("id", Integer, primary_key=True),
        Column("token", EncryptedString(CONTEXT)),
        Column("token_index", BlindIndex(CONTEXT), unique=True),
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE api_keys ADD COLUMN token_index VARCHAR(64)")
    add_blind_index(engine)

    def left() -> tuple[list[str], list[str]]:
        found = plan(engine, models)
        lines = list(steps(found, command_options="", prefix="P"))
        return [item.name for item in found[0].findings if item.code == "not-unique"], [
            line for line in lines if "unique index" in line
        ]

    assert left() == (["token_index"], ["create the unique index that the models declare: api_keys.token_index"])
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE UNIQUE INDEX one_token ON api_keys (token_index)")
    assert left() == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "url", ["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.soak)], indirect=True
)
def test_a_run_that_is_killed_can_be_run_again(url: str, engine: Engine) -> None:
    fill(engine, 3000)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE api_keys ADD COLUMN token_index VARCHAR(64)")
    for _ in range(3):
        processes.start_and_kill(
            "indexing", 0.1, url=url, keys=[PRIMARY.reveal(), INDEX_KEY.reveal()], context=CONTEXT, batch_size=50
        )
    add_blind_index(engine)
    assert wrong(engine) == {}
