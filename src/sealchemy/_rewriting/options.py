"""`Options`: the limits of a rewrite."""

import re
from dataclasses import dataclass

from sealchemy.errors import UnsupportedOperationError

from .ranges import parse_range

_DAY = 86_400
_LARGEST_BATCH = 100_000
_MOST_NICE = 100
_MOST_JOBS = 100
_LEAST_SAMPLE = 0.002
_FUNCTION = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The limits of a rewrite.

    Attributes:
        batch_size: rows in a transaction; other sessions wait for one batch at most.
        lock_timeout: seconds to wait for a row that another session has locked.
        pause: seconds to rest between two batches.
        nice: the share of the time of a batch to rest after it, 0.5 for half as long as it took.
        max_lag: seconds that a standby may be behind; the run waits for it to catch up; on PostgreSQL.
        max_wal_retained: bytes of WAL that a replication slot may retain; the run waits; on PostgreSQL.
        max_rows: rows after which to stop; a later run goes on.
        shard: `(2, 8)` for the second of eight runs that share a table, each row belonging to exactly one of them
            by a hash of its primary key; on PostgreSQL.
        range: a line of JSON with the keys before and at the ends of the rows to work on, as `split` returns it; on
            PostgreSQL.
        sample: for VERIFY, the share of the rows to look at, such as 0.01, in stretches at random places.
        jobs: in how many processes to work at the same time, each on one range of the table after the other; on
            PostgreSQL, and with an engine that can be made again from its URL.
        engine_factory: for `jobs` with any other engine, a function that each process calls to get it, with its key
            ring attached, as `package.module:function`.
        ddl_patience: seconds for which to keep trying a change of the table's definition that others' locks prevent;
            each attempt waits for half a second at most, since everyone who comes later waits behind it.
        dry_run: read, count and report; change nothing.

    Raises:
        UnsupportedOperationError: a number is out of range.
    """

    batch_size: int = 1000
    lock_timeout: float = 5.0
    pause: float = 0.0
    nice: float = 0.0
    max_lag: float | None = None
    max_wal_retained: int | None = None
    max_rows: int | None = None
    shard: tuple[int, int] | None = None
    range: str | None = None
    dry_run: bool = False
    sample: float | None = None
    jobs: int = 1
    engine_factory: str | None = None
    ddl_patience: float = 300.0

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range."""
        number, count = self.shard or (1, 1)
        _require(1 <= self.batch_size <= _LARGEST_BATCH, "batch_size must be from 1 to 100000")
        _require(0 < self.lock_timeout <= _DAY, "lock_timeout must be more than 0 and at most 86400 seconds")
        _require(0 <= self.ddl_patience <= _DAY, "ddl_patience must be from 0 to 86400 seconds")
        _require(0 <= self.pause <= _DAY, "pause must be from 0 to 86400 seconds")
        _require(0 <= self.nice <= _MOST_NICE, "nice must be from 0 to 100")
        _require(self.max_lag is None or 0 < self.max_lag <= _DAY, "max_lag must be more than 0 and at most 86400 s")
        _require(self.max_wal_retained is None or self.max_wal_retained > 0, "max_wal_retained must be more than 0")
        _require(self.max_rows is None or self.max_rows >= 1, "max_rows must be 1 or more")
        _require(1 <= number <= count, "a shard is one of several, such as 2/8")
        _require(self.sample is None or _LEAST_SAMPLE <= self.sample <= 1, "sample must be from 0.002 to 1")
        _require(1 <= self.jobs <= _MOST_JOBS, "jobs must be from 1 to 100")
        if self.jobs > 1:
            part = self.max_rows is None and self.shard is None and self.range is None
            _require(part, "jobs are for the whole table; leave max_rows, shard and range out")
        if self.engine_factory is not None:
            _require(self.jobs > 1, "engine_factory is for jobs; leave it out")
            is_name = _FUNCTION.fullmatch(self.engine_factory) is not None
            _require(is_name, "engine_factory is the name of a function, as package.module:function")
        if self.range is not None:
            parse_range(self.range)


Options.__module__ = "sealchemy.rewrite"


def _require(is_met: bool, message: str) -> None:  # noqa: FBT001 - the condition
    if not is_met:
        raise UnsupportedOperationError(message)
