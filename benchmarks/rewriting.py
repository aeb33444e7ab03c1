"""Measure in-place rewrites, against a plain UPDATE, the least that any rewrite does."""

from __future__ import annotations

import cProfile
import json
import pstats
import secrets
import statistics
import subprocess
import sys
import time
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, or_, select, text
from sqlalchemy import update as update_rows
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sealchemy import EncryptedString, Key, KeyRing, Rollout, attach_key_ring
from sealchemy.rewrite import ENCRYPT, REKEY, Options, rewrite

from .floor import floor
from .measure import seconds
from .results import Result, Section

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

CONTEXTS = {"access": "bench.access", "refresh": "bench.refresh"}
SIZE = 200
TOUCH = "UPDATE bench SET access = access || '', refresh = refresh || ''"
LONGER = "x" * 146  # as many characters as encryption adds to 200
PAD = f"UPDATE bench SET access = access || '{LONGER}', refresh = refresh || '{LONGER}'"
ANALYZE = "ANALYZE bench"
BARE = "the same batches in psycopg, without encryption"
FLOOR = "these batches with inline encryption and a read-back"


def fill(engine: Engine, rows: int) -> None:
    """Create the table again, with two columns of 200-character values."""
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS bench"))
        connection.execute(text("CREATE TABLE bench (id INTEGER PRIMARY KEY, access TEXT, refresh TEXT)"))
        insert = text("INSERT INTO bench VALUES (:id, :access, :refresh)")
        for start in range(0, rows, 10_000):
            batch = [
                {"id": number, "access": token(), "refresh": token()}
                for number in range(start, min(start + 10_000, rows))
            ]
            connection.execute(insert, batch)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        vacuum(connection)


def vacuum(connection: Connection) -> None:
    """Finish pending work of the database, so that it does not run during the next measurement."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("VACUUM ANALYZE bench"))
        connection.execute(text("CHECKPOINT"))
    else:
        connection.execute(text("VACUUM"))


def token() -> str:
    """Return a random token."""
    return secrets.token_urlsafe(SIZE)[:SIZE]


def in_place(url: str, rows: int, rounds: int) -> Section:
    """Measure encrypting and rekeying, against UPDATEs of all rows that never leave the server."""
    engine = create_engine(url)
    floors: dict[str, Callable[[Engine], None]] = {
        "`UPDATE … SET c = c || ''` of all rows": partial(update, statement=TOUCH),
        "an UPDATE that makes every value as long as its ciphertext": partial(update, statement=PAD),
    }
    targets = [None, None] if engine.dialect.name == "postgresql" else [None, 0.10]
    if engine.dialect.name == "postgresql":
        floors[BARE] = batches
        floors[FLOOR] = partial(batches, proves=True)
        floors["an ORM bulk update by key, which encrypts and proves nothing"] = orm_bulk
        targets += [None, 0.8, 1.0]
    taken: dict[str, list[float]] = {name: [] for name in (*floors, "encrypt", "rekey")}
    used: list[float] = []
    for number in range(rounds):
        for name, run in sorted(floors.items(), reverse=bool(number % 2)):
            fill(engine, rows)
            taken[name].append(seconds(lambda run=run: run(engine)))  # type: ignore[misc]
        fill(engine, rows)
        first, second = Key.generate(), Key.generate()
        attach_key_ring(engine, KeyRing(primary=first))
        began = time.process_time()
        taken["encrypt"].append(seconds(lambda: rewrite(ENCRYPT, engine, "bench", CONTEXTS)))
        used.append((time.process_time() - began) / rows * 1e6)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            vacuum(connection)
        attach_key_ring(engine, KeyRing(primary=second, previous=[first]))
        taken["rekey"].append(seconds(lambda: rewrite(REKEY, engine, "bench", CONTEXTS)))
    rate = {name: rows / statistics.median(values) for name, values in taken.items()}
    section = Section(f"In-place rewrite on {engine.dialect.name}, {rows} rows, two columns of {SIZE} characters")
    for name, target in zip(floors, targets, strict=True):
        detail = f"{rate['encrypt']:.0f} rows per second against {rate[name]:.0f}"
        ratio = rate["encrypt"] / rate[name]
        section.results.append(Result(f"encrypt, against {name}", ratio, target, at_most=False, detail=detail))
    if BARE in rate:
        detail = "what one connection can reach"
        section.results.append(Result(f"{FLOOR}, against {BARE}", rate[FLOOR] / rate[BARE], detail=detail))
    wall = f"of {1e6 / rate['encrypt']:.1f} µs that it takes"
    name = "the client's processor time for a row that is encrypted"
    section.results.append(Result(name, statistics.median(used), detail=wall, unit="µs"))
    detail = f"{rate['rekey']:.0f} rows per second"
    section.results.append(
        Result("rekey, against encrypt", rate["rekey"] / rate["encrypt"], 0.8, at_most=False, detail=detail)
    )
    engine.dispose()
    return section


def update(engine: Engine, statement: str) -> None:
    """Update all rows in one transaction, and run ANALYZE as a rewrite does at its end."""
    with engine.begin() as connection:
        connection.execute(text(statement))
        connection.execute(text(ANALYZE))


def batches(engine: Engine, size: int = 1000, *, proves: bool = False) -> None:
    """Lock, read and write all rows in batches as a rewrite does, and read them back, without its other work.

    With `proves`, they are encrypted, read back as they will be committed, and decrypted, all inline.
    """
    read = "SELECT id, access, refresh FROM bench WHERE id > %s ORDER BY id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED"
    write = (
        "UPDATE bench SET access = n.a, refresh = n.r FROM unnest(%b::integer[], %b::text[], %b::text[]) AS n(k, a, r)"
        " WHERE id = n.k AND id BETWEEN %s AND %s" + ("" if proves else " RETURNING id, access, refresh")
    )
    read_back = "SELECT id, access, refresh FROM bench WHERE id BETWEEN %s AND %s ORDER BY id"
    encrypt, decrypt = floor()
    after = -1
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        while True:
            cursor = driver.cursor()
            rows = cursor.execute(read, (after, size)).fetchall()
            if not rows:
                break
            keys, accesses, refreshes = zip(*rows, strict=True)
            if proves:
                new = [list(map(encrypt, values)) for values in (accesses, refreshes)]
                cursor.execute(write, (list(keys), *new, keys[0], keys[-1]))
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
                _, *stored = zip(*cursor.execute(read_back, (keys[0], keys[-1])), strict=True)
                if [tuple(map(decrypt, values)) for values in stored] != [accesses, refreshes]:
                    raise AssertionError
            else:
                new = [[value + LONGER for value in values] for values in (accesses, refreshes)]
                cursor.execute(write, (list(keys), *new, keys[0], keys[-1])).fetchall()
            driver.commit()
            after = keys[-1]
        connection.execute(text(ANALYZE))


class Base(DeclarativeBase):
    """The base of the model."""


class Bench(Base):
    """The table of this benchmark, as an application declares it."""

    __tablename__ = "bench"
    id: Mapped[int] = mapped_column(primary_key=True)
    access: Mapped[str] = mapped_column(EncryptedString(CONTEXTS["access"]))
    refresh: Mapped[str] = mapped_column(EncryptedString(CONTEXTS["refresh"]))


def orm_bulk(engine: Engine, size: int = 1000) -> None:
    """Encrypt all rows as an application would that has only the column type."""
    own = create_engine(engine.url)
    attach_key_ring(own, KeyRing(primary=Key.generate()), rollout=Rollout.MIGRATE)
    after = -1
    with Session(own) as session:
        while True:
            query = select(Bench.id, Bench.access, Bench.refresh).where(Bench.id > after).order_by(Bench.id).limit(size)
            rows = session.execute(query).all()
            if not rows:
                break
            session.execute(update_rows(Bench), [row._asdict() for row in rows])
            session.commit()
            after = rows[-1].id
        session.execute(text(ANALYZE))
        session.commit()
    own.dispose()


def finished(url: str, rows: int, rounds: int) -> Section:
    """Measure crossing a table that is finished, with and without authentication."""
    engine = attach_key_ring(create_engine(url), KeyRing(primary=Key.generate()))
    fill(engine, rows)
    rewrite(ENCRYPT, engine, "bench", CONTEXTS)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        vacuum(connection)
    taken = [(seconds(lambda: rewrite(ENCRYPT, engine, "bench", CONTEXTS)), light_walk(engine)) for _ in range(rounds)]
    section = Section(f"Crossing a finished table on {engine.dialect.name}, {rows} rows, two values a row")
    for name, target, values in zip(
        ("with authentication of every value", "the light walk alone"),
        (150_000, 1_000_000),
        zip(*taken, strict=True),
        strict=True,
    ):
        rate = rows / statistics.median(values)
        section.results.append(Result(name, rate, target, at_most=False, unit="rows per second"))
    engine.dispose()
    return section


def longest(url: str, rows: int) -> Section:
    """Measure the longest statement of runs that go on where others stopped, in a table that was never analyzed."""
    engine = attach_key_ring(create_engine(url), KeyRing(primary=Key.generate()))
    fill(engine, rows)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM pg_statistic WHERE starelid = CAST('bench' AS regclass)"))
        connection.execute(text("ALTER TABLE bench SET (autovacuum_enabled = off)"))
    section = Section(f"Longest statement on {engine.dialect.name}, {rows} rows, without statistics")
    done, taken = 0, list[float]()

    def before(connection: Connection, *_: Any) -> None:
        connection.info["began"] = time.perf_counter()

    def after(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("ANALYZE"):
            taken.append(time.perf_counter() - connection.info["began"])

    for share in (0.01, 0.5, 0.99):
        rewrite(ENCRYPT, engine, "bench", CONTEXTS, options=Options(max_rows=round(rows * share) - done))
        event.listen(engine, "before_cursor_execute", before)
        event.listen(engine, "after_cursor_execute", after)
        rewrite(ENCRYPT, engine, "bench", CONTEXTS, options=Options(max_rows=5000))
        event.remove(engine, "before_cursor_execute", before)
        event.remove(engine, "after_cursor_execute", after)
        done = round(rows * share) + 5000
        section.results.append(Result(f"resumed at {share:.0%}", max(taken), 0.3, unit="seconds"))
        taken.clear()
    engine.dispose()
    return section


def light_walk(engine: Engine) -> float:
    """Return the seconds that it takes to find no pending row."""
    from sealchemy._databases.access import open_table  # noqa: PLC0415 - only here
    from sealchemy._databases.table import TableColumns  # noqa: PLC0415
    from sealchemy._rewriting.pages import Pages  # noqa: PLC0415
    from sealchemy._rewriting.walk import Walk  # noqa: PLC0415

    ring: Any = KeyRing(primary=Key.generate())
    with open_table(engine, TableColumns("bench", CONTEXTS)) as access:
        pages = Pages(access)
        is_pending = or_(*(ENCRYPT.pending(access.database, ring, item) for item in access.target.columns))
        return seconds(lambda: Walk(access, pages, 1000, Event()).has(is_pending))


def shards(url: str, rows: int, rounds: int, processes: int = 4) -> Section:
    """Measure encrypting in several parallel processes, against one process."""
    engine, key = create_engine(url), Key.generate().reveal()
    taken: dict[int, list[float]] = {1: [], processes: []}
    for _ in range(rounds):
        for count, times in taken.items():
            fill(engine, rows)
            times.append(run_shards(url, key, count))
    one, many = (statistics.median(values) for values in taken.values())
    detail = f"{rows / many:.0f} rows per second against {rows / one:.0f}"
    section = Section(f"{processes} shards in {processes} processes on {engine.dialect.name}, {rows} rows")
    section.results.append(Result("rate, against one process", one / many, at_most=False, detail=detail))
    engine.dispose()
    return section


def run_shards(url: str, key: str, count: int) -> float:
    """Return the seconds that all processes take together, counted from when the last of them is ready."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.rewriting"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    for number, process in enumerate(running, 1):
        process.stdin.write(json.dumps({"url": url, "key": key, "shard": [number, count]}) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        process.stdout.readline()  # type: ignore[union-attr]
    start = time.perf_counter()
    for process in running:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
    for process in running:
        if process.wait() != 0:
            message = "a process of the benchmark failed"
            raise RuntimeError(message)
        process.stdout.close()  # type: ignore[union-attr]
    return time.perf_counter() - start


def one_shard() -> None:
    """Wait for the start signal and encrypt one shard."""
    given = json.loads(sys.stdin.readline())
    engine = attach_key_ring(create_engine(given["url"]), KeyRing(primary=Key.parse(given["key"])))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    print("ready", flush=True)
    sys.stdin.readline()
    rewrite(ENCRYPT, engine, "bench", CONTEXTS, options=Options(shard=tuple(given["shard"])))


def large(url: str, small: int, rows: int) -> Section:
    """Compare the rate of one large table with that of small tables before and after it."""
    engine = attach_key_ring(create_engine(url), KeyRing(primary=Key.generate()))
    rates: dict[int, list[float]] = {small: [], rows: []}
    for size in (small, small, small, rows, small, small, small):
        fill(engine, size)
        rates[size].append(size / seconds(lambda: rewrite(ENCRYPT, engine, "bench", CONTEXTS)))
    before, after = (statistics.median(values) for values in rates.values())
    section = Section(f"{rows} rows on {engine.dialect.name}")
    spread = f"{min(rates[small]):.0f} to {max(rates[small]):.0f}"
    detail = f"{after:.0f} rows per second in one run, against {before:.0f}, the median of six runs ({spread})"
    section.results.append(
        Result(f"rate, against the rate at {small} rows", after / before, 0.85, at_most=False, detail=detail)
    )
    engine.dispose()
    return section


PHASES = {
    "waiting for the server and reading its responses": ("psycopg/connection.py", "wait"),
    "the statements that write, including that wait": ("_databases/postgresql.py", "write"),
    "fetching rows as columns, including that wait": ("_rewriting/pages.py", "fetch"),
    "encrypting": ("_rewriting/columns.py", "convert"),
    "decrypting the values read back": ("_rewriting/columns.py", "authenticate"),
    "the light walk": ("_rewriting/walk.py", "has"),
}


def profile(url: str, rows: int) -> Section:
    """Profile an in-place encryption with cProfile, whose overhead makes Python look slower."""
    engine = attach_key_ring(create_engine(url), KeyRing(primary=Key.generate()))
    fill(engine, rows)
    profiler = cProfile.Profile()
    profiler.runcall(rewrite, ENCRYPT, engine, "bench", CONTEXTS)
    stats: Any = pstats.Stats(profiler)
    section = Section(f"Profile of encrypting {rows} rows in place on {engine.dialect.name} (parts overlap)")
    for name, (file, function) in PHASES.items():
        found = [value for key, value in stats.stats.items() if key[0].endswith(f"/{file}") and key[2] == function]
        spent = sum(value[3] for value in found)
        detail = f"{spent / rows * 1e6:.1f} µs per row"
        section.results.append(Result(name, spent / stats.total_tt * 100, unit="% of the time", detail=detail))
    engine.dispose()
    return section


if __name__ == "__main__":
    one_shard()
