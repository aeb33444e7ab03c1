"""A user, a provider and an account, which name one row."""

from __future__ import annotations

from sqlalchemy import inspect

from sealchemy import IntegrationError
from sealchemy._values.secret import has_lone_surrogate

from .models import IntegrationMixin


def require_identity(model: type[IntegrationMixin], user_id: object, provider: object, account: object) -> None:
    """Refuse arguments that would select any row but one, or on some databases the row of another user.

    These convert types when they compare, and ignore blanks at the end of a text.

    Raises:
        IntegrationError: one of them is not a value as the model's column takes it.
    """
    if not isinstance(provider, str) or user_id is None or hasattr(user_id, "__clause_element__"):
        raise IntegrationError(
            f"user_id is {type(user_id).__name__} and provider {type(provider).__name__}; pass two values"
        )
    for name, value in (("user_id", user_id), ("provider", provider), ("account", account)):
        try:
            wanted: type = inspect(model).columns[name].type.python_type
        except NotImplementedError:  # a TypeDecorator, with SQLAlchemy 2.0
            wanted = object
        problem = None
        if not isinstance(value, wanted) or isinstance(value, bool):
            problem = f"it is {type(value).__name__}, not {wanted.__name__}"
        elif isinstance(value, str) and (value != value.rstrip(" ") or has_lone_surrogate(value) or "\0" in value):
            problem = "it ends with a blank, or has a NUL or a lone surrogate"
        if problem is not None:
            raise IntegrationError(f"{name} does not name one row: {problem}; pass the value that the row has")


def label(number: object, provider: str) -> str:
    """Return what errors and the log call a row; control characters and newlines are escaped."""
    return repr(f"integration {number} ({provider})")[1:-1]
