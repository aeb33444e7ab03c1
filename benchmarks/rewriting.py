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
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, text

from sealchemy import Key, KeyRing, attach_key_ring
from sealchemy.rewrite import ENCRYPT, REKEY, Options, rewrite

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
    targets = [0.30, None] if engine.dialect.name == "postgresql" else [None, 0.25]
    if engine.dialect.name == "postgresql":
        floors["the same batches in psycopg, without encryption"] = batches
        targets.append(None)
    taken: dict[str, list[float]] = {name: [] for name in (*floors, "encrypt", "rekey")}
    for number in range(rounds):
        for name, run in sorted(floors.items(), reverse=bool(number % 2)):
            fill(engine, rows)
            taken[name].append(seconds(lambda run=run: run(engine)))  # type: ignore[misc]
        fill(engine, rows)
        first, second = Key.generate(), Key.generate()
        attach_key_ring(engine, KeyRing(primary=first))
        taken["encrypt"].append(seconds(lambda: rewrite(ENCRYPT, engine, "bench", CONTEXTS)))
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


def batches(engine: Engine, size: int = 1000) -> None:
    """Lock, read, write and read back all rows in batches as a rewrite does, without its other work."""
    read = "SELECT id, access, refresh FROM bench WHERE id > %s ORDER BY id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED"
    write = (
        "UPDATE bench SET access = n.a, refresh = n.r FROM unnest(%b::integer[], %b::text[], %b::text[]) AS n(k, a, r)"
        " WHERE id = n.k AND id BETWEEN %s AND %s RETURNING id, access, refresh"
    )
    after = -1
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        while True:
            cursor = driver.cursor()
            rows = cursor.execute(read, (after, size)).fetchall()
            if not rows:
                break
            keys, accesses, refreshes = zip(*rows, strict=True)
            new = [[value + LONGER for value in values] for values in (accesses, refreshes)]
            cursor.execute(write, (list(keys), *new, keys[0], keys[-1])).fetchall()
            driver.commit()
            after = keys[-1]
        connection.execute(text(ANALYZE))


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
    section.results.append(Result("rate, against one process", one / many, 1.4, at_most=False, detail=detail))
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
    "converting each value, including its cryptography": ("_rewriting/run.py", "_changes"),
    "encrypting": ("_values/data_key.py", "encrypt"),
    "decrypting": ("_values/data_key.py", "decrypt"),
    "comparing the values read back, including their decryption": ("_rewriting/run.py", "_compare"),
    "the last pass, including its share of the above": ("_rewriting/run.py", "_classify_everything"),
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
