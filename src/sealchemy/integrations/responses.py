"""The responses of token and revocation endpoints, reduced to what may be shown."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from requests import Response

from sealchemy import IntegrationError
from sealchemy._values.secret import hide

from .failures import NOT_OF_THE_GRANT

DEAD_GRANT_ERRORS = frozenset(
    {
        "invalid_grant",  # RFC 6749, section 5.2
        "bad_refresh_token",  # GitHub
        "bad_verification_code",  # GitHub, of a code
        "BAD_REFRESH_TOKEN",  # HubSpot, as `status`
        "invalid_refresh_token",  # Slack
        "token_revoked",  # Slack
        "consent_required",  # Microsoft and OpenID Connect Core, section 3.1.2.6, with the two below
        "interaction_required",
        "login_required",
    }
)
"""The codes that say of any provider's grant that it is dead, wherever they are in its response."""

DEAD_TOKEN_ERRORS = frozenset({"invalid_grant", "invalid_token", "token_revoked"})
"""The codes with which revocation endpoints refuse a token that is dead already."""

_REPEATED_LATER = frozenset({408, 425, 429})  # HTTP statuses
_SAFE = re.compile(r"[a-z_]{1,40}")  # a wider pattern would match tokens
_MICROSOFT = re.compile(r"AADSTS[0-9]{1,10}(?![0-9])")
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_LONGEST_WAIT = 24 * 3600.0


class Refused(Exception):  # noqa: N818 - never seen outside
    """A response without a grant. It carries nothing else of the response.

    Attributes:
        code: see `IntegrationError`.
        retry_after: the seconds of its Retry-After header.
        is_dead: whether it says that the grant is dead.
    """

    def __init__(self, problem: str, code: str, retry_after: float | None = None, *, is_dead: bool = False) -> None:
        super().__init__(problem)
        self.code, self.retry_after, self.is_dead = code, retry_after, is_dead

    def copy(self) -> Refused:
        """Return an equal one without a traceback, whose frames hold the response."""
        return Refused(str(self), self.code, self.retry_after, is_dead=self.is_dead)


def parse(
    response: Response, dead: AbstractSet[str], sent: Collection[str], *, needs_token: bool = True
) -> dict[str, Any]:
    """Return the JSON object of a response, or raise `Refused`.

    Args:
        response: of a token or revocation endpoint.
        dead: the codes that say that the grant is dead.
        sent: the secrets of the request, which some responses repeat.
        needs_token: whether a response without an access token is none.
    """
    status = response.status_code
    try:
        # Text that is not in UTF-8 costs no token beside it. Some tokens are numbers, which a float would round.
        text = response.content.decode(json.detect_encoding(response.content), "surrogateescape")
        body = json.loads(text, parse_int=_whole_number)
    except (ValueError, RecursionError):  # some of them hold the body
        body = None
    said = body if isinstance(body, dict) else {}
    refused = None
    is_granted = needs_token and said.get("access_token") and status < 300  # noqa: PLR2004 - RFC 9110, section 15.3
    if status >= 300 or (said.get("error") and not is_granted):  # noqa: PLR2004 - RFC 9110, section 15.4
        refused = _refused(said, status, dead, sent)
        refused.retry_after = _retry_after(response.headers.get("Retry-After"))
    elif needs_token and not said.get("access_token"):
        what = "a response without an access token" if isinstance(body, dict) else "something other than a JSON object"
        refused = _refused(said, status, dead, sent)
        if not refused.is_dead:
            refused = Refused(f"sent {what} (HTTP status {status})", "unusable_response")
    if refused is not None:
        body, said, response = None, {}, hide(response)  # error trackers print the variables of a frame
        raise refused
    return said


def _whole_number(digits: str) -> str | int:
    return digits if digits.strip("-0") else 0


def _refused(body: dict[str, Any], status: int, dead: AbstractSet[str], sent: Collection[str]) -> Refused:
    error = body.get("error")
    if isinstance(error, dict):  # as the APIs of Google and Facebook have it
        error = next((error[name] for name in ("status", "type", "code") if isinstance(error.get(name), str)), None)
    if not isinstance(error, str):
        error = None
    microsoft = _MICROSOFT.match(str(body.get("error_description")))
    number = microsoft.group() if microsoft else ""
    # What a response says of the moment, or of the application, is not contradicted by texts deep inside of it.
    is_of_the_grant = status < 500 and status not in _REPEATED_LATER and error not in NOT_OF_THE_GRANT  # noqa: PLR2004
    found = dead & ({*_texts(body), number} if is_of_the_grant else {error or ""})
    body = {}
    is_safe = error and _SAFE.fullmatch(error) and not any(secret in error for secret in sent)
    if error not in found and not is_safe:
        error = None
    known = min(found, key=lambda item: (item != error, item), default=error or number)
    shown = ", ".join(dict.fromkeys(filter(None, (known, number)))) or "with an error"
    code = known if found else _code_at(status, known)
    return Refused(f"responded {shown} (HTTP status {status})", code, is_dead=bool(found))


def _code_at(status: int, code: str) -> str:
    """Return the code of a response with a status, which decides whether the grant was refused."""
    if code in NOT_OF_THE_GRANT:
        return code
    if status >= 500:  # noqa: PLR2004 - RFC 9110, section 15.6
        return "server_error"
    if status in _REPEATED_LATER:
        return "rate_limited"
    if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110, section 15.4
        return "unusable_response"
    return code or "unrecognized_error"


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a JSON value, at any depth."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str):
            yield item


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


def require_codes(codes: object) -> frozenset[str]:
    """Return the codes, or raise `IntegrationError`; they are shown as they are."""
    found: Any = codes if isinstance(codes, Collection) and not isinstance(codes, str) else [None]
    if not all(isinstance(code, str) and _CODE.fullmatch(code) for code in found):
        raise IntegrationError(
            "dead_grant_errors takes codes as the provider sends them, each up to 64 letters, digits, '_', '.', ':' or"
            " '-', such as (\"unauthorized_client\",)"
        )
    return frozenset(found)
