"""Measure a rewrite on several connections, and in two processes."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from sealchemy import Key, KeyRing, attach_key_ring
from sealchemy.rewrite import ENCRYPT, Options, rewrite

from .measure import seconds
from .results import Result, Section
from .rewriting import BARE, CONTEXTS, TOUCH, batches, fill, update

if TYPE_CHECKING:
    from collections.abc import Callable

ONE = "one connection"
SEVERAL = "three connections"
JOBS = "two jobs"
TOUCHED = "`UPDATE … SET c = c || ''` of all rows"
WAL = "write-ahead log of a row"
GROWTH = "growth of the table's files by a row, before vacuum"
CLOCK_TICKS = 100  # a second, on Linux


def parallel(url: str, rows: int, rounds: int) -> Section:
    """Measure encrypting on one connection, on three, and in two processes, side by side."""
    ring = KeyRing(primary=Key.generate())
    engine = attach_key_ring(create_engine(url), ring)
    single = attach_key_ring(create_engine(url, pool_size=1, max_overflow=0), ring)
    calls: dict[str, Callable[[], Any]] = {
        ONE: lambda: rewrite(ENCRYPT, single, "bench", CONTEXTS),
        SEVERAL: lambda: rewrite(ENCRYPT, engine, "bench", CONTEXTS),
        JOBS: lambda: rewrite(ENCRYPT, engine, "bench", CONTEXTS, options=Options(jobs=2)),
        BARE: lambda: batches(engine),
        TOUCHED: lambda: update(engine, TOUCH),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    used: dict[str, list[float]] = {name: [] for name in calls}
    sizes: dict[str, list[float]] = {WAL: [], GROWTH: []}
    started = []
    for number in range(rounds):
        for name, call in sorted(calls.items(), reverse=bool(number % 2)):
            fill(engine, rows)
            engine.dispose()
            before, size = server_seconds(url), sizes_of(url)
            taken[name].append(seconds(call))
            engine.dispose()
            single.dispose()
            used[name].append(server_seconds(url) - before)
            for what, value in sizes_of(url).items() if name == ONE else ():
                sizes[what].append((value - size[what]) / rows)
        fill(engine, 1000)
        started.append(seconds(calls[JOBS]))
    median = {name: statistics.median(values) for name, values in taken.items()}
    start = statistics.median(started)
    rate = {name: rows / value for name, value in median.items()}
    rate[JOBS] = rows / (median[JOBS] - start)
    section = Section(f"Connections and processes on postgresql, {rows} rows, two columns")

    def add(name: str, other: str, target: float | None) -> None:
        detail = f"{rate[name]:.0f} rows per second against {rate[other]:.0f}"
        section.results.append(
            Result(f"{name}, against {other}", rate[name] / rate[other], target, at_most=False, detail=detail)
        )

    add(ONE, BARE, None)  # bounded by what psycopg reaches with the encryption inline, see the rewrite
    add(SEVERAL, BARE, 0.65)
    add(SEVERAL, ONE, 1.15)
    add(JOBS, ONE, 1.6)
    add(JOBS, SEVERAL, None)
    add(JOBS, TOUCHED, 0.27)
    server = {name: statistics.median(values) / rows * 1e6 for name, values in used.items()}
    detail = f"{server[JOBS]:.1f} µs a row against {server[ONE]:.1f}"
    section.results.append(
        Result(f"the server's processor time: {JOBS}, against {ONE}", server[JOBS] / server[ONE], 1.15, detail=detail)
    )
    section.results.append(Result("the start of two jobs, which is subtracted", start, unit="s"))
    for name in (ONE, SEVERAL, JOBS):
        section.results.append(Result(f"a billion rows on {name}", 1e9 / rate[name] / 3600, unit="hours"))
    for name, values in sizes.items():
        section.results.append(Result(name, statistics.median(values), unit="bytes"))
    engine.dispose()
    return section


def sizes_of(url: str) -> dict[str, float]:
    """Return the bytes of WAL that the server has written, and those of the table in its files."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        wal = connection.scalar(text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
        size = connection.scalar(text("SELECT pg_total_relation_size('bench')"))
    return {WAL: float(wal or 0), GROWTH: float(size or 0)}


def server_seconds(url: str) -> float:
    """Return the processor time of the server's sessions that have ended, once all of them have."""
    engine = create_engine(url, poolclass=NullPool)
    sessions = text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
    with engine.connect() as connection:
        pid = str(connection.scalar(text("SELECT pg_read_file('postmaster.pid')"))).split()[0]
    is_over = False
    while not is_over:
        time.sleep(0.2)  # the server counts the time of a session when its process has ended
        with engine.connect() as connection:
            is_over = connection.scalar(sessions) == 1
    time.sleep(0.2)
    _, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    user, system = fields.split()[13:15]  # of its children
    return (int(user) + int(system)) / CLOCK_TICKS
