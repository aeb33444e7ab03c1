"""Measure lookups by value against those of a plain column, and what a blind index adds to an INSERT."""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, create_engine, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sealchemy import BlindIndex, EncryptedString, Key, KeyRing, attach_key_ring
from sealchemy._values.blind_index import digester

from .measure import seconds
from .queries import values
from .results import Result, Section

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

LOOKUPS = 500


class Base(DeclarativeBase):
    """The models that are compared."""


class Indexed(Base):
    """An encrypted value with a blind index."""

    __tablename__ = "bench_indexed"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(EncryptedString("bench.token"))
    token_index: Mapped[str] = mapped_column(BlindIndex("bench.token"), unique=True)


class Encrypted(Base):
    """The same without the index."""

    __tablename__ = "bench_encrypted"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(EncryptedString("bench.token"))


class Given(Base):
    """The same with digests that the application makes inline, in a plain column."""

    __tablename__ = "bench_given"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(EncryptedString("bench.token"))
    digest: Mapped[str] = mapped_column(String(64), unique=True)


class Plain(Base):
    """A value in plaintext, with an index of the database."""

    __tablename__ = "bench_plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(255), unique=True)


def lookups(url: str, rows: int, rounds: int) -> Section:
    """Measure finding one row of many by its value."""
    engine = _create(url)
    with engine.begin() as connection:  # the database makes the rows that are not looked for
        for table in ("bench_indexed (token, token_index)", "bench_plain (token)"):
            found = "'x', md5(n::text) || 'xxxxxxxxx'" if "index" in table else "repeat(md5(n::text), 6)"
            connection.execute(text(f"INSERT INTO {table} SELECT {found} FROM generate_series(1, {rows}) n"))
        wanted = [item["a"] for item in values(200, LOOKUPS)]
        for model in (Indexed, Plain):
            connection.execute(insert(model), [{"token": item} for item in wanted])
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    section = Section(f"Lookups by value in {rows:,} rows on {engine.dialect.name}, against those of a plain column")
    ways: dict[str, Callable[[Any, Any, str], Any]] = {
        "Core": lambda session, model, item: session.execute(
            select(model.id, model.token).where(model.token == item)
        ).one(),
        "ORM, filter_by": lambda session, model, item: session.scalars(select(model).filter_by(token=item)).one(),
    }
    for name, look in ways.items():
        found = {model: list[float]() for model in (Indexed, Plain)}
        for _ in range(rounds + 1):
            for model, times in found.items():
                with Session(engine) as session:
                    times.append(seconds(lambda: [look(session, model, item) for item in wanted]))  # noqa: B023
        taken = {model: statistics.median(times[1:]) / LOOKUPS for model, times in found.items()}
        detail = f"{taken[Indexed] * 1e6:.0f} us against {taken[Plain] * 1e6:.0f} us"
        section.results.append(Result(name, taken[Indexed] / taken[Plain], 1.2, detail=detail))
    _drop(engine)
    return section


def _ways(new: list[dict[str, str]]) -> dict[str, tuple[Callable[[Session, Any], float], int]]:
    """Return the ways to insert rows into the table of a model, and how many rows each inserts."""
    make = digester(os.urandom(32))

    def inline(item: dict[str, str]) -> dict[str, str]:
        return {**item, "digest": make(item["token"].encode())}

    def core(session: Session, model: Any) -> float:
        statement, connection = insert(model.__table__), session.connection()
        if model is Given:
            return seconds(lambda: connection.execute(statement, list(map(inline, new))))
        return seconds(lambda: connection.execute(statement, new))

    def one(session: Session, model: Any) -> float:
        statement, connection = insert(model.__table__), session.connection()
        prepare = inline if model is Given else dict
        return seconds(lambda: [connection.execute(statement, prepare(each)) for each in new[:LOOKUPS]])

    def orm(session: Session, model: Any) -> float:
        objects = [model(**each) for each in new]
        session.add_all(objects)

        def flush() -> None:
            for item in objects if model is Given else ():
                item.digest = make(item.token.encode())
            session.flush()

        return seconds(flush)

    return {"Core, many": (core, len(new)), "Core, one by one": (one, LOOKUPS), "ORM": (orm, len(new))}


def inserts(url: str, rows: int, rounds: int) -> Section:
    """Measure INSERT with a blind index, which is unique, against one of the same values without it."""
    engine = _create(url)
    new = [{"token": item["a"]} for item in values(200, rows)]
    section = Section(
        f"INSERT with a blind index on {engine.dialect.name}, one value of 200 characters, against without"
    )
    for name, (call, count) in _ways(new).items():
        found = {model: list[float]() for model in (Indexed, Encrypted, Given)}
        for _ in range(rounds + 1):
            for model, times in found.items():
                with Session(engine) as session:
                    times.append(call(session, model))
        taken = {model: statistics.median(times[1:]) for model, times in found.items()}
        detail = f"{taken[Indexed] / count * 1e6:.1f} us against {taken[Encrypted] / count * 1e6:.1f} us a row"
        target = None if name == "Core, many" else 1.4  # the hash and the database's index take as much alone
        section.results.append(Result(name, taken[Indexed] / taken[Encrypted], target, detail=detail))
        floor = taken[Given] / taken[Encrypted]
        section.results.append(
            Result(f"{name}, the hash inline", floor, detail="the hash, its parameter and the database's index")
        )
    _drop(engine)
    return section


def _create(url: str) -> Engine:
    engine = attach_key_ring(create_engine(url), KeyRing(primary=Key.generate(), index_key=Key.generate()))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    return engine


def _drop(engine: Engine) -> None:
    Base.metadata.drop_all(engine)
    engine.dispose()
