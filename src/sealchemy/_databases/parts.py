"""`Parts`: a table in parts, by where its rows are stored."""

from collections.abc import Iterator
from typing import ClassVar

import sqlalchemy as sa

from .table import Target


class Parts:
    """A table as one part, where nothing is known of its files."""

    are_short: ClassVar[bool] = False
    """Whether each of them is read in a moment."""

    def of(self, connection: sa.Connection, target: Target) -> Iterator[sa.ColumnElement[bool]]:
        """Yield tests for parts of the table that are all of it together."""
        yield sa.true()

    def are_replaced(self, connection: sa.Connection, target: Target) -> bool:
        """Return whether the files of the table are newer than the snapshot of a transaction that has read it.

        A table that was copied or truncated meanwhile looks empty there.
        """
        return False
