"""An UPDATE that compares its row with a `RowValue` changes that row, or it raises."""

from typing import Any

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
    if len(rows) > 1 and dialect.supports_sane_multi_rowcount:
        dialect.do_executemany(cursor, statement, rows, context)
        _require_rows(cursor, context, len(rows))
        return True
    for row in rows:
        dialect.do_execute(cursor, statement, row, context)
        _require_rows(cursor, context, 1)
    return True


def _require_rows(cursor: Any, context: Any, expected: int) -> None:
    is_counted = context.dialect.supports_sane_rowcount and not context.compiled.effective_returning
    if is_counted and 0 <= cursor.rowcount < expected:
        message = (
            f"a value for {context.compiled.places[0].encrypted.context} was not stored: no row has the key of the"
            " statement and the values to which it is bound; the row was moved or deleted meanwhile"
        )
        raise StaleDataError(message)
