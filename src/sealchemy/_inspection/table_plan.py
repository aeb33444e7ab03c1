"""Where a table and its encrypted columns stand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from sealchemy._rewriting.column_states import ColumnStatus

from .findings import ABOUT_ROWS, Finding
from .preflight import is_obstacle, parse_accept

VALUES_A_SECOND = 10_000  # of one process; it only has to tell minutes from hours


@dataclass
class ColumnPlan:
    """Where one column stands.

    Attributes:
        status: its values by state.
        is_required: the database refuses plaintext in it, and values that are not bound to their row if it has
            `bind_to`.
        is_narrow: its type has no room for ciphertext, or is not text.
    """

    status: ColumnStatus
    is_required: bool = False
    is_narrow: bool = False

    @property
    def state(self) -> str:
        """`required`, `encrypted`, `not bound`, `partly encrypted`, `plaintext` or `empty`."""
        encrypted = sum(self.status.keys.values()) + self.status.unknown
        if self.status.bind_to and self.status.unbound and not self.status.plaintext:
            return "not bound"
        if self.is_required and not self.status.plaintext:
            return "required"
        if self.status.plaintext:
            return "partly encrypted" if encrypted else "plaintext"
        return "encrypted" if encrypted else "empty"


@dataclass
class IndexPlan:
    """Where one blind index stands.

    Attributes:
        index: its column.
        secret: the column of its secret.
        missing: the rows that have a secret and no digest; None if the column does not exist.
    """

    index: str
    secret: str
    missing: int | None


@dataclass
class TablePlan:
    """Where the columns of one table stand, and what was found about it.

    Attributes:
        table: the table's name.
        schema: its schema, if it is not the default one.
        columns: its encrypted columns.
        findings: what blocks, must be accepted or must be known.
        rows: its rows.
        plaintext_bytes: the size of its plaintext values.
        indexes: its blind indexes.
    """

    table: str
    schema: str | None = None
    columns: list[ColumnPlan] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    rows: int = 0
    plaintext_bytes: int = 0
    indexes: list[IndexPlan] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """An estimate of the time that one process takes to encrypt the plaintext, without pauses."""
        return sum(column.status.plaintext for column in self.columns) / VALUES_A_SECOND

    @property
    def is_done(self) -> bool:
        """Whether the table has values, and all of them are encrypted, and bound if they are to be."""
        return bool(self.columns) and all(
            column.state in {"encrypted", "required"} or (column.state == "empty" and self.rows)
            for column in self.columns
        )

    def obstacles(self, accept: Collection[str] = ()) -> list[Finding]:
        """Return the findings that stop the rewrite that is left to do, unless the operator accepts them by label."""
        labels = parse_accept(accept)
        found = [item for item in self.findings if is_obstacle(item, labels)]
        return [item for item in found if item.code in ABOUT_ROWS] if self.is_done else found
