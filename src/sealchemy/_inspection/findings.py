"""`Finding`: something about a table that stands in the way of encrypting its columns, or that must be known."""

from enum import StrEnum
from typing import NamedTuple

WIDENED = frozenset({"width", "type"})
"""The codes of the findings that widening a column repairs."""


ABOUT_ROWS = frozenset({"binding", "collation", "part"})
"""The codes of the findings that matter to every write of a bound value, also when all values are encrypted."""


class Severity(StrEnum):
    """What a finding asks of the operator."""

    __module__ = "sealchemy.plan"

    BLOCKS = "blocks"
    """Nothing is rewritten until it is repaired."""

    ACCEPT = "accept"
    """Nothing is rewritten until the operator accepts it by its label."""

    SAYS = "says"
    """It does not stop a rewrite."""


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        code: its kind: `width`, `unique`, `trigger`, `view`, ...
        severity: what it asks of the operator.
        name: the object's name, or the column's where the object has none.
        message: what it does, and how to repair it.
    """

    code: str
    severity: Severity
    name: str
    message: str

    @property
    def label(self) -> str:
        """The text by which it is accepted, such as `trigger:audit_accounts`."""
        return f"{self.code}:{self.name}"

    def __str__(self) -> str:
        """Return the label and the message."""
        return f"{self.label}: {self.message}"


Finding.__module__ = "sealchemy.plan"


def index(name: str, column: str, repair: str, *, has_room: bool = False) -> Finding:
    """Return the finding for an index on a column, which may have room for ciphertext."""
    if has_room:
        return Finding(
            "index",
            Severity.ACCEPT,
            name,
            f"this index on {column} is of no use for ciphertext; keep it while lookups still compare plaintext, by"
            f" BlindIndex(..., during_rollout=...), and then {repair}",
        )
    return Finding(
        "index",
        Severity.BLOCKS,
        name,
        f"this index on {column} is of no use for ciphertext, and a long value does not fit into it; {repair}",
    )


def unique(name: str, column: str, repair: str, code: str = "unique") -> Finding:
    """Return the finding for a UNIQUE, PRIMARY KEY or exclusion constraint, or a unique index."""
    return Finding(
        code,
        Severity.BLOCKS,
        name,
        f"it compares values of {column}, and two encryptions of one value differ, so it would enforce nothing;"
        f" {repair}, and give the column a BlindIndex, which can be unique",
    )


def foreign_key(name: str, table: str, repair: str) -> Finding:
    """Return the finding for a FOREIGN KEY from or to a column."""
    return Finding(
        "foreign-key",
        Severity.BLOCKS,
        name,
        f"this foreign key of {table} compares values in plaintext; encrypting fails on it, or changes the rows that"
        f" refer to them; {repair}",
    )


def check(name: str, column: str) -> Finding:
    """Return the finding for a CHECK other than ours."""
    return Finding(
        "check",
        Severity.ACCEPT,
        name,
        f"this CHECK tests {column}, and from now on it tests ciphertext; drop it unless it holds for that too",
    )


def generated(column: str, source: str) -> Finding:
    """Return the finding for a generated column."""
    return Finding(
        "generated",
        Severity.BLOCKS,
        column,
        f"this generated column is computed from {source}, which the database will no longer be able to read; drop it",
    )


def default(column: str) -> Finding:
    """Return the finding for a default, which is plaintext."""
    return Finding(
        "default",
        Severity.SAYS,
        column,
        f"the default of {column} is plaintext, which rows inserted without a value get; drop it, once no old"
        " release inserts such rows",
    )


def view(name: str, column: str) -> Finding:
    """Return the finding for a view that shows a column."""
    return Finding(
        "view", Severity.SAYS, name, f"this view uses {column}, and its readers will see ciphertext; change or drop it"
    )


def trigger(name: str, code: str = "trigger") -> Finding:
    """Return the finding for a trigger or a rule that an UPDATE fires."""
    return Finding(
        code,
        Severity.ACCEPT,
        name,
        "it fires for every row that is rewritten. An audit trigger copies each old value into its own table, the"
        " plaintext too, where its column must have room for ciphertext as well, and an updated_at trigger changes"
        f" every row. Disable it for the run, and enable it again; or accept {code}:{name}",
    )


def copies(kind: str, name: str) -> Finding:
    """Return the finding for an object that keeps a copy of the plaintext."""
    return Finding(
        kind, Severity.SAYS, name, "it keeps its copy of the plaintext until it is refreshed, rebuilt or dropped"
    )


def width(column: str, declared: str, longest: int) -> Finding:
    """Return the finding for a column that is too narrow for ciphertext.

    `longest` is the size of the longest plaintext in bytes, 0 if there is none.
    """
    needed = f", and its longest value now needs {ciphertext_size(longest)}" if longest else ""
    return Finding(
        "width",
        Severity.BLOCKS,
        column,
        f"{column} is {declared}, too narrow for ciphertext: n bytes become 26 + 4/3 (n + 40) characters{needed}."
        " Writes would fail or be cut; widen it first (op.widen_columns, `sealchemy widen`)",
    )


def not_text(column: str, declared: str) -> Finding:
    """Return the finding for a column of JSON or of bytes."""
    return Finding(
        "type",
        Severity.BLOCKS,
        column,
        f"{column} is {declared}, but ciphertext is text: turn it into text (op.widen_columns, `sealchemy widen`)."
        " After that, a release that declares the old type can neither read nor write it: stop that release first, or"
        " move the values to a second column while it runs, as the guide on JSON and bytes shows",
    )


def collation(column: str) -> Finding:
    """Return the finding for a column to which values are bound, and whose collation is not binary."""
    return Finding(
        "collation",
        Severity.BLOCKS,
        column,
        f"{column} is bound, and its collation treats different texts as equal, such as a and A: an UPDATE that finds"
        " a row by another spelling would write a value that cannot be read there. Give the column a binary collation"
        " (utf8mb4_bin on MariaDB, BINARY on SQLite)",
    )


def part(column: str) -> Finding:
    """Return the finding for a column to which values are bound, and which has rows that cannot be named."""
    return Finding(
        "part",
        Severity.BLOCKS,
        column,
        f"{column} is bound, and it is NULL or has a newline in some rows, whose secrets could not be read. Correct"
        " these rows, and make the column NOT NULL",
    )


def ciphertext_size(plaintext: int) -> int:
    """Return the size of the encrypted value of a plaintext; both in bytes."""
    return 26 + (plaintext + 40 + 2) // 3 * 4
