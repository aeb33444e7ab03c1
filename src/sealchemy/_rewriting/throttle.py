"""`Throttle`: rest between the transactions of a run, and wait while the server's standbys fall behind."""

import logging
import time
from threading import Event, Lock

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from sealchemy._databases.access import Access
from sealchemy._databases.replication import Replication
from sealchemy.errors import UnsupportedOperationError

from .options import Options

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_LOGS = 60.0

logger = logging.getLogger("sealchemy")


class Throttle:
    """What a run does between two transactions. It asks about replication on a connection of its own."""

    def __init__(self, access: Access, options: Options, interrupted: Event) -> None:
        self._access, self._options, self._interrupted = access, options, interrupted
        self._replication: Replication | None = None
        self._lock = Lock()
        self._looked = self._logged = -_SECONDS_BETWEEN_LOGS
        if options.max_lag is not None or options.max_wal_retained is not None:
            self._replication = access.database.replication(options.max_lag, options.max_wal_retained)
            if not access.owns_connection:
                raise UnsupportedOperationError(
                    f"{access.target.name}: max_lag and max_wal_retained need an engine, since they are watched on a"
                    " connection of their own; pass the engine"
                )

    def rest(self, seconds: float) -> None:
        """Rest after a transaction that took so many seconds, and while others need time."""
        self._interrupted.wait(self._options.pause + self._options.nice * seconds)
        self.wait()

    def wait(self) -> None:
        """Wait while the limits of replication are exceeded; they are looked at once a second."""
        with self._lock:  # the connections of a run wait together
            self._wait()

    def _wait(self) -> None:
        while self._replication and not self._interrupted.is_set():
            if time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS:
                return
            reason = self._look(self._replication)
            self._looked = time.monotonic()
            if reason is None:
                return
            self._warn(f"waiting, because {reason}")
            self._interrupted.wait(_SECONDS_BETWEEN_LOOKS)

    def _warn(self, text: str) -> None:
        if time.monotonic() - self._logged >= _SECONDS_BETWEEN_LOGS:
            self._logged = time.monotonic()
            logger.warning("%s: %s", self._access.target.name, text)

    def _look(self, replication: Replication) -> str | None:
        try:
            with self._access.connection.engine.connect() as connection:
                return replication.reason_to_wait(connection)
        except PoolTimeoutError:
            raise UnsupportedOperationError(
                f"{self._access.target.name}: max_lag and max_wal_retained are watched on a connection of their own,"
                " and the pool of the engine has none left; give it another one (pool_size, max_overflow)"
            ) from None
        except DBAPIError as error:
            if not self._access.database.is_lost(error):
                raise
            self._warn("going on without a look at replication, as the server takes no connection for it")
        return None  # mostly the run's own connection is lost as well, and goes on when there is a server again
