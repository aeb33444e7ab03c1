"""`Sample`: read a share of a table's rows, in stretches at random places, and skip the others."""

import random

from .pages import Span
from .steps import Steps
from .walk import Step

_STRETCH = 100


class Sample:
    """What a walk does in place of reading every row: by turns it skips some, and reads 100; some in any table."""

    def __init__(self, steps: Steps, share: float, *, is_rest: bool) -> None:
        """Take the share of the rows to read; from 0.002 on, no statement skips more than 100 000 of them.

        In the first range of a table, or a whole one, some are read in any case; `is_rest` says that it is another one.
        """
        self._steps, self._longest = steps, 2 * _STRETCH * (1 - share) / share
        self._has_read, self._random = is_rest, random.SystemRandom()
        self._reads_next, self._is_first = self._random.random() < share, True

    def look(self, span: Span, _count: int) -> Step:
        """Skip or read the next rows of a span."""
        if not self._reads_next and round(self._longest):
            step = self._steps.skip(span, self._rows_to_skip())
            if step.high != span[1] or self._has_read:
                self._reads_next = True
                return step
        self._reads_next, self._has_read, self._is_first = False, True, False
        return self._steps.survey(span, _STRETCH)

    def _rows_to_skip(self) -> int:
        """Return so many rows; as a range begins anywhere, it begins within such a gap, and longer ones more often."""
        part = 1 - self._random.random() ** 0.5 if self._is_first else self._random.random()
        return 1 + int(part * self._longest)
