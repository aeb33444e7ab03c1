"""What kept a run from doing everything, in sentences."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from sealchemy._column.rollout import Rollout
from sealchemy._databases.access import Access
from sealchemy._databases.refused import RefusedStatementError
from sealchemy.errors import RewriteError

from .conversions import BIND, REKEY, UNBIND, Conversion
from .options import Options
from .report import Report

_Result = TypeVar("_Result")

FURTHER_PASSES = 3
_WRITING = {"bind": Rollout.BIND_MIGRATE, "unbind": Rollout.BIND_PREPARE}
"""The stage in which processes write what a conversion makes."""


def explaining(work: Callable[[], _Result], access: Access, conversion: Conversion, report: Report | None) -> _Result:
    """Do work; put the report, if there is one, into its errors, and turn those of the database into sentences."""
    try:
        return work()
    except RewriteError as error:
        error.report = error.report or report
        raise
    except DBAPIError as error:
        columns = ", ".join(item.name for item in access.target.columns)
        message = f"{conversion.name} {access.target.name} ({columns}): {access.database.explain(error)}{_done(report)}"
        refused = RefusedStatementError.of(message, error, report)
    raise refused


def _done(report: Report | None) -> str:
    return f"; {report.rewritten} rows were done before and stay done" if report else ""


def describe_problems(
    report: Report, conversion: Conversion, options: Options, found_in_last_pass: int, unreached: int
) -> list[str]:
    """Return the problems of a run."""
    problems = []
    if report.stopped == "interrupt":
        problems.append(f"interrupted after {report.rewritten} rows, which stay done; run it again to continue")
    elif report.pending and not options.dry_run:
        problems += _describe_pending(report, conversion, options, found_in_last_pass)
    if unreached:
        problems.append(
            f"{unreached} rows were not reached: they were inserted or changed meanwhile, or the values of the primary"
            " key do not compare as the table orders them; run it again, and if it stays so, give the table another key"
        )
    if report.failed:
        problems.append(report.describe_failures())
    return problems


def _describe_pending(
    report: Report, conversion: Conversion, options: Options, found_in_last_pass: int
) -> Iterator[str]:
    if found_in_last_pass:
        laggards = "bring every process to rollout stage migrate"
        if conversion in {BIND, UNBIND}:
            laggards = f"bring every process to rollout stage {_WRITING[conversion.name]}"
        if conversion is REKEY:
            laggards = f"give every process {report.key_id} as its primary key"
        yield (
            f"values that need it are still being written, {found_in_last_pass} rows in the last of"
            f" {1 + FURTHER_PASSES} passes; {laggards}, then run it again"
        )
    yield (
        f"{report.pending} rows were locked by others for longer than {options.lock_timeout} s, or written meanwhile;"
        " run it again"
    )
