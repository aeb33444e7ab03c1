"""Rewrite the values of a table in place, in batches: encrypt, rekey, decrypt or verify them."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection, Engine

from sealchemy._databases.access import open_table
from sealchemy._databases.table import TableColumns
from sealchemy._inspection.preflight import announce
from sealchemy._rewriting import ranges
from sealchemy._rewriting.conversions import BIND, DECRYPT, ENCRYPT, REKEY, UNBIND, VERIFY, Conversion
from sealchemy._rewriting.options import Options
from sealchemy._rewriting.report import Failure, Progress, Report
from sealchemy._rewriting.run import run
from sealchemy._rewriting.stages import refuse_legacy_reader, require_binding, require_keys, spread
from sealchemy.errors import RewriteError, UnsupportedOperationError

__all__ = [
    "BIND",
    "DECRYPT",
    "ENCRYPT",
    "REKEY",
    "UNBIND",
    "VERIFY",
    "Conversion",
    "Failure",
    "Options",
    "Progress",
    "Report",
    "RewriteError",
    "rewrite",
    "split",
]


Operation = Conversion  # the name in version 0.1


def rewrite(  # noqa: PLR0913 - all but the first four are options
    conversion: Conversion,
    bind: Engine | Connection,
    table: str,
    columns: Mapping[str, str],
    *,
    schema: str | None = None,
    options: Options = Options(),  # noqa: B008 - it cannot be changed
    progress: Callable[[Progress], None] | None = None,
    legacy_reader: Callable[[str], str | bytes] | None = None,
    kinds: Mapping[str, str] = {},
    bind_to: Mapping[str, Sequence[str]] | Sequence[str] = (),
) -> Report:
    """Rewrite the values of a table, and return the report.

    What the plan finds about the table, such as triggers that fire for every row, is logged as a warning here; the
    Alembic operations and the command refuse to go on until it is repaired or accepted.

    In the main thread, SIGINT ends the run after the current batch, and a second one interrupts at once; in both
    cases nothing is lost, and a later run goes on.

    Args:
        conversion: `ENCRYPT`, `REKEY` (to the primary key), `DECRYPT`, `BIND` (to the row), `UNBIND`, or `VERIFY`,
            which only reads.
        bind: an engine, to work in short transactions on a connection of its own; or a connection, to work in the
            transaction that it is in.
        table: its name.
        columns: the context of each column, by column name.
        schema: its schema, if it is not the default one.
        options: batches, pauses and limits.
        progress: called after each batch.
        legacy_reader: for `ENCRYPT`, returns the plaintext of a value that another library wrote; without it, such a
            value is taken for the plaintext. It is called for every value that does not start with `sealchemy:`,
            more than once for some; a value for which it raises is left as it was and reported. For a column of
            JSON it returns the text of the value, and for one of bytes it may return `bytes`.
        kinds: `"json"` or `"bytes"` for columns of `EncryptedJSON` or `EncryptedBytes`, by column name. The database
            tells the kind of a column that is not text yet.
        bind_to: the columns that values are bound to, by their names in the database, in the order of the models: a
            sequence for all columns, or a mapping by column name.

    Raises:
        KeyRingNotAttachedError, ColumnDefinitionError, UnsupportedOperationError: before a row is touched.
        RewriteError: values that could not be read (they are left as they were, and everything else is done), old
            values that are still being written, SIGINT, or an error of the database.
    """
    require_keys(conversion, bind, columns)
    refuse_legacy_reader(conversion, legacy_reader, options.jobs)
    if options.sample is not None and conversion is not VERIFY:
        raise UnsupportedOperationError(f"{conversion.name}: sample is for VERIFY; leave it out")
    bound = spread(columns, bind_to)
    require_binding(conversion, bound, columns)
    with open_table(bind, TableColumns(table, columns, schema, kinds, bound), options.lock_timeout) as access:
        if conversion is not VERIFY:
            announce(access, conversion, measure=options.range is None)
        return run(access, conversion, options, progress, legacy_reader)


def split(bind: Engine | Connection, table: str, parts: int, *, schema: str | None = None) -> list[str]:
    """Return ranges of a table's primary key, for `Options(range=)`: about equal parts, which together are the table.

    The boundaries come from a sample of the table's blocks, which takes milliseconds whatever its size. Several runs
    can then work on a range each, in any order and on any host; run the last one without a range.

    Args:
        bind: an engine or a connection, to PostgreSQL.
        table: the table, by its name in the database.
        parts: how many ranges to make; there are fewer if the table has fewer rows.
        schema: its schema, if it is not the default one.

    Raises:
        ColumnDefinitionError: the table has no primary key.
        UnsupportedOperationError: another kind of database, or `parts` is less than 1.
    """
    if parts < 1:
        raise UnsupportedOperationError("split takes the number of ranges to make, 1 or more")
    with open_table(bind, TableColumns(table, {}, schema, kinds=None)) as access:
        return [str(item) for item in ranges.split(access, parts)]
