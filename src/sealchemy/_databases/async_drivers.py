"""Databases whose URL names an async driver, for code that is not async: it runs in an event loop of its own."""

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, TypeVar

from sqlalchemy import URL, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.util.concurrency import in_greenlet

from sealchemy.errors import UnsupportedOperationError

_Result = TypeVar("_Result")


class NeedsEventLoopError(UnsupportedOperationError):
    """A URL names an async driver outside of `run`."""


def is_async(url: str | URL) -> bool:
    """Return whether a URL names an async driver, such as asyncpg."""
    return bool(make_url(url).get_dialect().is_async)


def make_engine(url: str | URL, **options: Any) -> Engine:
    """Return an engine for any URL; that of an async driver raises `NeedsEventLoopError` outside of `run`."""
    if not is_async(url):
        return create_engine(url, **options)
    if not in_greenlet():
        driver = make_url(url).get_dialect().driver
        raise NeedsEventLoopError(f"{driver} is an async driver, which needs an event loop; use another driver here")
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - needs greenlet

    engine = create_async_engine(url, **options).sync_engine
    event.listen(engine, "do_connect", _connect)
    return engine


def _connect(dialect: Dialect, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Connect; a server that cannot be reached is the same error as with other drivers."""
    try:
        return dialect.connect(*arguments, **options)
    except OSError as error:
        raise OperationalError(None, None, error, hide_parameters=True) from None
    except TypeError as error:  # it names the option
        problem = f"the driver {dialect.driver} does not take an option of the URL: {error}"
    raise UnsupportedOperationError(problem)


def run(function: Callable[[], _Result]) -> _Result:
    """Return the result of a function that uses such an engine; within `run`, or `run_sync`, another one does nothing.

    Raises:
        UnsupportedOperationError: an event loop is running, which cannot wait for another one.
    """
    if in_greenlet():
        return function()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise UnsupportedOperationError(
            "this database's URL names an async driver, and an event loop is running: call it from a thread, as in"
            " await asyncio.to_thread(command.upgrade, config, 'head')"
        )
    # Not asyncio.run: it turns Ctrl-C into a cancelled task, where a rewrite would end after the step that it is in.
    with closing(asyncio.new_event_loop()) as loop:
        task = loop.create_task(_spawn(function))
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:
            task.cancel()  # ends the `with` blocks that the function is in
            with suppress(BaseException):
                loop.run_until_complete(task)
            raise
        finally:
            if task.done() and not task.cancelled():
                task.exception()


async def _spawn(function: Callable[[], _Result]) -> _Result:
    from sqlalchemy.util import greenlet_spawn  # noqa: PLC0415 - needs greenlet

    return await greenlet_spawn(function)
