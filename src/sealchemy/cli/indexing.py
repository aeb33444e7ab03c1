"""What the commands do with blind indexes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from sqlalchemy import Engine

from sealchemy._databases.access import open_table
from sealchemy._inspection import preflight
from sealchemy._rewriting import indexes
from sealchemy._rewriting.declared import declared_indexes
from sealchemy.errors import RewriteError, UnsupportedOperationError
from sealchemy.rewrite import REKEY, Options, Report

from . import output
from .project import Project


def reindex(project: Project, options: Options, accept: Sequence[str], *, as_json: bool) -> None:
    """Fill every index, and exit with 1 if that left something to do."""
    engine, found = project.protected_engine(), declared_indexes(project.metadata())
    if not found:
        raise UnsupportedOperationError("reindex: no column of these models is a BlindIndex, so there is nothing to do")
    failed = [_fill(engine, columns, options, accept, as_json=as_json) for columns in found]
    if any(failed):
        raise SystemExit(1)


def compare(project: Project, engine: Engine, *, as_json: bool) -> bool:
    """Compare every index with its secret, and return whether some row has another digest."""
    failed = False
    for columns in declared_indexes(project.metadata()):
        failed |= _fill(engine, columns, Options(dry_run=True), (), as_json=as_json, verifies=True)
    return failed


def _fill(
    engine: Engine,
    columns: indexes.IndexColumns,
    options: Options,
    accept: Sequence[str],
    *,
    as_json: bool,
    verifies: bool = False,
) -> bool:
    """Fill or compare one index; return whether that failed."""
    name, failed = "verify" if verifies else indexes.NAME, False
    with open_table(engine, columns.wanted(), options.lock_timeout) as access:
        if not options.dry_run:
            preflight.refuse_obstacles(access, preflight.inspect_columns(access), REKEY, accept, widens=False)
        try:
            with output.progress(Console(stderr=True), as_json=as_json) as progress:
                report = indexes.fill(access, columns, options, progress)
        except RewriteError as error:
            if error.report is None:
                raise
            report, failed = error.report, True
            print(f"sealchemy: {error}", file=sys.stderr)
    if verifies and report.pending:
        print(f"sealchemy: {indexes.mismatch(columns, report)}", file=sys.stderr)
    where = replace(report, table=f"{report.table}.{columns.column}")
    print(
        output.report_as_json(name, where) if as_json else _describe(where, options, failed=failed, verifies=verifies)
    )
    return failed or (verifies and bool(report.pending))


def _describe(report: Report, options: Options, *, failed: bool, verifies: bool) -> str:
    if verifies:
        result = "some secrets could not be read" if failed else "every digest is that of its secret"
        result = f"{report.pending} rows have another digest" if report.pending else result
        return f"verify {report.table}: {result}"
    if options.dry_run:
        return f"{indexes.NAME} {report.table}: {report.pending} rows would be written; nothing was changed"
    return f"{indexes.NAME} {report.table}: {report.rewritten} rows"
