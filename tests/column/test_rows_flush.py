"""Flushes of objects that are loaded, in part or again, while they are flushed."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    registry,
    relationship,
    selectin_polymorphic,
)
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeDecorator

from sealchemy import (
    ColumnDefinitionError,
    DecryptionError,
    EncryptedString,
    Key,
    KeyRing,
    UnsupportedOperationError,
    attach_key_ring,
)
from sealchemy._column.rows import parameters as rows_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Dialect, Engine

UNSYNCHRONIZED = {"synchronize_session": False}


class Base(DeclarativeBase):
    """The tables of this file."""


class Owner(Base):
    __tablename__ = "flush_owners"

    id: Mapped[int] = mapped_column(primary_key=True)
    accounts: Mapped[list[Loaded]] = relationship(back_populates="owner", lazy="selectin")


class Loaded(Base):
    """Loaded with its relationship, and versioned."""

    __tablename__ = "flush_loaded"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("flush_owners.id"))
    kind: Mapped[str] = mapped_column(String(16), default="loaded")
    version: Mapped[int] = mapped_column(default=1)
    note: Mapped[str | None] = mapped_column(String(16))
    token: Mapped[str | None] = mapped_column(EncryptedString("flush.token", bind_to=("owner_id",)))
    other: Mapped[str | None] = mapped_column(EncryptedString("flush.other", bind_to=("owner_id",)))
    owner: Mapped[Owner] = relationship(back_populates="accounts", lazy="joined")

    __mapper_args__: dict[str, Any] = {  # noqa: RUF012 - as documented
        "polymorphic_on": "kind",
        "polymorphic_identity": "loaded",
        "version_id_col": version,
    }


class Joined(Loaded):
    """With a secret in a table of its own."""

    __tablename__ = "flush_joined"

    id: Mapped[int] = mapped_column(ForeignKey("flush_loaded.id"), primary_key=True)
    place: Mapped[str] = mapped_column(String(16))
    seal: Mapped[str | None] = mapped_column(EncryptedString("flush.seal", bind_to=("place",)))

    __mapper_args__: dict[str, Any] = {"polymorphic_identity": "joined"}  # noqa: RUF012 - as documented


@pytest.fixture
def filled(engine: Engine) -> Engine:
    attach_key_ring(engine, KeyRing(primary=Key.generate()))
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Owner(id=1), Owner(id=2)])
        session.flush()
        session.add_all(Loaded(id=number, owner_id=1, token=f"t{number}", other="o") for number in (1, 2, 3))
        session.add(Joined(id=4, owner_id=1, token="t4", other="o", seal="s", place="here"))
        session.commit()
    return engine


def test_an_expired_object_is_written(filled: Engine) -> None:
    with Session(filled) as session:
        found = session.scalars(select(Loaded).order_by(Loaded.id)).all()
        for item in found:
            item.token = "first"
        session.commit()  # after which everything is loaded again
        for number, item in enumerate(found):
            item.token = f"new {number}"
            item.note = "n" if number % 2 else None
        session.commit()
        assert [item.token for item in found] == ["new 0", "new 1", "new 2", "new 3"]
    with Session(filled) as session:
        assert session.scalars(select(Loaded.token).order_by(Loaded.id)).all() == ["new 0", "new 1", "new 2", "new 3"]
        assert set(session.scalars(select(Loaded.other))) == {"o"}


@pytest.mark.parametrize("sets_token", [False, True])
def test_an_expired_object_is_moved(filled: Engine, sets_token: bool) -> None:
    with Session(filled) as session:
        found = session.scalars(select(Loaded).order_by(Loaded.id)).all()
        session.commit()
        for item in found:
            item.owner_id = 2
            if sets_token:
                item.token = "moved"
        joined = session.get_one(Joined, 4)
        joined.place = "there"
        session.commit()
        assert (joined.seal, joined.token) == ("s", "moved" if sets_token else "t4")
        assert [item.other for item in found] == ["o"] * 4


def test_both_tables_of_an_expired_object_are_written(filled: Engine) -> None:
    with Session(filled) as session:
        joined = session.get_one(Joined, 4)
        session.commit()
        joined.token, joined.seal = "T", "S"
        session.commit()
        assert (joined.token, joined.seal) == ("T", "S")


def test_a_listener_may_read_an_expired_object(filled: Engine) -> None:
    seen: list[Any] = []

    def read(_mapper: object, _connection: object, target: Loaded) -> None:
        seen.append((target.note, target.owner_id, target.version))

    event.listen(Loaded, "before_update", read)
    try:
        with Session(filled) as session:
            found = session.get_one(Loaded, 1)
            session.commit()
            found.token = "new"
            session.commit()
            assert (found.token, len(seen)) == ("new", 1)
    finally:
        event.remove(Loaded, "before_update", read)


def test_labels_of_some_columns_do_not_hide_the_row(filled: Engine) -> None:
    labelled = select(Loaded.token.label("tok"), Loaded.owner_id, Loaded.id).subquery()
    twice = select(labelled.c.tok.label("again"), labelled.c.owner_id.label("own"), labelled.c.id).cte()
    part = select(Loaded.token, Loaded.owner_id.label("own"), Loaded.id).subquery()
    queries = [select(labelled.c.tok).order_by(labelled.c.id), select(twice.c.again).order_by(twice.c.id)]
    queries.append(select(part.c.token).order_by(part.c.id))
    with Session(filled) as session:
        for query in queries:
            assert session.scalars(query).all() == ["t1", "t2", "t3", "t4"]


def _upserts(dialect: Any, **index: Any) -> Any:
    class Other(DeclarativeBase):
        pass

    class Row(Other):
        __tablename__ = "flush_upserts"

        id: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]
        p: Mapped[str] = mapped_column(String(16))
        token: Mapped[str | None] = mapped_column(EncryptedString("flush.upsert", bind_to=("n", "p")))

    columns = index.pop("columns", lambda row: (row.n, row.p))
    Index("uq_inexact", *columns(Row), unique=True, **index)
    statement = dialect.insert(Row).values(id=5, n=1, p="goofy", token="x")
    if dialect is mysql:
        return statement.on_duplicate_key_update(token=statement.inserted.token)
    return statement.on_conflict_do_update(set_={"token": statement.excluded.token})


@pytest.mark.parametrize(
    ("dialect", "index"),
    [
        (sqlite, {"columns": lambda row: (row.n, func.lower(row.p))}),
        (sqlite, {"columns": lambda row: (row.n, row.p.collate("NOCASE"))}),
        (mysql, {"mysql_length": {"p": 3}}),
        (mysql, {"mariadb_length": 3}),
    ],
    ids=["expression", "collation", "prefix", "prefix of all"],
)
def test_an_upsert_that_may_find_a_similar_row_is_refused(dialect: Any, index: dict[str, Any]) -> None:
    url = "sqlite://" if dialect is sqlite else "mariadb+pymysql://nobody@127.0.0.1:1/none"
    engine = attach_key_ring(create_engine(url), KeyRing(primary=Key.generate()))
    with pytest.raises(UnsupportedOperationError, match="may find a row with other values"):
        _upserts(dialect, **index).compile(engine)


def test_statements_do_not_wait_for_the_garbage_collector(filled: Engine) -> None:
    rows = [{"id": 100 + number, "owner_id": 1, "token": "x"} for number in range(2)]
    gc.collect()
    gc.disable()
    try:
        before = sum(issubclass(type(item), SQLCompiler) for item in gc.get_objects())
        for _ in range(20):
            insert(Loaded.__table__).values(rows).compile(filled).construct_params()
        after = sum(issubclass(type(item), SQLCompiler) for item in gc.get_objects())
        assert after - before < 20
    finally:
        gc.enable()


def bound_table(metadata: MetaData, name: str = "bound", **columns: Any) -> Table:
    made = [Column(key, type_, nullable=False) for key, type_ in columns.items()]
    secret = Column("token", EncryptedString("flush.bound", bind_to=tuple(columns)))
    return Table(name, metadata, Column("id", Integer, primary_key=True), *made, secret)


class LowerCase(TypeDecorator[str]):
    """A part that is not stored as it is given."""

    impl = String(16)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value and value.lower()


def test_a_part_that_its_type_converts_can_move(filled: Engine) -> None:
    table = bound_table(MetaData(), login=LowerCase())
    mapped = type("Mapped", (), {})
    registry().map_imperatively(mapped, table)
    table.metadata.create_all(filled)
    with Session(filled) as session:
        item = mapped()
        item.id, item.login, item.token = 1, "Ada", "x"
        session.add(item)
        session.flush()
        item.login = "Bob"
        session.flush()
        session.expire_all()
        assert (item.login, item.token) == ("bob", "x")


@pytest.mark.parametrize("has_key", [False, True])
def test_a_mapper_may_have_another_key_than_its_table(filled: Engine, has_key: bool) -> None:
    metadata = MetaData()
    key = [Column("id", Integer, primary_key=True, autoincrement=False)] if has_key else []
    table = Table(
        "other_key",
        metadata,
        *key,
        Column("name", Integer, nullable=False),
        Column("owner", Integer, nullable=False),
        Column("token", EncryptedString("flush.key", bind_to=("owner",))),
    )
    mapped = type("Mapped", (), {})
    registry().map_imperatively(mapped, table, primary_key=[table.c.name])
    metadata.create_all(filled)
    with Session(filled) as session:
        session.execute(insert(table), [{"name": 1, "owner": 1, "token": "x", **({"id": 5} if has_key else {})}])
        item = session.get_one(mapped, 1)
        item.owner = 2
        session.commit()
        assert item.token == "x"


def test_a_second_class_cannot_bind_the_same_column_to_others() -> None:
    class Base(DeclarativeBase):
        pass

    table = Table(
        "two",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("owner", Integer, nullable=False),
        Column("buyer", Integer, nullable=False),
        Column("token", EncryptedString("flush.two", bind_to=("owner",))),
    )
    type("First", (Base,), {"__table__": table})
    with pytest.raises(ColumnDefinitionError, match="another class binds it to"):
        type("Second", (Base,), {"__table__": table, "owner": table.c.buyer, "other": table.c.owner})


def test_values_of_two_tables_cannot_be_swapped(filled: Engine) -> None:
    """Not even with one context, if what they are bound to differs; see `EncryptedString` for the same."""
    metadata = MetaData()
    one, two = (bound_table(metadata, name, owner=Integer(), place=String(16)) for name in ("one", "two"))
    metadata.create_all(filled)
    with filled.begin() as connection:
        connection.execute(insert(one), {"id": 1, "owner": 1, "place": "a", "token": "victim"})
        connection.execute(insert(two), {"id": 1, "owner": 2, "place": "evil", "token": "mine"})
        connection.execute(text("UPDATE two SET token = (SELECT token FROM one)"))
        with pytest.raises(DecryptionError):
            connection.execute(select(two)).all()


def test_a_swapped_secret_of_a_joined_table_is_an_error(filled: Engine) -> None:
    with Session(filled) as session:
        session.add(Joined(id=5, owner_id=1, token="t5", seal="s5", place="there"))
        session.commit()
        session.execute(
            text("UPDATE flush_joined SET seal = (SELECT seal FROM flush_joined WHERE id = 4) WHERE id = 5")
        )
        for query in (
            select(Joined),
            select(Joined.seal),
            select(Loaded).options(selectin_polymorphic(Loaded, [Joined])),
        ):
            with pytest.raises(DecryptionError, match=r"flush\.seal"):
                session.execute(query.where(Loaded.id == 5)).all()


@pytest.mark.parametrize("makes_join", [False, True])
def test_an_update_of_several_tables_is_refused(makes_join: bool) -> None:
    """MySQL writes to all of them, and SQLAlchemy tells their columns apart by name alone."""
    metadata = MetaData()
    mine = bound_table(metadata, "mine", owner=Integer(), place=String(16, collation="utf8mb4_bin"))
    other = Table("other", metadata, Column("id", Integer, primary_key=True), Column("place", String(16)))
    where = (mine.c.id == other.c.id, mine.c.owner == 1, mine.c.place == "a")
    target = mine.join(other, mine.c.id == other.c.id) if makes_join else mine
    engine = create_engine("mariadb+pymysql://nobody@127.0.0.1:1/none")
    attach_key_ring(engine, KeyRing(primary=Key.generate()))
    for values in ({other.c.place: "new", mine.c.token: "T"}, {other.c.place: "new"}):
        with pytest.raises(UnsupportedOperationError, match="an UPDATE of several tables"):
            update(target).where(*where).values(values).compile(engine)


def interrupted(engine: Engine, call: Callable[[], None]) -> None:
    """Call something once, when the next flush has read the secrets that are to move."""
    calls = [call]

    def at_the_update(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE flush_loaded SET owner_id") and calls:
            calls.pop()()

    event.listen(engine, "before_cursor_execute", at_the_update)


@pytest.mark.slow
def test_a_secret_that_is_written_while_its_row_moves_waits(filled: Engine) -> None:
    """Without the lock, the token that was read before would replace the new one."""
    waited: list[str] = []

    def write() -> None:
        with Session(filled) as other:
            try:
                if filled.dialect.name == "postgresql":
                    other.execute(text("SET LOCAL lock_timeout = '200ms'"))
                own = (Loaded.id == 1, Loaded.owner_id == 1)
                other.execute(update(Loaded).where(*own).values(token="newer"), execution_options=UNSYNCHRONIZED)
                other.commit()
            except OperationalError as error:
                waited.append(type(error).__name__)

    filled.dispose()
    with Session(filled) as session:
        found = session.get_one(Loaded, 1)
        interrupted(filled, write)
        found.owner_id = 2
        session.commit()
        assert (found.token, waited) == ("t1", ["OperationalError"])


def test_two_sessions_that_move_a_row_by_the_same_part(filled: Engine) -> None:
    """The second one read the row before the first one moved it."""
    table = bound_table(MetaData(), owner=Integer())
    mapped = type("Mapped", (), {})
    registry().map_imperatively(mapped, table)
    table.metadata.create_all(filled)
    with filled.begin() as connection:
        connection.execute(insert(table), {"id": 1, "owner": 1, "token": "x"})
    with Session(filled, expire_on_commit=False) as session:
        item = session.get_one(mapped, 1)
        session.commit()
        with Session(filled) as other:
            other.get_one(mapped, 1).owner = 2
            other.commit()
        item.owner = 3
        with pytest.raises(StaleDataError, match="moved or deleted by another session"):
            session.commit()
    with Session(filled) as session:
        found = session.get_one(mapped, 1)
        assert (found.owner, found.token) == (2, "x")


def test_threads_that_use_a_new_statement_at_once(
    postgresql_url: str, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them makes the functions for its parameters, and the others do not see them half made."""
    made, table = rows_parameters._processor, bound_table(MetaData(), owner=Integer())

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.2)
        return made(*arguments)

    engine = make_engine(postgresql_url)
    table.metadata.create_all(engine)
    monkeypatch.setattr(rows_parameters, "_processor", slowly)
    start = threading.Barrier(4)

    def write(number: int) -> None:
        with engine.begin() as connection:
            start.wait()
            time.sleep(number * 0.05)
            connection.execute(insert(table), {"id": number, "owner": 1, "token": f"t{number}"})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with engine.connect() as connection:
        assert set(connection.scalars(select(table.c.token))) == {f"t{number}" for number in range(4)}
