"""What the commands that rewrite values do."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from sqlalchemy import Engine

from sealchemy import Rollout
from sealchemy._databases.access import open_table
from sealchemy._databases.table import TableColumns
from sealchemy._inspection.guarded import rewrite_if_clear
from sealchemy._rewriting import constraint
from sealchemy._rewriting.conversions import Conversion
from sealchemy._rewriting.run import OnProgress, run
from sealchemy._rewriting.stages import require_keys
from sealchemy.errors import (
    DecryptionError,
    PlaintextFoundError,
    RewriteError,
    UnsupportedOperationError,
)
from sealchemy.rewrite import BIND, DECRYPT, ENCRYPT, REKEY, UNBIND, VERIFY, Options, Report

from . import indexing, output
from .project import Project

_ONLY_LOOKS = {
    "encrypt": (Rollout.STRICT, Rollout.BIND_PREPARE, Rollout.BIND_MIGRATE),
    "bind": (Rollout.STRICT,),
}
"""The stages in which no process writes what a conversion would rewrite, so that it may have been planted."""


def rewrite(
    project: Project, conversion: Conversion, run: dict[str, Any], accept: Sequence[str] = (), *, as_json: bool = False
) -> None:
    """Rewrite the tables with the options of a command, `RUN_OPTIONS`."""
    shard, table, retained = run.pop("shard"), run.pop("table"), run.pop("max_wal_retained")
    options = Options(shard=_parse_shard(shard), max_wal_retained=_parse_size(retained), **run)
    rewrite_tables(project, conversion, options, accept, as_json=as_json, only=table)


def _parse_shard(text: str | None) -> tuple[int, int] | None:
    part = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text) if text is not None else None
    if text is not None and part is None:
        raise UnsupportedOperationError("--shard takes one of several shares, such as 2/8")
    return (int(part[1]), int(part[2])) if part else None


def _parse_size(text: str | None) -> int | None:
    size = re.fullmatch("([0-9]{1,9}) ?(B|kB|MB|GB|TB)", text) if text is not None else None
    if text is not None and size is None:
        raise UnsupportedOperationError("--max-wal-retained takes a number with B, kB, MB, GB or TB, such as 50GB")
    return int(size[1]) * 1024 ** ["B", "kB", "MB", "GB", "TB"].index(size[2]) if size else None


def rewrite_tables(
    project: Project,
    conversion: Conversion,
    options: Options,
    accept: Sequence[str] = (),
    *,
    as_json: bool = False,
    engine: Engine | None = None,
    only: str | None = None,
) -> None:
    """Rewrite every table, or the one with a name, continuing with the next one if some rows cannot be done."""
    engine = engine or project.protected_engine()
    _refuse_stage(project, conversion)
    only_looks = project.stage() in _ONLY_LOOKS.get(conversion.name, ()) and not options.dry_run
    options = replace(options, dry_run=only_looks or options.dry_run or conversion is VERIFY)
    project.name_database(writes=not options.dry_run)
    console, failed = Console(stderr=True), False
    for table in _tables(project, conversion, options, only):
        try:
            with output.progress(console, as_json=as_json) as progress:
                report = _rewrite_table(engine, conversion, options, table, accept, progress)
        except RewriteError as error:
            _print_failures(error, conversion, as_json=as_json)
            if error.report is None or error.report.stopped == "interrupt":
                raise SystemExit(output.INTERRUPTED if error.report else 1) from None
            report, failed = error.report, True
        else:
            if only_looks:
                _refuse_planted(conversion, report, project)
            if as_json:
                print(output.report_as_json(conversion.name, report))
            else:
                _print_report(conversion, options, report)
        if report.stopped == "max_rows" or report.rewritten == options.max_rows:
            break
        if options.max_rows is not None:
            options = replace(options, max_rows=options.max_rows - report.rewritten)
    if failed:
        raise SystemExit(1)


def verify_tables(project: Project, jobs: int, sample: float | None, only: str | None, *, as_json: bool) -> None:
    """Verify every table, or the one with a name, and compare every blind index with its secret."""
    engine, failed, options = project.protected_engine(), False, Options(jobs=jobs, sample=sample)
    try:
        rewrite_tables(project, VERIFY, options, as_json=as_json, engine=engine, only=only)
    except SystemExit as error:
        if error.code == output.INTERRUPTED:
            raise
        failed = True
    if sample is None:
        failed |= indexing.compare(project, engine, only, as_json=as_json)
    if failed:
        raise SystemExit(1)


def _tables(project: Project, conversion: Conversion, options: Options, only: str | None) -> list[TableColumns]:
    """Return the tables, and of these the columns, that a conversion is for."""
    tables = project.tables(only)
    if options.range is not None and len(tables) > 1:
        raise UnsupportedOperationError("--range is of one table, and these models have several: add --table NAME")
    if conversion not in {BIND, UNBIND}:
        return tables
    bound = [
        table._replace(
            columns={name: context for name, context in table.columns.items() if name in table.bind_to},
            kinds={name: kind for name, kind in (table.kinds or {}).items() if name in table.bind_to},
        )
        for table in tables
        if table.bind_to
    ]
    if not bound:
        raise UnsupportedOperationError(
            f"{conversion.name}: no column of these models is declared with bind_to, so there is nothing to do"
        )
    return bound


def _rewrite_table(
    engine: Engine,
    conversion: Conversion,
    options: Options,
    table: TableColumns,
    accept: Sequence[str],
    progress: OnProgress,
) -> Report:
    key_ring = require_keys(conversion, engine, table.columns)
    with open_table(engine, table, options.lock_timeout) as access:
        if conversion is VERIFY:
            return run(access, conversion, options, progress)
        if conversion is DECRYPT and (required := constraint.required_columns(access)):
            raise UnsupportedOperationError(
                f"decrypt {table.name}: its CHECK refuses plaintext in {', '.join(sorted(required))}; drop it first, in"
                " a revision (op.allow_plaintext), or use op.decrypt_columns, which does both"
            )
        if conversion is UNBIND and (required := constraint.required_columns(access, bound=True)):
            raise UnsupportedOperationError(
                f"unbind {table.name}: its CHECK requires bound values in {', '.join(sorted(required))}; have it"
                " require encrypted values alone first, in a revision (op.allow_unbound)"
            )
        if conversion is ENCRYPT:
            print(f"encrypt {table.name}: with key {key_ring.primary.id}", file=sys.stderr)
        return rewrite_if_clear(access, conversion, options, accept, progress=progress)


def _refuse_stage(project: Project, conversion: Conversion) -> None:
    """Refuse what no process of the application could read."""
    stage, variable = project.stage(), project.rollout_variable
    if conversion is ENCRYPT and stage is Rollout.PREPARE:
        raise UnsupportedOperationError(
            "encrypt: the rollout stage is prepare: processes still write plaintext, and some may not read ciphertext"
            f" yet; set {variable}=migrate everywhere first"
        )
    if conversion is DECRYPT and stage not in {Rollout.PREPARE, Rollout.MIGRATE}:
        raise UnsupportedOperationError(
            f"decrypt: the rollout stage is {stage}, and processes in stage {stage} cannot read plaintext;"
            f" set {variable}=migrate everywhere first, then prepare, in which nothing is encrypted any more; here too"
        )
    if conversion is BIND and stage in {Rollout.PREPARE, Rollout.BIND_PREPARE}:
        raise UnsupportedOperationError(
            f"bind: the rollout stage is {stage}: processes still write values that are not bound, and some may not"
            f" read bound ones yet; set {variable}=bind_migrate everywhere first"
        )
    if conversion is UNBIND and stage is not Rollout.BIND_PREPARE:
        raise UnsupportedOperationError(
            f"bind --undo: the rollout stage is {stage}: processes still write values that are bound, or cannot read"
            f" others; set {variable}=bind_prepare everywhere first, from strict by way of bind_migrate"
        )


def _refuse_planted(conversion: Conversion, report: Report, project: Project) -> None:
    if report.pending and conversion is BIND:
        raise DecryptionError(
            f"bind {report.table}: {report.pending} rows have values that are not bound to them, although the rollout"
            " stage is strict: they may have been copied from other rows, and binding them would authenticate that for"
            " ever. Find out who wrote them, and restore them from a backup; or set"
            f" {project.rollout_variable}=bind_migrate everywhere, and bind them there"
        )
    if report.pending:
        raise PlaintextFoundError(
            f"encrypt {report.table}: {report.pending} rows have plaintext, although the rollout stage is"
            f" {project.stage()}:"
            " it may have been planted, and encrypting it would authenticate it for ever. Find out who wrote it and"
            f" delete or correct it; or set {project.rollout_variable}=migrate everywhere, and encrypt it there"
        )


def _print_failures(error: RewriteError, conversion: Conversion, *, as_json: bool) -> None:
    print(f"sealchemy: {error}", file=sys.stderr)
    if as_json:
        if error.report:
            print(output.report_as_json(conversion.name, error.report))
        return
    if error.report:
        output.print_failures(error.report)
    for sentence in error.report.left_behind if error.report else ():
        print(f"{error.report.table}: {sentence}")


def _print_report(conversion: Conversion, options: Options, report: Report) -> None:
    if conversion is VERIFY and (options.sample or 1) < 1:
        print(f"verify {report.table}: the values of {report.read} rows authenticate; the others were not read")
    elif conversion is VERIFY:
        print(f"verify {report.table}: every value authenticates")
    elif options.dry_run and not report.pending:
        print(f"{conversion.name} {report.table}: nothing to do")
    elif options.dry_run:
        print(f"{conversion.name} {report.table}: {report.pending} rows would be rewritten; nothing was changed")
    elif conversion is REKEY:
        done = f"{report.rewritten} rows moved to" if report.rewritten else "nothing to do: every value is under"
        print(f"rekey {report.table}: {done} key {report.key_id}")
    else:
        print(f"{conversion.name} {report.table}: {report.rewritten} rows")
    if report.stopped == "max_rows":
        print("stopped at --max-rows; run it again to continue")
    for sentence in report.left_behind:
        print(f"{report.table}: {sentence}")
