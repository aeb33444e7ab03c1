"""Databases whose URL names an async driver, for code that is not async: it runs in an event loop of its own."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from sqlalchemy import URL, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError

_Result = TypeVar("_Result")


def is_async(url: str | URL) -> bool:
    """Return whether a URL names an async driver, such as asyncpg."""
    return bool(make_url(url).get_dialect().is_async)


def make_engine(url: str | URL, **options: Any) -> Engine:
    """Return an engine for any URL; that of an async driver works inside of `run` only."""
    if not is_async(url):
        return create_engine(url, **options)
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - needs greenlet

    engine = create_async_engine(url, **options).sync_engine
    event.listen(engine, "do_connect", _connect)
    return engine


def _connect(dialect: Dialect, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Connect; a server that cannot be reached is the same error as with other drivers."""
    try:
        return dialect.connect(*arguments, **options)
    except OSError as error:
        raise OperationalError(None, None, error) from None


def run(function: Callable[[], _Result]) -> _Result:
    """Return the result of a function that uses such an engine; within one call of `run`, another one does nothing."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return function()
    # Not asyncio.run: it turns Ctrl-C into a cancelled task, where a rewrite would end after the step that it is in.
    with closing(asyncio.new_event_loop()) as loop:
        return loop.run_until_complete(_spawn(function))


async def _spawn(function: Callable[[], _Result]) -> _Result:
    from sqlalchemy.util import greenlet_spawn  # noqa: PLC0415 - needs greenlet

    return await greenlet_spawn(function)
