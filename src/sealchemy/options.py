"""`Options`: how a rewriting goes about its work."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UnsupportedOperationError

_DAY = 86_400
_LARGEST_BATCH = 100_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run goes about its work.

    Attributes:
        batch_size: rows in a transaction; nobody waits for longer than one of them takes.
        lock_timeout: seconds to wait for a row, or a table's definition, that somebody else has locked.
        pause: seconds to rest between two batches.
        max_rows: rows after which to stop; a later run goes on.
        shard: `(2, 8)` for the second of eight runs that share a table out, each row to exactly one of them
            by a hash of its primary key; on PostgreSQL.
        dry_run: read, count and report; change nothing.

    """

    batch_size: int = 1000
    lock_timeout: float = 5.0
    pause: float = 0.0
    max_rows: int | None = None
    shard: tuple[int, int] | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Raise `UnsupportedOperationError` if a number makes no sense."""
        number, count = self.shard or (1, 1)
        wrong = {
            "batch_size must be from 1 to 100000": not 1 <= self.batch_size <= _LARGEST_BATCH,
            "lock_timeout must be more than 0 and at most 86400 seconds": not 0 < self.lock_timeout <= _DAY,
            "pause must be from 0 to 86400 seconds": not 0 <= self.pause <= _DAY,
            "max_rows must be 1 or more": self.max_rows is not None and self.max_rows < 1,
            "a shard is one of a number of them, such as 2/8": not 1 <= number <= count,
        }
        for message in (message for message, is_wrong in wrong.items() if is_wrong):
            raise UnsupportedOperationError(message)
