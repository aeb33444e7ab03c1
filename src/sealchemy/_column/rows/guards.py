"""An UPDATE that compares its row with a `RowValue` changes that row, or it raises."""

from typing import Any, NoReturn

from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.orm.exc import StaleDataError

from sealchemy._values.rows import RowValue

from .parameters import Pair


def is_guarded(context: Any) -> bool:
    """Return whether an execution writes a `RowValue`, whose row is compared with the one in the table."""
    compiled = context.compiled
    guarded = [place.name for place in getattr(compiled, "places", ()) if any(guard for *_, guard in place.parts)]
    return bool(guarded) and any(
        isinstance(pair := row.get(name), Pair) and isinstance(pair.value, RowValue)
        for row in context.compiled_parameters
        for name in guarded
    )


def execute_guarded(cursor: Any, statement: str, rows: Any, context: Any) -> bool:
    """Execute it in place of SQLAlchemy, and return True.

    Raises:
        StaleDataError: a row has other values in the columns of the `RowValue`, or does not exist.
    """
    dialect = context.dialect
    if context.compiled.effective_returning and len(rows) == 1:
        dialect.do_execute(cursor, statement, rows[0], context)
        found = cursor.fetchall()  # some drivers count the rows only when they are fetched
        context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor, initial_buffer=found)
        if not found:
            _refuse(context)
        return True
    # Two rows of one statement would hide that another statement found none.
    if len(rows) > 1 and dialect.supports_sane_multi_rowcount and context.compiled.names_one_row:
        dialect.do_executemany(cursor, statement, rows, context)
        _require_rows(cursor, context, len(rows))
        return True
    for row in rows:
        dialect.do_execute(cursor, statement, row, context)
        _require_rows(cursor, context, 1)
    return True


def _require_rows(cursor: Any, context: Any, expected: int) -> None:
    if context.dialect.supports_sane_rowcount and 0 <= cursor.rowcount < expected:
        _refuse(context)


def _refuse(context: Any) -> NoReturn:
    message = (
        f"a value for {context.compiled.places[0].encrypted.context} was not stored: no row has the key of the"
        " statement and the values to which it is bound; the row was moved or deleted meanwhile"
    )
    raise StaleDataError(message)
