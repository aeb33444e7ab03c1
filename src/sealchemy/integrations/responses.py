"""The responses of token and revocation endpoints, reduced to what may be shown."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl

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

DEAD_TOKEN_ERRORS = frozenset({"invalid_access_token", "invalid_grant", "invalid_token", "token_revoked"})
"""The codes with which revocation endpoints refuse a token that is dead already."""

TOKEN_FIELDS = frozenset(
    {"access_token", "expires_at", "expires_in", "id_token", "refresh_token", "scope", "token_type"}
)
"""What a response says of one pair of tokens."""

_UNAUTHORIZED = 401  # of the application: RFC 6749, section 5.2
_OF_THE_APPLICATION = {"access_denied", "invalid_request_error", "unauthorized_client"}  # Atlassian, Stripe, Keycloak
_TOO_MANY = 429
_REPEATED_LATER = frozenset({408, 425, _TOO_MANY})  # HTTP statuses
_SAFE = re.compile(r"[a-z_]{1,40}")  # a wider pattern would match tokens
_MICROSOFT = re.compile(r"AADSTS[0-9]{1,10}(?![0-9])")
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_LONGEST_INTEGER = 18  # digits that every JSON parser reads
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
    response: Response,
    dead: AbstractSet[str],
    sent: Collection[str],
    *,
    needs_token: bool = True,
    path: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the whole object in a response, which is JSON or form-encoded, or raise `Refused`.

    Args:
        response: of a token or revocation endpoint.
        dead: the codes that say that the grant is dead.
        sent: the secrets of the request, which some responses repeat.
        needs_token: whether a response without an access token is none.
        path: where in it the object with the tokens is; if there is one, other tokens in the response are ignored.
    """
    status, body = response.status_code, _body(response)
    said = with_nested(body, path) if isinstance(body, dict) else {}
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
    return body if isinstance(body, dict) else {}


def _body(response: Response) -> Any:
    text = ""
    try:
        # One field that is not in UTF-8 must not lose the tokens in the others.
        text = response.content.decode(json.detect_encoding(response.content), "surrogateescape")
        return _with_text_tokens(json.loads(text, parse_int=_whole_number))
    except (ValueError, RecursionError):  # some of them hold the body
        is_form = "application/x-www-form-urlencoded" in response.headers.get("Content-Type", "").lower()
        try:
            return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=100)) if is_form else None
        except ValueError:
            return None


def with_nested(body: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return an object with the tokens of one inside it, if there is one, and never some of each."""
    found: Any = body
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    if found is body or not isinstance(found, dict):
        return body
    return {name: value for name, value in body.items() if name not in TOKEN_FIELDS} | found


def _whole_number(digits: str) -> str | int:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else digits


def _with_text_tokens(body: Any) -> Any:
    """Return a response in which tokens that are numbers are text."""
    if not isinstance(body, dict):
        return body
    numbers = {name: body[name] for name in ("access_token", "refresh_token") if type(body.get(name)) is int}
    return body | {name: str(number) if number else None for name, number in numbers.items()}


def _refused(body: dict[str, Any], status: int, dead: AbstractSet[str], sent: Collection[str]) -> Refused:
    error = body.get("error")
    if isinstance(error, dict):  # as the APIs of Google, Facebook and Dropbox have it
        names = ("status", "type", "code", ".tag")
        error = next((error[name] for name in names if isinstance(error.get(name), str)), None)
    if not isinstance(error, str):
        error = None
    elif (first := error.partition(":")[0]) in NOT_OF_THE_GRANT:  # Dropbox says more behind it
        error = first
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
    if status == _UNAUTHORIZED and not found and known in _OF_THE_APPLICATION:
        known = "invalid_client"
    code = known if found else _code_at(status, known)
    return Refused(f"responded {shown} (HTTP status {status})", code, is_dead=bool(found))


def _code_at(status: int, code: str) -> str:
    """Return the code of a response with a status, which decides whether the grant was refused."""
    if status == _TOO_MANY:
        return "rate_limited"
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
        elif isinstance(item, str | int):
            yield str(item)


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
