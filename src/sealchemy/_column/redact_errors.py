"""Redact the errors of an engine: neither SQLAlchemy nor the driver may show the contents of a row."""

import copy
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import StatementError

from sealchemy.errors import SealchemyError

# PostgreSQL's DETAIL and CONTEXT show rows, keys and parameters; sqlite3 shows a text that is not UTF-8.
_ROW_CONTENTS = re.compile(r"\s*(?:DETAIL|HINT|CONTEXT): .*|(?<= )with text '.*", re.DOTALL)
_QUOTED = re.compile(r"""(?<!\w)'.*'|".*\"""", re.DOTALL)
_ROW_FIELDS = {"MESSAGE_DETAIL", "MESSAGE_HINT", "CONTEXT", "INTERNAL_QUERY"}
_TRIGGER_TEXT = "a trigger or a function raised an error, whose text is left out because it may show a value"

# MySQL and MariaDB quote names and values alike. These errors quote names only: a column that is NULL, unknown or
# without a value, or whose value is too long or out of range, a table, column or database that is unknown or exists, a
# key, access, a host, foreign keys, locks, a CHECK.
_MYSQL_QUOTES_NAMES = frozenset(
    {1044, 1045, 1048, 1049, 1050, 1054, 1060, 1061, 1091, 1142, 1143, 1146, 1205, 1213, 1264, 1265, 1364, 1406}
    | {1451, 1452, 2003, 3819, 4025}
)
_MYSQL_SIGNAL = 1644
_MYSQL_NO_PARTITION = 1526  # shows the value without quotes
_MYSQL_DUPLICATE = 1062
_DUPLICATE = re.compile(r"(?<!\w)'.*'(?= for key '[^']*'$)", re.DOTALL)  # keeps the name of the key


def redact_errors(engine: Engine) -> None:
    """Remove statement parameters and row contents from the errors of an engine, as `attach_key_ring` does."""
    event.listen(engine, "handle_error", _redact, insert=True)


@event.listens_for(Engine, "handle_error")
def _replace_own_error(context: ExceptionContext) -> SealchemyError | None:
    """Return a copy of an error of ours: SQLAlchemy raises it from itself, and some loggers follow that for ever."""
    error, raised = context.original_exception, id(context.sqlalchemy_exception)
    return copy.copy(error) if isinstance(error, SealchemyError) and raised == id(error) else None


def _redact(context: ExceptionContext) -> None:
    error, driver_error = context.sqlalchemy_exception, context.original_exception
    if isinstance(error, StatementError):
        error.params, error.hide_parameters = None, True
    if isinstance(driver_error, SealchemyError):
        return
    dialect: Any = context.dialect
    is_numbered = isinstance(driver_error, dialect.loaded_dbapi.Error)  # as are the errors of MySQL's drivers
    redact = _redactor(driver_error, is_numbered=is_numbered)
    details, before = _take_details(driver_error), str(driver_error)
    _redact_diagnostics(driver_error, redact)
    for source in (driver_error, driver_error.__cause__):
        if source is not None:
            source.args = tuple(redact(_without(item, details)) for item in source.args)
            if isinstance(message := getattr(source, "message", None), str):  # asyncpg has it twice
                source.message = redact(_without(message, details))  # type: ignore[attr-defined]
    if error is not None and error is not driver_error:  # its text repeats that of the driver's error
        after = str(driver_error)
        error.args = tuple(
            _without(item.replace(before, after) if isinstance(item, str) else item, details) for item in error.args
        )


def _take_details(error: BaseException) -> list[str]:
    """Return the texts beside the message itself, and clear them where they can be cleared.

    They are not found by their titles, which PostgreSQL translates.
    """
    diagnostics = getattr(error, "diag", None)
    details = [getattr(diagnostics, name, None) for name in ("message_detail", "message_hint", "context")]
    for source in (error, error.__cause__):  # asyncpg's errors have a `detail`, and print it
        for name in ("detail", "context", "hint", "internal_query"):
            if isinstance(getattr(source, name, None), str):
                details.append(getattr(source, name))
                setattr(source, name, None)
    return [text for text in details if text]


def _redact_diagnostics(error: BaseException, redact: Callable[[Any], Any]) -> None:
    """Remove the contents of a row from what psycopg keeps beside the message, and pickles."""
    if getattr(error, "_info", None) is None:
        return
    state: Any = error.__reduce__()
    encoding = getattr(error, "_encoding", "utf-8")
    fields = {field: value for field, value in state[2]["_info"].items() if field.name not in _ROW_FIELDS and value}
    for field, value in fields.items():
        if field.name == "MESSAGE_PRIMARY":
            fields[field] = redact(value.decode(encoding, "replace")).encode(encoding, "replace")
    error._info = fields  # type: ignore[attr-defined] # noqa: SLF001 - it has no public name


def _without(argument: Any, details: list[str]) -> Any:
    if not isinstance(argument, str):
        return argument
    for text in details:
        argument = argument.replace(text, "")
    return _ROW_CONTENTS.sub("", argument)


def _redactor(error: BaseException, *, is_numbered: bool) -> Callable[[Any], Any]:
    """Return the function that removes values from the texts of a driver's error."""
    state, number = str(getattr(error, "sqlstate", None) or ""), error.args[0] if is_numbered and error.args else None
    is_from_trigger = getattr(error, "sqlite_errorname", None) == "SQLITE_CONSTRAINT_TRIGGER" or _is_raised(error)
    if number == _MYSQL_NO_PARTITION:
        return lambda item: "the table has no partition for a value" if isinstance(item, str) else item
    if state.startswith("P0") or number == _MYSQL_SIGNAL or is_from_trigger:
        return lambda item: _TRIGGER_TEXT if isinstance(item, str) else item
    if number == _MYSQL_DUPLICATE and any(_DUPLICATE.search(str(item)) for item in error.args):
        return lambda item: _DUPLICATE.sub("'***'", item) if isinstance(item, str) else item
    # 22 is a value that does not fit its type, in PostgreSQL.
    shows_values = number not in _MYSQL_QUOTES_NAMES if isinstance(number, int) else state.startswith("22")
    return lambda item: _QUOTED.sub("'***'", item) if shows_values and isinstance(item, str) else item


def _is_raised(error: BaseException) -> bool:
    """Return whether the text is that of a function in PostgreSQL, which may raise it with any SQLSTATE."""
    for source in (error, error.__cause__):
        diagnostics = getattr(source, "diag", source)
        names = [getattr(diagnostics, name, None) for name in ("source_function", "server_source_function")]
        if "exec_stmt_raise" in names or re.search("PL/(?!pgSQL)", str(getattr(diagnostics, "context", None))):
            return True
    return False
