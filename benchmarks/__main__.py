"""Run the benchmarks and print the results, or write them to a file or to the documentation."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from sqlalchemy import create_engine, text
from tests.support import postgresql

from . import bound, indexes, jobs, queries, ranges, rewriting, values
from .results import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCS = Path(__file__).parents[1] / "docs/explanation"
PACKAGES = (
    "sqlalchemy",
    "cryptography",
    "psycopg",
    "sqlalchemy-utils",
    "advanced-alchemy",
    "sqlalchemy-encrypted-field",
)


@contextmanager
def server() -> Iterator[str]:
    """Run PostgreSQL for the benchmarks, with durable commits."""
    started = postgresql.start_any(fsync="on")
    if started is None:
        raise SystemExit(postgresql.WHAT_TO_INSTALL)
    engine = create_engine(started.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS pgcrypto"))
    engine.dispose()
    try:
        yield started.url
    finally:
        started.stop()


def check() -> Iterator[Section]:
    """Run for under a minute, to detect large slowdowns."""
    yield values.closures(rounds=7, count=2000)
    yield values.documents(rounds=7, count=2000)
    yield values.imports(rounds=5)
    with server() as url, tempfile.TemporaryDirectory() as folder:
        yield queries.core_select("sqlite://", 200, rows=200, rounds=7)[0]
        yield queries.orm(url, 200, rows=1000, rounds=7)
        yield bound.statements("sqlite://", 200, rows=500, rounds=7)
        yield rewriting.in_place(url, 10_000, rounds=1)
        yield rewriting.in_place(f"sqlite:///{folder}/bench.db", 10_000, rounds=1)


def everything(added: dict[str, dict[str, dict[str, float]]], only: str) -> Iterator[Section]:
    """Run every step whose name contains `only`, with the row counts that the targets are stated for."""
    with server() as url, tempfile.TemporaryDirectory() as folder:
        file = f"sqlite:///{folder}/bench.db"

        def select(place: str, size: int) -> Section:
            section, found = queries.core_select(place, size, rows=500, rounds=9)
            added.setdefault("sqlite" if place == "sqlite://" else "postgresql", {})[str(size)] = found
            return section

        steps: dict[str, Callable[[], Section]] = {
            "closures": lambda: values.closures(rounds=15, count=20_000),
            "half nonces": lambda: values.half_nonces(rounds=15, count=5000),
            "documents": lambda: values.documents(rounds=15, count=5000),
            "imports": lambda: values.imports(rounds=15),
            **{f"select on sqlite, {size}": partial(select, "sqlite://", size) for size in values.SIZES},
            **{f"select on postgresql, {size}": partial(select, url, size) for size in values.SIZES},
            "orm": lambda: queries.orm(url, 200, rows=2000, rounds=15),
            "bound on sqlite": lambda: bound.statements("sqlite://", 200, rows=2000, rounds=15),
            "bound on postgresql": lambda: bound.statements(url, 200, rows=2000, rounds=15),
            "lookups by value": lambda: indexes.lookups(url, 1_000_000, rounds=9),
            "inserts with an index on sqlite": lambda: indexes.inserts("sqlite://", 2000, rounds=15),
            "inserts with an index on postgresql": lambda: indexes.inserts(url, 2000, rounds=15),
            "rewriting to bound": lambda: bound.in_place(url, 2_000_000),
            "in place on postgresql": lambda: rewriting.in_place(url, 200_000, rounds=3),
            "finished on postgresql": lambda: rewriting.finished(url, 500_000, rounds=3),
            "profile": lambda: rewriting.profile(url, 40_000),
            "in place on sqlite": lambda: rewriting.in_place(file, 200_000, rounds=3),
            "connections and processes": lambda: jobs.parallel(url, 300_000, rounds=5),
            "boundaries": lambda: ranges.boundaries(url, 3_000_000, rounds=5),
            "shards": lambda: rewriting.shards(url, 200_000, rounds=3),
            "longest statement": lambda: rewriting.longest(url, 2_000_000),
            "large": lambda: rewriting.large(url, 100_000, 2_000_000),
        }
        for name, step in steps.items():
            if only in name:
                yield step()


def main() -> None:
    """Parse the options and run the benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="a short run of the ratios, in under a minute")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--only", default="", help="run the steps whose name contains this; keep the other results of the --json file"
    )
    parser.add_argument("--write", action="store_true", help="write the tables and the chart to the documentation")
    options = parser.parse_args()
    if options.only and not (options.json and options.json.exists()):
        parser.error("--only needs --json with the file of an earlier run")
    logging.disable(logging.WARNING)
    console, added = Console(), {}
    before = json.loads(options.json.read_text()) if options.only else {"sections": [], "added": {}}
    sections = {item["title"]: Section.from_json(item) for item in before["sections"]}
    for section in check() if options.check else everything(added, options.only):
        console.print(section.table())
        sections[section.title] = section
    for place, sizes in before["added"].items():
        added[place] = sizes | added.get(place, {})
    told = {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "packages": {name: version(name) for name in PACKAGES},
        "at": datetime.now(UTC).date().isoformat(),
        "sections": [section.json() for section in sections.values()],
        "added": added,
    }
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))
    if options.write:
        write(told, list(sections.values()))


def write(told: dict[str, Any], sections: list[Section]) -> None:
    """Write the tables into the performance page, where those of steps that did not run stay, and draw its chart."""
    page = DOCS / "performance.md"
    head, _, rest = page.read_text().partition("<!-- results: python -m benchmarks --write -->")
    packages = ", ".join(f"{name} {number}" for name, number in told["packages"].items())
    where = f"Measured on {told['at']} with Python {told['python']} ({told['machine']}); {packages}."
    before, _, after = rest.partition("<!-- end -->")
    known = {text.partition("\n")[0]: f"### {text.strip()}" for text in before.split("### ")[1:]}
    tables = "\n\n".join((known | {section.title: section.markdown() for section in sections}).values())
    marked = f"<!-- results: python -m benchmarks --write -->\n{where}\n\n{tables}\n<!-- end -->"
    page.write_text(head + marked + after)
    if told["added"]:
        from .charts import draw  # noqa: PLC0415 - matplotlib is slow to import

        draw(told["added"], DOCS / "performance.svg")


if __name__ == "__main__":
    main()
