"""`Page`: rows of a table as columns, as many as are in memory at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sealchemy._databases.table import RowKey

BATCH_BYTES = 16 * 1024 * 1024
"""How much of a table is in memory at a time for each connection, apart from a single row."""

LARGE_ROW = 64 * 1024


@dataclass(frozen=True)
class Page:
    """Rows as columns.

    Attributes:
        keys: the primary key of each row.
        values: the stored values of each column; those that are not encrypted are hidden.
        parts: the columns that values are bound to, as text.
        sizes: the bytes of the values of each row. The values of a large row are None until `Pages.complete`.
    """

    keys: list[RowKey]
    values: list[list[Any]]
    parts: list[list[Any]]
    sizes: list[int]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.keys)

    def take(self, places: Sequence[int]) -> "Page":
        """Return some of the rows."""
        values, parts = ([[column[place] for place in places] for column in kind] for kind in (self.values, self.parts))
        return Page([self.keys[place] for place in places], values, parts, [self.sizes[place] for place in places])

    def split(self) -> tuple["Page", list[list[RowKey]]]:
        """Return the rows without large ones, and the keys of these, in groups that are small enough."""
        if max(self.sizes, default=0) <= LARGE_ROW:
            return self, []
        rest = self.take([place for place, size in enumerate(self.sizes) if size > LARGE_ROW])
        groups = []
        while rest:
            count = rest.rows_within(BATCH_BYTES)
            groups.append(rest.keys[:count])
            rest = rest.take(range(count, len(rest)))
        return self.take([place for place, size in enumerate(self.sizes) if size <= LARGE_ROW]), groups

    def rows_within(self, size: int) -> int:
        """Return how many rows have so many bytes together, at least one."""
        total = 0
        for count, item in enumerate(self.sizes):
            total += item
            if total > size and count:
                return count
        return len(self)
