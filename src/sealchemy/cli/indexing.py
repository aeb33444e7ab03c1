"""What the commands do with blind indexes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console
from sqlalchemy import Engine

from sealchemy._databases.access import open_table
from sealchemy._inspection import preflight
from sealchemy._rewriting.blind_index import filling, problems
from sealchemy._rewriting.blind_index.index_columns import IndexColumns
from sealchemy._rewriting.declared import declared_indexes
from sealchemy._rewriting.run import OnProgress
from sealchemy.errors import RewriteError, UnsupportedOperationError
from sealchemy.rewrite import REKEY, Options, Report

from . import output
from .output import INTERRUPTED
from .project import Project


def reindex(project: Project, options: Options, accept: Sequence[str], *, as_json: bool) -> None:
    """Fill every index, and exit with 1 if that left something to do."""
    engine, found = project.protected_engine(), declared_indexes(project.metadata())
    if not found:
        raise UnsupportedOperationError("reindex: no column of these models is a BlindIndex, so there is nothing to do")
    project.name_database(writes=not options.dry_run)
    failed = False
    for columns in found:
        with open_table(engine, columns.wanted(), options.lock_timeout) as access:
            if not options.dry_run:
                preflight.refuse_obstacles(access, preflight.inspect_columns(access), REKEY, accept, widens=False)
            with _errors(as_json=as_json) as (progress, errors):
                report = filling.fill(access, columns, options, progress)
                _print(problems.NAME, columns, report, _describe(report, options), as_json=as_json)
            failed |= bool(errors)
    if failed:
        raise SystemExit(1)


def compare(project: Project, engine: Engine, only: str | None = None, *, as_json: bool) -> bool:
    """Compare every index with its secret, and return whether some row has another digest."""
    failed = False
    tables = {(item.name, item.schema) for item in project.tables(only)}
    for columns in declared_indexes(project.metadata()):
        if (columns.table, columns.schema) not in tables:
            continue
        with open_table(engine, columns.wanted()) as access, _errors(as_json=as_json) as (progress, errors):
            report, problem = filling.compare(access, columns, progress)
            if problem is not None:
                print(f"sealchemy: {problem}", file=sys.stderr)
            right = f"{report.pending} rows have another digest" if problem else "every digest is that of its secret"
            _print("verify", columns, report, right, as_json=as_json)
            failed |= problem is not None
        failed |= bool(errors)
    return failed


@contextmanager
def _errors(*, as_json: bool) -> Iterator[tuple[OnProgress, list[RewriteError]]]:
    """Print an error of a run, and go on with the next index; SIGINT ends the command."""
    errors: list[RewriteError] = []
    try:
        with output.progress(Console(stderr=True), as_json=as_json) as progress:
            yield progress, errors
    except RewriteError as error:
        print(f"sealchemy: {error}", file=sys.stderr)
        if error.report is None or error.report.stopped == "interrupt":
            raise SystemExit(INTERRUPTED if error.report else 1) from None
        errors.append(error)


def _print(name: str, columns: IndexColumns, report: Report, result: str, *, as_json: bool) -> None:
    where = replace(report, table=f"{report.table}.{columns.column}")
    print(output.report_as_json(name, where) if as_json else f"{name} {where.table}: {result}")


def _describe(report: Report, options: Options) -> str:
    if options.dry_run:
        return f"{report.pending} rows would be written; nothing was changed"
    return f"{report.rewritten} rows" if report.rewritten else "nothing to do: every digest is that of its secret"
