"""The progress and the result of a run over a table. Rows are named by primary key; no value is in here."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sealchemy._databases.table import RowKey
from sealchemy.errors import SealchemyError

_FAILURES_LISTED = 1000
_REASONS_IN_A_MESSAGE = 10
_KEYS_OF_A_REASON = 10


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        table: the table's name, with its schema.
        step: `encrypt`, `rekey` or `decrypt` while rows are written, `verify` while they are only read.
        done: rows so far in this step.
        total: rows when the step began.
    """

    table: str
    step: str
    done: int
    total: int


class Failure(NamedTuple):
    """A value that could not be read."""

    key: RowKey
    column: str
    reason: str

    def __str__(self) -> str:
        """Return where it is and why it cannot be read."""
        return f"{self.key} {self.column}: {self.reason}"


@dataclass
class Report:
    """What a run did.

    Attributes:
        table: the table's name, with its schema.
        rewritten: rows whose values were changed.
        pending: rows still to do: locked or written by others meanwhile, or every such row of a dry run.
        failed: values that could not be read; they are left byte for byte.
        failures: the first thousand of them.
        stopped: what ended the run early, if anything did.
        left_behind: where old values may still be found, in sentences.
        key_id: the id of the primary key, under which values were written.
        read: rows that were looked at, in a run that only reads.
    """

    table: str
    rewritten: int = 0
    pending: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    stopped: Literal["max_rows", "interrupt"] | None = None
    left_behind: list[str] = field(default_factory=list)
    key_id: str | None = None
    read: int = 0

    def add_failure(self, key: RowKey, column: str, error: SealchemyError) -> None:
        """Count a value that could not be read, and list it while the list is short."""
        self.failed += 1
        if len(self.failures) < _FAILURES_LISTED:
            self.failures.append(Failure(key, column, f"{type(error).__name__}: {error}"))

    def add(self, other: "Report") -> None:
        """Add the pending rows and the failures of a part of the table; those that it rewrote are counted elsewhere."""
        self.pending += other.pending
        self.failed += other.failed
        self.failures += other.failures[: _FAILURES_LISTED - len(self.failures)]

    def describe_failures(self) -> str:
        """Return how many values could not be read, and why: the first keys of each reason."""
        groups = list(self.failures_by_reason().items())
        listed = "; ".join(_describe(keys, column, reason) for (column, reason), keys in groups[:_REASONS_IN_A_MESSAGE])
        more = self.failed - sum(len(keys) for _, keys in groups[:_REASONS_IN_A_MESSAGE])
        return (
            f"{self.failed} values cannot be read and were left as they were, by primary key: {listed}"
            f"{f'; and {more} more' if more > 0 else ''}"
        )

    def failures_by_reason(self) -> dict[tuple[str, str], list[RowKey]]:
        """Return the keys of the listed failures by their column and reason."""
        found: dict[tuple[str, str], list[RowKey]] = {}
        for key, column, reason in self.failures:
            found.setdefault((column, reason), []).append(key)
        return found


def _describe(keys: list[RowKey], column: str, reason: str) -> str:
    more = len(keys) - _KEYS_OF_A_REASON
    listed = ", ".join(map(str, keys[:_KEYS_OF_A_REASON]))
    return f"{listed} {column}: {reason}{f'; and {more} more' if more > 0 else ''}"


for _class in (Progress, Failure, Report):
    _class.__module__ = "sealchemy.rewrite"
