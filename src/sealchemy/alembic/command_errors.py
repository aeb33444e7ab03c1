"""Errors of the operations as Alembic's own: its command line prints these alone, without a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

from alembic.operations import Operations
from alembic.util import CommandError

from sealchemy.errors import SealchemyError

from .columns_op import ColumnsOp


@contextmanager
def command_errors() -> Iterator[None]:
    """Let an error of this library also be a `CommandError`."""
    try:
        yield
    except SealchemyError as error:
        error.__class__ = _also_a_command_error(type(error))  # type: ignore[arg-type] # mypy takes it for an instance
        raise


def implements(operation: type[ColumnsOp]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as what an operation does, with such errors."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(*arguments: Any) -> None:
            with command_errors():
                function(*arguments)

        registered: Callable[..., None] = Operations.implementation_for(operation)(run)
        return registered

    return register


@cache
def _also_a_command_error(type_: type[SealchemyError]) -> type[SealchemyError]:
    if issubclass(type_, CommandError):
        return type_
    return type(type_.__name__, (type_, CommandError), {"__module__": type_.__module__, "__doc__": type_.__doc__})
