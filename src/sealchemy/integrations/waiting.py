"""How long a caller waits for others, and how it gives up its lease."""

from __future__ import annotations

import logging
import random
import time
import uuid
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from sealchemy import RefreshFailedError

from .integration_row import IntegrationRow
from .snapshot import Snapshot
from .sync_async import Runner, TimeLimitReachedError

if TYPE_CHECKING:
    from .oauth import OAuthClient

logger = logging.getLogger("sealchemy")

_MARGIN = 15.0  # seconds of a lease after the HTTP request: to store the response, even if the database restarts
_LATEST = 5.0  # of these, the seconds that may pass before the request


async def release(runner: Runner, row: IntegrationRow, lease: str) -> None:
    """Give up a lease if the database can be reached; it expires by itself."""
    try:
        await runner.transaction(lambda session: row.release(session, lease))
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        logger.warning("a lease could not be released (%s); it expires by itself", type(error).__name__)


class Waiting:
    """The name of a caller's lease, and the caller's patience with others."""

    def __init__(self, client: OAuthClient) -> None:
        self.lease, self.seconds = str(uuid.uuid4()), client.timeout + _MARGIN
        self._began, self._pause, self._other = time.monotonic(), 0.02, False

    def is_late(self, since: float) -> bool:
        """Return whether too much of a lease has passed to send a refresh token: it runs while the machine sleeps."""
        return time.monotonic() - since > _LATEST

    def check(self, snapshot: Snapshot, row: IntegrationRow) -> None:
        """Raise if the refresh of another caller has ended without a new token."""
        if self._other and snapshot.lease is None:
            raise RefreshFailedError(
                "no new token: the refresh of another caller, which this call waited for, ended without one; try again",
                code=snapshot.last_error,
            )
        if snapshot.is_leased() and snapshot.lease != self.lease and not self._other:
            logger.info("%s: waiting for the refresh of another caller", row.label(snapshot.id))
            self._other = True

    async def sleep(self, runner: Runner, left: float | None) -> None:
        """Wait a little, or raise if that has taken too long, or nothing is left of a deadline."""
        if left is not None and left <= 0:
            raise TimeLimitReachedError
        if time.monotonic() - self._began > 2 * self.seconds:
            raise RefreshFailedError(
                "no new token: the row stayed locked, or leased to other callers, for too long; try again"
            )
        self._pause = min(self._pause * 1.5, 0.5)
        pause = self._pause * random.uniform(0.5, 1.5)  # noqa: S311 - spreads the callers
        await runner.sleep(pause if left is None else min(pause, left))
