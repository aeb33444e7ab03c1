"""What a token or revocation endpoint answers, and what may be told of it."""

from __future__ import annotations

import json
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import Response

# RFC 6749, section 5.2; GitHub, twice; Microsoft
GRANT_IS_DEAD = {"invalid_grant", "bad_refresh_token", "bad_verification_code", "interaction_required"}
_ERRORS = GRANT_IS_DEAD | {
    "access_denied",
    "incorrect_client_credentials",
    "invalid_client",
    "invalid_request",
    "invalid_scope",
    "invalid_token",
    "server_error",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_token_type",
}
_LONGEST_WAIT = 24 * 3600.0


class Refused(Exception):  # noqa: N818 - never seen outside
    """An answer that is no grant; it carries nothing of the answer but this."""

    def __init__(self, problem: str, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(problem)
        self.code = code
        self.retry_after = retry_after


def parse(response: Response, *, needs_body: bool = True) -> dict[str, Any]:
    """Return the JSON object of an answer, or raise `Refused`."""
    status, retry_after = response.status_code, _retry_after(response.headers.get("Retry-After"))
    try:
        answer = json.loads(response.content, parse_int=float)  # an int of a thousand digits is an error
    except ValueError:  # its error holds the body
        answer = None
    code = answer.get("error") if isinstance(answer, dict) else None
    if code or status >= 300:  # noqa: PLR2004 - RFC 9110, section 15
        known = code if isinstance(code, str) and code in _ERRORS else None
        del answer, response
        problem = f"answered {known or 'with an error'} (HTTP status {status})"
        raise Refused(problem, known, retry_after)
    if isinstance(answer, dict):
        return answer
    if needs_body:
        problem = f"answered with something that is no JSON object (HTTP status {status})"
        raise Refused(problem)
    return {}


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        if value.isascii() and value.isdigit():
            seconds = float(value)
        else:
            moment = parsedate_to_datetime(value)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT)
