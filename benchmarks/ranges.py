"""Measure how ranges of a table are found, and how even they are."""

from __future__ import annotations

import statistics

from sqlalchemy import create_engine, text

from sealchemy._databases.access import open_table
from sealchemy._databases.table import TableColumns
from sealchemy._rewriting.pages import Pages
from sealchemy._rewriting.ranges import ends
from sealchemy.rewrite import split

from .measure import seconds
from .results import Result, Section

RANGES = 64
KEYS = {
    "integer": ("id INTEGER", "id", "i"),
    "bigint in random order": ("id BIGINT", "id", "hashint8extended(i, 7)"),
    "uuid": ("id UUID", "id", "md5(i::text)::uuid"),
    "text": ("id TEXT", "id", "'user-' || md5(i::text)"),
    "timestamptz": ("id TIMESTAMPTZ", "id", "timestamptz '2020-01-01' + i * interval '1 second'"),
    "composite": ("a INTEGER, b TEXT", "a, b", "mod(i, 1000), md5(i::text)"),
    "integer in partitions": ("id INTEGER", "id", "i"),
}


def boundaries(url: str, rows: int, rounds: int) -> Section:
    """Measure `split` on tables with each type of key: its time, and the largest range against the mean."""
    engine, section = create_engine(url), Section(f"boundaries of {RANGES} ranges over {rows:,} rows on postgresql")
    for name, (columns, key, values) in KEYS.items():
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS bench_ranges"))
            is_partitioned = name.endswith("partitions")
            more = " PARTITION BY RANGE (id)" if is_partitioned else ""
            connection.exec_driver_sql(f"CREATE TABLE bench_ranges ({columns}, token TEXT, PRIMARY KEY ({key})){more}")
            for part in range(4) if is_partitioned else ():
                low, high = part * rows // 4 + 1, (part + 1) * rows // 4 + 1
                connection.exec_driver_sql(
                    f"CREATE TABLE bench_ranges_{part} PARTITION OF bench_ranges FOR VALUES FROM ({low}) TO ({high})"
                )
            connection.exec_driver_sql(
                f"INSERT INTO bench_ranges SELECT {values}, repeat('x', 100) FROM generate_series(1, {rows}) AS i"
            )
        taken = statistics.median(seconds(lambda: split(engine, "bench_ranges", RANGES)) for _ in range(rounds))
        with open_table(engine, TableColumns("bench_ranges", {"token": "bench.token"})) as access:
            lines = split(engine, "bench_ranges", RANGES)
            counts = [Pages(access, None, ends(access, line)).count() for line in lines]
        detail = f"{len(lines)} ranges, {sum(counts):,} rows"
        section.results.append(Result(f"{name}: time", taken, 0.3, detail=detail, unit="s"))
        section.results.append(Result(f"{name}: largest, against the mean", max(counts) / statistics.mean(counts), 3))
    engine.dispose()
    return section
