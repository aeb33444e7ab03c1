"""Databases whose URL names an async driver, for code that is not async: it runs in an event loop of its own."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import URL, Engine, create_engine, make_url

_Result = TypeVar("_Result")


def is_async(url: str | URL) -> bool:
    """Return whether a URL names an async driver, such as asyncpg."""
    return bool(make_url(url).get_dialect().is_async)


def make_engine(url: str | URL, **options: Any) -> Engine:
    """Return an engine for any URL; that of an async driver works inside of `run` only."""
    if not is_async(url):
        return create_engine(url, **options)
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - needs greenlet

    return create_async_engine(url, **options).sync_engine


def run(function: Callable[[], _Result]) -> _Result:
    """Return the result of a function that uses such an engine; within one call of `run`, another one does nothing."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_spawn(function))
    return function()


async def _spawn(function: Callable[[], _Result]) -> _Result:
    from sqlalchemy.util import greenlet_spawn  # noqa: PLC0415 - needs greenlet

    return await greenlet_spawn(function)
