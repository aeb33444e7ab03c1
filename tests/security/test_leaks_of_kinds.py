"""The leak matrix for JSON and bytes: everything that prints a value, for every way to pass one."""

from __future__ import annotations

import logging
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import CheckConstraint, Integer, String, create_engine, insert, inspect, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from sealchemy import EncryptedBytes, EncryptedJSON, Key, KeyRing, Rollout, SealchemyError, attach_key_ring
from tests.support.leaks import SENTINEL, frames_of, said_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())


class Failing(TypeDecorator[int]):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: object, dialect: object) -> int | None:
        if value == "fails":
            message = "another column's bind"
            raise ValueError(message)
        return value  # type: ignore[return-value]


class Base(MappedAsDataclass, DeclarativeBase):
    pass


class Grant(Base):
    __tablename__ = "leaks"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    document: Mapped[Any] = mapped_column(EncryptedJSON("leaks.document"), default=None, nullable=True)
    data: Mapped[bytes | None] = mapped_column(EncryptedBytes("leaks.data"), default=None)
    name: Mapped[str | None] = mapped_column(String(50), unique=True, default=None)
    number: Mapped[int | None] = mapped_column(Failing, default=None)
    __table_args__ = (CheckConstraint("name <> 'bad'", name="leaks_name"),)


VALUES: dict[str, Callable[[], Any]] = {
    "document": lambda: {"token": SENTINEL, "nested": [[SENTINEL], (SENTINEL,), {"a": {"b": SENTINEL}}]},
    "data": SENTINEL.encode,
}


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=VALUES)
def column(request: pytest.FixtureRequest) -> str:
    return request.param


def opened(url: str, rollout: Rollout = Rollout.STRICT, **options: Any) -> Engine:
    engine = attach_key_ring(create_engine(url, **options), RING, rollout=rollout)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Grant(document=VALUES["document"](), data=VALUES["data"](), name="there"))
        session.commit()
    return engine


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = opened(url)
    yield engine
    engine.dispose()


def assigned(engine: Engine, column: str, value: Any, **others: Any) -> None:
    with Session(engine) as session:
        session.add(Grant(**{column: value}, **others))
        session.flush()


def loaded(engine: Engine, column: str, value: Any, **others: Any) -> None:
    with Session(engine) as session:
        found = getattr(session.scalars(select(Grant).where(Grant.name == "there")).one(), column)
        session.add(Grant(**{column: [found, value] if value is None else found}, **others))
        session.flush()


def core(engine: Engine, column: str, value: Any, **others: Any) -> None:
    with engine.connect() as connection:
        connection.execute(insert(Grant), {column: value, **others})


def values(engine: Engine, column: str, value: Any, **others: Any) -> None:
    with engine.connect() as connection:
        connection.execute(insert(Grant).values({column: value, **others}))


def updated(engine: Engine, column: str, value: Any, **others: Any) -> None:
    with Session(engine) as session:
        session.execute(update(Grant).where(Grant.name == "there").values({column: value, "name": None, **others}))


FAILURES: dict[str, dict[str, Any]] = {
    "another column": {"number": "fails"},
    "CHECK": {"name": "bad"},
    "DataError": {"number": 2**70},
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("way", [assigned, loaded, core, values, updated])
def test_exceptions_show_no_value(engine: Engine, column: str, way: Any, failure: str) -> None:
    with pytest.raises((SQLAlchemyError, OverflowError)) as caught:
        way(engine, column, VALUES[column](), **FAILURES[failure])
    assert SENTINEL[5:-5] not in said_by(caught.value)
    if way in {assigned, loaded}:  # in the others, SQLAlchemy's frames hold what the caller passed
        assert SENTINEL[5:-5] not in frames_of(caught.value)


WRONG: dict[str, Callable[[], Any]] = {
    "document": lambda: {"token": SENTINEL, "wrong": [{SENTINEL}], "other": object()},
    "data": lambda: SENTINEL,
}


@pytest.mark.parametrize("way", [assigned, core, values, updated])
def test_refused_values_do_not_show(engine: Engine, column: str, way: Any) -> None:
    with pytest.raises(SealchemyError) as caught:
        way(engine, column, WRONG[column]())
    assert SENTINEL[5:-5] not in said_by(caught.value)
    assert SENTINEL[5:-5] not in frames_of(caught.value, package="sealchemy")


def test_damaged_values_do_not_show(engine: Engine, column: str) -> None:
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE leaks SET {column} = :value"), {"value": f"{SENTINEL} is no JSON"})
    with Session(engine) as session, pytest.raises(SealchemyError) as caught:
        session.scalars(select(getattr(Grant, column))).all()
    assert SENTINEL[5:-5] not in said_by(caught.value)
    assert SENTINEL[5:-5] not in frames_of(caught.value, package="sealchemy")


@pytest.mark.parametrize("stage", Rollout)
@pytest.mark.parametrize("way", [assigned, core, values])
def test_debug_log_shows_no_value(
    url: str, column: str, way: Any, stage: Rollout, caplog: pytest.LogCaptureFixture
) -> None:
    engine = opened(url, stage, echo="debug")
    way(engine, column, VALUES[column]())
    with Session(engine) as session:
        assert session.scalars(select(getattr(Grant, column))).all()
    engine.dispose()
    logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)
    assert "INSERT INTO leaks" in caplog.text
    assert SENTINEL[5:-5] not in caplog.text


def test_reprs_show_no_value(engine: Engine, column: str) -> None:
    with Session(engine) as session:
        grant = Grant(**{column: VALUES[column]()})
        session.add(grant)
        history = inspect(grant).attrs[column].history
        rows = session.execute(select(getattr(Grant, column))).all()
        shown = repr((grant, vars(grant), history, rows, session.new, str(getattr(grant, column))[:0]))
        assert SENTINEL[5:-5] not in shown
        setattr(grant, column, VALUES[column]())
        assert SENTINEL[5:-5] not in repr((grant, inspect(grant).attrs[column].history))
        assert SENTINEL.encode() in pickle.dumps(grant)  # as SECURITY.md says


@pytest.mark.parametrize("way", [core, values])
def test_compiled_statements_show_no_value(engine: Engine, column: str, way: Any) -> None:
    statement = insert(Grant).values({column: VALUES[column]()})
    for options in ({}, {"literal_binds": True}):
        compiled = statement.compile(engine, compile_kwargs=options)
        assert SENTINEL[5:-5] not in str(compiled)
        assert SENTINEL[5:-5] not in repr(compiled.construct_params() if options else "")
