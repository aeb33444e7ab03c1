"""The responses of token and revocation endpoints, reduced to what may be shown."""

from __future__ import annotations

import json
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from requests import Response

from sealchemy._values.secret import hide

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
    """A response without a grant. It carries nothing else of the response."""

    def __init__(self, problem: str, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(problem)
        self.code = code
        self.retry_after = retry_after


def parse(response: Response, *, needs_body: bool = True) -> dict[str, Any]:
    """Return the JSON object of a response, or raise `Refused`."""
    status, retry_after = response.status_code, _retry_after(response.headers.get("Retry-After"))
    try:
        body = json.loads(response.content, parse_int=float)  # an int of a thousand digits is an error
    except ValueError:  # its error holds the body
        body = None
    code = body.get("error") if isinstance(body, dict) else None
    if code or status >= 300:  # noqa: PLR2004 - RFC 9110, section 15
        known = code if isinstance(code, str) and code in _ERRORS else None
        code, body, response = None, None, hide(response)  # error trackers print the variables of a frame
        raise Refused(f"responded {known or 'with an error'} (HTTP status {status})", known, retry_after)
    if isinstance(body, dict):
        return body
    if needs_body:
        body, response = None, hide(response)
        raise Refused(f"sent something other than a JSON object (HTTP status {status})")
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
