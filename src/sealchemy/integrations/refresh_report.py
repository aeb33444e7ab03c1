"""What `refresh_due` did, and how each provider takes it."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic

from .refreshing import Refresh

AT_ONCE = "rate_limited"
"""The code after which a provider is left alone at once."""

_FAILURES_OF_A_PROVIDER = 3  # in a row, after which it is left alone

logger = logging.getLogger("sealchemy")


@dataclass
class RefreshReport:
    """What a call of `refresh_due` did.

    Attributes:
        refreshed: how many tokens are new, by provider.
        failed: how many are not, by provider and code; `code` is as in `last_error`.
        left: how many of those that were chosen were not asked for, because their provider did not respond, or asked
            to wait, by provider. The next call chooses them again.
    """

    refreshed: Counter[str] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


class Progress:
    """How one provider takes it."""

    def __init__(self, report: RefreshReport, provider: str, rate: float) -> None:
        self._report, self._provider, self._pause = report, provider, 1 / rate
        self._next_at, self._failures = 0.0, 0
        self.is_left_alone = False

    def seconds_to_wait(self) -> float:
        """Return the time until the provider may be asked again."""
        return max(self._next_at - monotonic(), 0.0)

    def add(self, began: float, refresh: Refresh, code: str | None, *, is_of_row: bool) -> None:
        """Learn from one row."""
        if refresh.has_asked:
            self._next_at = began + self._pause
        if code is not None:
            self._report.failed[self._provider, code] += 1
        elif refresh.has_asked:
            self._report.refreshed[self._provider] += 1
        self._failures = self._failures + 1 if code is not None and not is_of_row else 0
        if code == AT_ONCE or refresh.retry_after or self._failures == _FAILURES_OF_A_PROVIDER:
            self.is_left_alone = True
            logger.warning("%r does not refresh tokens now (%s); it is left alone", self._provider, code)
