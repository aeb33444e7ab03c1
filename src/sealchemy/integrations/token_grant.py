"""`TokenGrant`: the tokens that a provider granted."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from sqlalchemy import inspect

from sealchemy import IntegrationError, PlaintextTypeError
from sealchemy._values.secret import has_lone_surrogate, hide, type_name

from .details import hide_texts, is_storable

_LONGEST_LIFE = 10 * 365 * 24 * 3600.0
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)  # later ones are beyond the year 9999 in some time zones
_EARLIEST = 1e9  # September 2001; some providers send a lifetime, or 0 for none
_SCOPE = re.compile(r"[\x20-\x7e]{1,4096}")  # RFC 6749 3.3, and the width of the column
_FIELDS_IN_0_1 = 6
_TOKEN_TYPE = re.compile(r"[\x21-\x7e]{1,32}")


@dataclass(frozen=True, slots=True, init=False)
class TokenGrant:
    """The tokens that a provider granted: the response of a token endpoint (RFC 6749, section 5.1).

    Attributes:
        access_token: the token for calls to the provider.
        refresh_token: the token for new access tokens; None if the response had none.
        token_type: usually `Bearer`.
        scope: the granted scopes, separated by spaces; None if they are the requested ones.
        expires_at: when the access token expires; None if that is not known.
        expires_in: the same in seconds, as providers send it, from when the grant was requested, or this object made.
            It takes precedence over `expires_at`, and is counted by the clock of the database, so that no clock of an
            application matters.
        details: what else of the response is stored in the column `details` of the row, by name.
        response: the whole response, whose texts are `SecretString`s; it is not stored, nor kept in a pickle.

    Raises:
        PlaintextTypeError: a token is not text, is empty, or has no UTF-8 form.
        IntegrationError: `expires_at` has no time zone.
    """

    __module__ = "sealchemy.integrations"

    access_token: str
    refresh_token: str | None
    token_type: str
    scope: str | None
    expires_at: datetime | None
    expires_in: float | None
    details: Mapping[str, Any] = field(repr=False, hash=False)
    response: Mapping[str, Any] = field(repr=False, compare=False)
    _requested_at: float = field(init=False, repr=False, compare=False)
    """By `time.monotonic`, so of this process alone."""

    def __init__(
        self,
        *,
        access_token: str,
        refresh_token: str | None = None,
        token_type: str = "Bearer",  # noqa: S107 - a type, not a token
        scope: str | None = None,
        expires_at: datetime | None = None,
        expires_in: float | None = None,
        details: Mapping[str, Any] | None = None,
        response: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the tokens as `SecretString`s; written out, because a generated one would keep them as they are."""
        access_token, refresh_token = hide(access_token), hide(refresh_token)
        details, response = hide_texts(details or {}), hide_texts(response or {})
        object.__setattr__(self, "access_token", access_token)
        object.__setattr__(self, "refresh_token", refresh_token)
        object.__setattr__(self, "token_type", token_type)
        object.__setattr__(self, "scope", scope)
        object.__setattr__(self, "expires_at", _not_too_late(expires_at))
        object.__setattr__(self, "expires_in", expires_in)
        self.keep(details, response)
        object.__setattr__(self, "_requested_at", time.monotonic())
        _check("access_token", self.access_token)
        if self.refresh_token is not None:
            _check("refresh_token", self.refresh_token)
        if expires_at is not None and getattr(expires_at, "tzinfo", None) is None:
            raise IntegrationError("expires_at of a grant is not a time with a time zone; use datetime.now(UTC) + ...")
        if expires_in is not None and not (isinstance(expires_in, int | float) and abs(expires_in) <= _LONGEST_LIFE):
            raise IntegrationError(f"expires_in of a grant takes seconds, up to {_LONGEST_LIFE:g}, or None")

    @classmethod
    def from_response(cls, token: Mapping[str, Any]) -> TokenGrant:
        """Return the grant in the response of a token endpoint.

        It may also be a dictionary of Authlib or requests-oauthlib, which keep the time as `expires_at`; then
        `expires_in`, which counts from a request of long ago, is ignored. Optional fields that do not follow RFC 6749
        are ignored rather than refused: a refresh token in the same response exists nowhere else.

        Raises:
            PlaintextTypeError: there is no access token, or a token that cannot be stored.
        """
        problem = None if isinstance(token, Mapping) else f"the response is {type(token).__name__}, not a dictionary"
        if problem is not None:
            token = hide(token)
            raise PlaintextTypeError(f"{problem}; pass response.json()")
        given: dict[str, Any] = {
            "access_token": hide(token.get("access_token")),
            "refresh_token": hide(token.get("refresh_token") or None),
            "token_type": _match(_TOKEN_TYPE, token.get("token_type")),
            "scope": _match(_SCOPE, _joined(token.get("scope"))),
            "expires_at": _moment(token.get("expires_at")),
        }
        if given["expires_at"] is None:
            given["expires_in"] = lifetime(token.get("expires_in"))
        if given["refresh_token"] is None and not given.get("expires_in"):
            given["expires_in"] = None  # some providers send 0 for a token that never expires
        tokens = [item for item in (given["access_token"], given["refresh_token"]) if isinstance(item, str) and item]
        given |= {name: None for name in ("scope", "token_type") if any(item in (given[name] or "") for item in tokens)}
        given["token_type"] = given["token_type"] or "Bearer"
        given["response"] = hide_texts(token)
        token = hide(token)
        return cls(**given)

    def requested_at(self, moment: float) -> Self:
        """Return this grant, whose `expires_in` counts from a moment by `time.monotonic`."""
        object.__setattr__(self, "_requested_at", moment)
        return self

    def keep(self, details: Mapping[str, Any], response: Mapping[str, Any]) -> None:
        """Keep what a response says besides; details that cannot be stored are left out."""
        storable = {name: item for name, item in details.items() if isinstance(name, str) and is_storable(item)}
        object.__setattr__(self, "details", hide_texts(storable) if is_storable(storable) else {})
        object.__setattr__(self, "response", hide_texts(response))

    def columns(self, now: datetime) -> dict[str, Any]:
        """Return the columns of an integration that a grant fills; those that it does not mention stay as they are.

        Args:
            now: the time, by the clock of the database.
        """
        seconds = self.seconds_left()
        optional = {"refresh_token": self.refresh_token, "scope": self.scope}
        return {
            "access_token": self.access_token,
            "token_type": self.token_type,
            "expires_at": self.expires_at if seconds is None else now + timedelta(seconds=seconds),
            **{name: value for name, value in optional.items() if value is not None},
        }

    def seconds_left(self) -> float | None:
        """Return what is left of `expires_in`."""
        return None if self.expires_in is None else self.expires_in - (time.monotonic() - self._requested_at)

    def __getstate__(self) -> list[Any]:
        """Return what a pickle keeps, in which `expires_in` counts from now."""
        return [
            self.access_token,
            self.refresh_token,
            self.token_type,
            self.scope,
            self.expires_at,
            self.seconds_left(),
            self.details,
        ]

    def __setstate__(self, state: list[Any]) -> None:
        """Count from now; a pickle of version 0.1 has no details."""
        state = [*state, *([{}] if len(state) == _FIELDS_IN_0_1 else []), {}, time.monotonic()]
        for name, value in zip(self.__slots__, state, strict=True):
            object.__setattr__(self, name, value)


def fitting(model: type[Any], columns: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a grant without what is too long for a table of an application's own.

    Its tokens exist nowhere else, and a scope or a type of token is not worth losing them.
    """
    limits = {name: getattr(inspect(model).columns[name].type, "length", None) for name in ("scope", "token_type")}
    long = {name for name, limit in limits.items() if limit and len(columns.get(name) or "") > limit}
    return {name: value for name, value in columns.items() if name not in long}


def require_text(name: str, hidden: Any) -> None:
    """Raise `PlaintextTypeError` unless a hidden value is text."""
    if not isinstance(hidden, str):
        raise PlaintextTypeError(f"{name} is {'missing' if hidden is None else f'{type_name(hidden)}, not str'}")


def _check(name: str, hidden: Any) -> None:
    require_text(f"the {name} of a grant", hidden)
    if not hidden:
        raise PlaintextTypeError(f"the {name} of a grant is empty")
    if has_lone_surrogate(hidden):
        raise PlaintextTypeError(f"the {name} of a grant has a lone surrogate and no UTF-8 form")
    if hidden.startswith("sealchemy:"):
        raise PlaintextTypeError(f"the {name} of a grant is an encrypted value, not a token")


def _match(pattern: re.Pattern[str], value: object) -> str | None:
    return str(value) if isinstance(value, str) and pattern.fullmatch(value) else None  # plain text: it is not secret


def _joined(scope: object) -> object:
    if isinstance(scope, list | tuple):
        return " ".join(scope) if all(isinstance(item, str) for item in scope) else None
    return scope


def _moment(value: object) -> datetime | None:
    """Return the time of an `expires_at`, in seconds since 1970."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
        return datetime.fromtimestamp(seconds, UTC) if seconds > _EARLIEST else None
    except (ValueError, OverflowError, OSError):
        return None


def _not_too_late(moment: datetime | None) -> datetime | None:
    """Return a time that every database and time zone can hold."""
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        return moment
    return min(moment, _LATEST)


def lifetime(value: object) -> float | None:
    """Return the seconds, which some providers send as text, or as something else entirely."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), _LONGEST_LIFE)
