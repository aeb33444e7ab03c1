"""`RefusedStatementError`: an error of the database, with a sentence that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError

from sealchemy.errors import RewriteError

from .base import Database


class RefusedStatementError(RewriteError, DBAPIError):
    """The database refused a statement. It is also an error of SQLAlchemy, for code that expects one."""

    @classmethod
    def of(cls, message: str, error: DBAPIError, report: object = None) -> "RefusedStatementError":
        """Return one that is also of the class of SQLAlchemy's error, such as `OperationalError`."""
        class_: Any = cls if type(error) is DBAPIError else type(cls.__name__, (cls, type(error)), {})
        found: RefusedStatementError = class_(message, error, report)
        return found

    def __init__(self, message: str, error: DBAPIError, report: object = None) -> None:
        # Not the driver's error itself: what it knows of a row cannot be removed from it.
        driver_error = error.orig or error
        DBAPIError.__init__(self, None, None, type(driver_error)(*driver_error.args))
        self.args, self.report = (message,), report

    __str__ = Exception.__str__

    def __reduce__(self) -> Any:
        """Leave the driver's error out of a pickle."""
        return RewriteError, (str(self), self.report)


@contextmanager
def explained(database: Database, table: str) -> Iterator[None]:
    """Raise `RewriteError` for an error of the database, whose own text may be a driver's only."""
    try:
        yield
    except RefusedStatementError:
        raise
    except DBAPIError as error:
        message = f"{table}: {database.explain(error)}"
        refused = RefusedStatementError.of(message, error)
    else:
        return
    raise refused
