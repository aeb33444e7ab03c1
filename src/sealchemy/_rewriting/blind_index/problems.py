"""What kept a run over a blind index from doing everything, and what a comparison found, in sentences."""

from collections.abc import Iterator, Sequence

from sealchemy._databases.table import RowKey
from sealchemy._rewriting.options import Options
from sealchemy._rewriting.report import Report

from .index_columns import IndexColumns

NAME = "reindex"

_LISTED = 10


def describe(report: Report, keys: Sequence[RowKey], options: Options, *, has_plaintext: bool) -> Iterator[str]:
    """Return the problems of a run; `keys` are the first of the rows that still differ."""
    if report.stopped == "interrupt":
        yield f"interrupted after {report.rewritten} rows, which stay done; run it again"
    elif report.pending and not options.dry_run:
        yield (
            f"the digests of {report.pending} rows are still missing or old, such as that of {keys[0]}: a release that"
            " does not know the index is still writing secrets, or rows are locked; end it, and run this again"
        )
    if report.failed:
        yield report.describe_failures()
    if has_plaintext:
        yield "the stage is strict; to index plaintext, run it in stage prepare or migrate"


def describe_mismatch(columns: IndexColumns, report: Report, keys: Sequence[RowKey]) -> str:
    """Return a sentence about the rows whose digest is missing or wrong."""
    listed = ", ".join(map(str, keys[:_LISTED])) + (", ..." if len(keys) > _LISTED else "")
    return (
        f"{report.table}.{columns.column}: {report.pending} rows have a digest that is missing, or not that of"
        f" {columns.secret}, by primary key: {listed}. Lookups miss these rows, or find wrong ones. If it is all of"
        " them, the index key or the normalize function is another one: put the old one back, or, if it was changed on"
        " purpose, run `sealchemy reindex`. If it is some, a release that does not know the index wrote them, or"
        " someone copied a digest to be found as another user: find out which first"
    )


def describe_refused(columns: IndexColumns, report: Report) -> str:
    """Return what to do about a digest that the database refused; its own text may show values."""
    name = columns.column
    return (
        f"{NAME} {report.table}.{name}: the database refused a digest. Either the index is unique, and two rows have"
        f" the same secret: drop the unique index, run this again, and look for them (GROUP BY {name} HAVING count(*)"
        f" > 1); or it is NOT NULL, and a row has no secret. {report.rewritten} rows stay done"
    )
