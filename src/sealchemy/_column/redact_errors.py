"""Redact the errors of an engine: neither SQLAlchemy nor the driver may show the contents of a row."""

import re

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, StatementError

# PostgreSQL's DETAIL and CONTEXT show rows, keys and parameters; sqlite3 shows a text that is not UTF-8.
_ROW_CONTENTS = re.compile(r"\s*(?:DETAIL|HINT|CONTEXT): .*|(?<= )with text '.*", re.DOTALL)
_TEXTS_OF_TRIGGERS_AND_CASTS = ("P0", "22")


def redact_errors(engine: Engine) -> None:
    """Remove statement parameters and row contents from the errors of an engine, as `attach_key_ring` does."""
    event.listen(engine, "handle_error", _redact, insert=True)


def describe(error: DBAPIError) -> str:
    """Return the text of a redacted error, or its SQLSTATE alone where a trigger or a cast may quote a value."""
    state = getattr(error.orig, "sqlstate", None) or ""
    if state.startswith(_TEXTS_OF_TRIGGERS_AND_CASTS):
        return f"{type(error).__name__}, SQLSTATE {state}"
    return str(error)


def _redact(context: ExceptionContext) -> None:
    if isinstance(context.sqlalchemy_exception, StatementError):
        context.sqlalchemy_exception.params = None
        context.sqlalchemy_exception.hide_parameters = True
    driver_error = context.original_exception
    details = _take_details(driver_error)
    for error in (context.sqlalchemy_exception, driver_error, driver_error.__cause__):
        if error is not None:
            error.args = tuple(_without(argument, details) for argument in error.args)


def _take_details(error: BaseException) -> list[str]:
    """Return the texts beside the message itself, and clear them where they can be cleared.

    They are not found by their titles, which PostgreSQL translates.
    """
    diagnostics = getattr(error, "diag", None)
    details = [getattr(diagnostics, name, None) for name in ("message_detail", "message_hint", "context")]
    for source in (error, error.__cause__):  # asyncpg's errors have a `detail`, and print it
        for name in ("detail", "context"):
            if isinstance(getattr(source, name, None), str):
                details.append(getattr(source, name))
                setattr(source, name, None)
    return [text for text in details if text]


def _without(argument: object, details: list[str]) -> object:
    if not isinstance(argument, str):
        return argument
    for text in details:
        argument = argument.replace(text, "")
    return _ROW_CONTENTS.sub("", argument)
