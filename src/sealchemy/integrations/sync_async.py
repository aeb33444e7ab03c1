"""How callers with threads and callers with an event loop wait: both run the same steps."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from sealchemy import IntegrationError, RefreshFailedError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession  # needs greenlet, which not every application has

logger = logging.getLogger("sealchemy")

STORE_SECONDS = 60.0
"""How long storing a response is retried while the database is unavailable."""

_PAUSE = 0.25  # short: when the database is back, other callers want the lease
_Result = TypeVar("_Result")
_Start: TypeAlias = Callable[[], Coroutine[Any, Any, _Result]]


class Runner(Protocol):
    """How a caller waits."""

    async def transaction(self, step: Callable[[Session], _Result]) -> _Result:
        """Run a step in a transaction of its own, on a connection that is returned to the pool."""
        raise NotImplementedError

    async def request(self, call: Callable[[], _Result]) -> _Result:
        """Run a call that waits for the network."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def persistently(self, step: Callable[[Session], _Result]) -> _Result:
        """Run a step as `transaction` does, and retry while the database is unavailable."""
        raise NotImplementedError

    async def run_to_its_end(self, start: _Start[_Result], seconds: float | None) -> _Result:
        """Run steps that nothing which happens to the caller interrupts; it has made a transaction before.

        Raises:
            TimeLimitReachedError: they did not end within `seconds`, and go on.
        """
        raise NotImplementedError


class _Persistence:
    async def persistently(self: Runner, step: Callable[[Session], _Result]) -> _Result:
        """Run a step that must not be given up easily."""
        deadline, failure = time.monotonic() + STORE_SECONDS, None
        while True:
            try:
                if failure is not None:
                    logger.warning("storing a response of a provider is retried (%s)", failure)
                    await self.sleep(_PAUSE)
                return await self.transaction(step)
            except asyncio.CancelledError:  # once, when the event loop ends
                failure = "cancelled"
            except (DBAPIError, PoolTimeoutError, OSError) as error:
                failure = type(error).__name__
                if isinstance(error, DataError | IntegrityError | ProgrammingError):
                    logger.error("a response of a provider cannot be stored (%s)", failure)  # noqa: TRY400
                    raise
            if time.monotonic() > deadline:
                message = (
                    f"the provider responded, but the database did not store the tokens within {STORE_SECONDS:g} s"
                    f" ({failure}); if the provider rotates refresh tokens, the user must connect again"
                )
                logger.error(message)
                raise RefreshFailedError(message)


class BlockingRunner(_Persistence):
    """For threads: nothing here ever suspends."""

    def __init__(self, session_factory: Callable[[], Session], model: type[Any]) -> None:
        self._factory, self._model = _own_sessions(session_factory, is_async=False), model
        self._bind: Any = None

    async def transaction(self, step: Callable[[Session], _Result]) -> _Result:
        """Run a step in a transaction of its own."""
        with self._factory() as session, session.begin():
            self._bind = session.get_bind(self._model)
            return step(session)

    def is_of_one_thread(self) -> bool:
        """Return whether the connection of the last transaction belongs to its thread: a test, or one in memory."""
        pool = getattr(self._bind, "pool", None)
        return isinstance(self._bind, Connection) or isinstance(pool, SingletonThreadPool | StaticPool)

    async def request(self, call: Callable[[], _Result]) -> _Result:
        """Run a call to the provider."""
        return call()

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop

    async def run_to_its_end(self, start: _Start[_Result], seconds: float | None) -> _Result:
        """Run steps where no exception of the caller's thread, such as that of a signal handler, reaches them."""
        if self.is_of_one_thread():
            return await start()
        future = _in_thread(lambda: run(start()))
        wait([future], seconds)
        if not future.done():
            raise TimeLimitReachedError
        return future.result()


class AsyncRunner(_Persistence):
    """For an event loop."""

    def __init__(self, session_factory: Callable[[], AsyncSession]) -> None:
        self._factory = _own_sessions(session_factory, is_async=True)

    async def transaction(self, step: Callable[[Session], _Result]) -> _Result:
        """Run a step in a transaction of its own."""
        async with self._factory() as session, session.begin():
            return await session.run_sync(step)  # type: ignore[no-any-return] # the factory is of any kind

    async def request(self, call: Callable[[], _Result]) -> _Result:
        """Run a call to the provider, and wait for it even when the event loop ends.

        It has a thread of its own: in the default executor of the loop, a provider that hangs would stop name
        resolution for the whole application.
        """
        future = asyncio.wrap_future(_in_thread(call))
        while True:
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                if future.cancelled():
                    raise

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    async def run_to_its_end(self, start: _Start[_Result], seconds: float | None) -> _Result:
        """Run steps in a task that continues when the caller is cancelled."""
        task = asyncio.create_task(start())
        _under_way.add(task)  # a loop keeps weak references only
        task.add_done_callback(_ended)
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise TimeLimitReachedError
        return task.result()


class TimeLimitReachedError(Exception):
    """The caller does not wait longer. It is never seen outside."""


def _own_sessions(factory: Any, *, is_async: bool) -> Any:
    """Return the factory of new sessions, or refuse one that would return the caller's own."""
    if hasattr(factory, "session_factory"):  # a scoped_session or async_scoped_session
        return factory.session_factory
    if isinstance(factory, Session) or hasattr(factory, "sync_session") or not callable(factory):
        raise IntegrationError(
            f"session_factory is a {type(factory).__name__}; pass a factory, such as sessionmaker(engine) or"
            " async_sessionmaker(engine), since a refresh must be committed even if the caller's transaction is not"
        )
    made = getattr(factory, "class_", None)
    if made is not None and hasattr(made, "sync_session_class") is not is_async:
        wanted = "async_sessionmaker(engine)" if is_async else "sessionmaker(engine)"
        raise IntegrationError(f"session_factory makes {made.__name__}; this function needs {wanted}")
    return factory


def run(steps: Coroutine[Any, Any, _Result]) -> _Result:
    """Run steps that never suspend."""
    try:
        steps.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError


def _in_thread(call: Callable[[], _Result]) -> Future[_Result]:
    """Run a call in a new thread, for which the end of the process waits, with the caller's context variables."""
    future: Future[_Result] = Future()
    once = threading.Lock()

    def work() -> None:
        if not once.acquire(blocking=False):
            return  # the thread runs, though starting it was interrupted by a RuntimeError
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where the result is taken
            future.set_exception(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="sealchemy")
    try:
        thread.start()
    except RuntimeError:  # the process has too many, or is ending
        work()
    return future


_under_way: set[asyncio.Task[Any]] = set()


def _ended(task: asyncio.Task[Any]) -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()  # marks it as retrieved: the caller may have been cancelled
