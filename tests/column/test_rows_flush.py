"""Flushes of objects that are loaded, in part or again, while they are flushed."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import ForeignKey, Index, String, create_engine, event, func, insert, select
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.sql.compiler import SQLCompiler

from sealchemy import EncryptedString, Key, KeyRing, UnsupportedOperationError, attach_key_ring

if TYPE_CHECKING:
    from sqlalchemy import Engine


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
