"""`Parallel`: what runs that share a table ask the database."""

from collections.abc import Sequence
from typing import NoReturn

import sqlalchemy as sa

from sealchemy.errors import UnsupportedOperationError

from .table import KeyText, RangeEnds, Target


class Parallel:
    """Ranges of a table, and the transactions of others; the base class refuses them."""

    def size(self, connection: sa.Connection, target: Target) -> int:
        """Return the bytes of a table in its files; 0 where several connections are of no use."""
        return 0

    def boundaries(self, connection: sa.Connection, target: Target, parts: int) -> list[KeyText]:
        """Return keys, as text, that divide a table into about equal parts; there may be fewer parts."""
        self._refuse()

    def range_ends(self, connection: sa.Connection, target: Target, ends: Sequence[KeyText | None]) -> RangeEnds | None:
        """Return the keys that such texts stand for; None if they are in the wrong order."""
        self._refuse()

    def identity(self, connection: sa.Connection, target: Target) -> str:
        """Return what tells a table from one of the same name elsewhere."""
        self._refuse()

    def transaction_id(self, connection: sa.Connection) -> str:
        """Return the id of the transaction that the connection is in."""
        self._refuse()

    def transaction_status(self, connection: sa.Connection, transaction: str) -> str | None:
        """Return `committed`, `aborted` or `in progress`; None if that is not known any more."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UnsupportedOperationError(
            "only PostgreSQL supports ranges and jobs; leave them out: one process is as fast"
        )
