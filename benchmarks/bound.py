"""Measure what it costs to bind values to their row, against the same values without a row."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import create_engine, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sealchemy import EncryptedString, Key, KeyRing, Rollout, attach_key_ring
from sealchemy.rewrite import BIND, ENCRYPT, REKEY, rewrite

from .measure import seconds
from .queries import engine_for, values
from .results import Result, Section
from .rewriting import CONTEXTS, fill

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

Rows: TypeAlias = list[dict[str, Any]]

BIND_TO = ("user_id", "provider")
BOUND, UNBOUND = "bound", "unbound"


class Base(DeclarativeBase):
    """The models that are compared."""


class _Columns:
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    provider: Mapped[str]


class Bound(_Columns, Base):
    """Two bound values."""

    __tablename__ = "bench_bound"
    a: Mapped[str] = mapped_column(EncryptedString("bench.a", bind_to=BIND_TO))
    b: Mapped[str] = mapped_column(EncryptedString("bench.b", bind_to=BIND_TO))


class Unbound(_Columns, Base):
    """Two values that are not bound."""

    __tablename__ = "bench_unbound"
    a: Mapped[str] = mapped_column(EncryptedString("bench.a"))
    b: Mapped[str] = mapped_column(EncryptedString("bench.b"))


MODELS: dict[str, Any] = {BOUND: Bound, UNBOUND: Unbound}


def core_select(engine: Engine, model: Any, _rows: Rows) -> float:
    """Select two columns of every row."""
    with engine.connect() as connection:
        return seconds(lambda: connection.execute(select(model.__table__.c.a, model.__table__.c.b)).all())


def orm_select(engine: Engine, model: Any, _rows: Rows) -> float:
    """Select every entity."""
    with Session(engine) as session:
        return seconds(lambda: session.scalars(select(model)).all())


def core_insert(engine: Engine, model: Any, rows: Rows) -> float:
    """Insert rows with one statement."""
    with engine.connect() as connection:
        return seconds(lambda: connection.execute(insert(model.__table__), rows))


def orm_insert(engine: Engine, model: Any, rows: Rows) -> float:
    """Flush new objects."""
    with Session(engine) as session:
        session.add_all([model(**each) for each in rows])
        return seconds(session.flush)


def flush_update(engine: Engine, model: Any, rows: Rows) -> float:
    """Flush a new value of one column of every object."""
    with Session(engine) as session:
        for item, each in zip(session.scalars(select(model)).all(), rows, strict=True):
            item.a = each["b"]
        return seconds(session.flush)


STEPS: dict[str, tuple[Callable[[Engine, Any, Rows], float], float]] = {
    "Core SELECT": (core_select, 1.5),
    "ORM SELECT": (orm_select, 1.25),
    "Core INSERT": (core_insert, 2.1),
    "ORM INSERT": (orm_insert, 1.25),
    "UPDATE by a flush": (flush_update, 2.0),
}


def statements(url: str, size: int, rows: int, rounds: int) -> Section:
    """Measure each way to read and write, with two values a row; what is written is rolled back."""
    engine = engine_for(url)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    new = [{"user_id": number, "provider": "google", **each} for number, each in enumerate(values(size, rows))]
    for model in MODELS.values():
        with engine.begin() as connection:
            connection.execute(insert(model), new)
    section = Section(f"Values bound to their row, on {engine.dialect.name}, two of {size} characters, against unbound")
    for name, (call, target) in STEPS.items():
        found: dict[str, list[float]] = {key: [] for key in MODELS}
        for _ in range(rounds + 1):
            for key, model in MODELS.items():
                found[key].append(call(engine, model, new))
        taken = {key: statistics.median(times[1:]) for key, times in found.items()}  # the first round warms up
        detail = f"{taken[BOUND] * 1000:.1f} ms against {taken[UNBOUND] * 1000:.1f} ms for {rows} rows"
        section.results.append(Result(name, taken[BOUND] / taken[UNBOUND], target, detail=detail))
    Base.metadata.drop_all(engine)
    engine.dispose()
    return section


def in_place(url: str, rows: int) -> Section:
    """Measure rewriting: from plaintext, bound and unbound, and binding and rekeying afterwards."""
    engine, taken = create_engine(url), {}
    first, second = Key.generate(), Key.generate()
    for name, bind_to in ((UNBOUND, ()), (BOUND, BIND_TO)):
        fill(engine, rows)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE bench ADD user_id integer NOT NULL DEFAULT 7"))
            connection.execute(text("ALTER TABLE bench ADD provider text NOT NULL DEFAULT 'google'"))
        attach_key_ring(engine, KeyRing(primary=first), rollout=Rollout.MIGRATE)
        run = lambda step, bind_to=bind_to: rewrite(step, engine, "bench", CONTEXTS, bind_to=bind_to)  # noqa: E731
        taken["encrypt", name] = seconds(lambda: run(ENCRYPT))  # noqa: B023
        attach_key_ring(engine, KeyRing(primary=second, previous=[first]), rollout=Rollout.MIGRATE)
        taken["rekey", name] = seconds(lambda: run(REKEY))  # noqa: B023
        if name == UNBOUND:
            attach_key_ring(engine, KeyRing(primary=second), rollout=Rollout.BIND_MIGRATE)
            taken["bind", BOUND] = seconds(lambda: rewrite(BIND, engine, "bench", CONTEXTS, bind_to=BIND_TO))
    taken["bind", UNBOUND] = taken["rekey", UNBOUND]
    section = Section(f"Rewriting {rows} rows with bound values on {engine.dialect.name}, rate against unbound values")
    for step, other in (("encrypt", "encrypt"), ("rekey", "rekey"), ("bind", "rekey")):
        rate, base = rows / taken[step, BOUND], rows / taken[step, UNBOUND]
        detail = f"{rate:.0f} rows per second against {base:.0f}"
        section.results.append(Result(f"{step}, against {other}", rate / base, 0.8, at_most=False, detail=detail))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE bench"))
    engine.dispose()
    return section
