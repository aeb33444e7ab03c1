"""What a failed refresh means: whether the grant may be dead, and when the provider is asked again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

CLIENT_ERRORS = frozenset({"bad_client_secret", "incorrect_client_credentials", "invalid_client", "invalid_client_id"})
"""The codes that say that the provider does not know the application."""

NOT_OF_THE_GRANT = CLIENT_ERRORS | {
    "fatal_error",
    "internal_error",
    "rate_limited",
    "ratelimited",
    "request_timeout",
    "server_error",
    "service_unavailable",
    "slow_down",
    "temporarily_unavailable",
    "timeout",
    "unreachable",
    "unsupported_grant_type",
    "untrusted_certificate",
    "unusable_response",
}
"""The codes of the application, of the network or of the moment: however often they come, the grant may be alive."""

REJECTED = "rejected_access_token"
"""The code of an access token that a provider rejected, where there is no refresh token to ask with."""

_REFUSALS_OF_A_DEAD_GRANT = 5
_PAUSES_AFTER_REFUSALS = (60.0, 300.0, 900.0, 2700.0)  # so that a short incident of a provider marks nothing
_WITHOUT_PAUSE = 2  # other failures, such as dropped connections, which the next attempt does not meet
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_FORGOTTEN_AFTER = timedelta(days=1)


class Failures(NamedTuple):
    """The columns of a row that say why its provider issues no tokens.

    Attributes:
        failing_since: when the first of these failures was; None if the last refresh worked.
        failures: their number, as far as they are of one kind: refusals of this grant or, before the first of these,
            others.
        last_error: the code of the last one of this kind.
        next_attempt_at: when the provider may be asked again; None if it may be asked now.
    """

    failing_since: datetime | None = None
    failures: int = 0
    last_error: str | None = None
    next_attempt_at: datetime | None = None

    def and_then(self, code: str, now: datetime, retry_after: float | None) -> Failures:
        """Return the columns after one more failure.

        Args:
            code: of the failure.
            now: the time, by the clock of the database.
            retry_after: the seconds that the provider asked to wait.
        """
        if is_refusal(self.last_error) and not is_refusal(code):  # tells nothing of the grant
            pause = max(_FIRST_PAUSE, retry_after or 0.0)
            return self._replace(next_attempt_at=now + timedelta(seconds=pause))
        is_first = self.last_error is None or is_refusal(self.last_error) != is_refusal(code)
        if code == REJECTED and self.next_attempt_at is not None:  # its successes are not known
            is_first = is_first or now - self.next_attempt_at > _FORGOTTEN_AFTER
        failures = 1 if is_first else self.failures + 1
        pause = max(_pause(failures, code), retry_after or 0.0)
        return Failures(self.failing_since or now, failures, code, now + timedelta(seconds=pause) if pause else None)

    @property
    def shows_a_dead_grant(self) -> bool:
        """Whether the provider refused the grant so often that it must be dead, whatever it calls that."""
        return self.failures >= _REFUSALS_OF_A_DEAD_GRANT and is_refusal(self.last_error)


class Outcome(NamedTuple):
    """What a failure has done to a row.

    Attributes:
        must_connect: the user must connect again: the grant is dead, or was refused too often.
        is_new: the row did not say so before.
    """

    must_connect: bool = False
    is_new: bool = False


def is_refusal(code: str | None) -> bool:
    """Return whether a provider refused a grant with this code, rather than the application or the moment."""
    return code is not None and code not in NOT_OF_THE_GRANT


def _pause(failures: int, code: str) -> float:
    if is_refusal(code):
        return _PAUSES_AFTER_REFUSALS[min(failures, len(_PAUSES_AFTER_REFUSALS)) - 1]
    if failures <= _WITHOUT_PAUSE:
        return 0.0
    return min(_FIRST_PAUSE * 2.0 ** min(failures - _WITHOUT_PAUSE - 1, 10), _LONGEST_PAUSE)
