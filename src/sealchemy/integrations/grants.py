"""`TokenGrant`: what a provider granted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sealchemy import IntegrationError, PlaintextTypeError, SecretString

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_LONGEST_LIFE = 10 * 365 * 24 * 3600.0
_SCOPE = re.compile(r"[\x20-\x7e]{1,4096}")  # RFC 6749 3.3, and what the column holds
_TOKEN_TYPE = re.compile(r"[\x21-\x7e]{1,32}")


@dataclass(frozen=True, slots=True, init=False)
class TokenGrant:
    """What a provider granted: the answer of a token endpoint (RFC 6749, section 5.1).

    Attributes:
        access_token: the token for calls to the provider.
        refresh_token: the token for new access tokens; None if there was none in the answer.
        token_type: usually `Bearer`.
        scope: what was granted, separated by spaces; None if it is what was asked for.
        expires_at: when the access token ends; None if that is not known.
        expires_in: the same in seconds from now, as providers say it. It goes before `expires_at`, and is counted
            by the clock of the database, so that no clock of an application matters.

    Raises:
        PlaintextTypeError: a token is no text, is empty, or has no UTF-8 form.
        IntegrationError: `expires_at` has no time zone.

    """

    access_token: str
    refresh_token: str | None
    token_type: str
    scope: str | None
    expires_at: datetime | None
    expires_in: float | None

    def __init__(
        self,
        *,
        access_token: str,
        refresh_token: str | None = None,
        token_type: str = "Bearer",  # noqa: S107 - a type, not a token
        scope: str | None = None,
        expires_at: datetime | None = None,
        expires_in: float | None = None,
    ) -> None:
        """Keep the tokens as `SecretString`s; written out, since error trackers print the variables of a frame."""
        tokens = {"access_token": hide(access_token), "refresh_token": hide(refresh_token)}
        del access_token, refresh_token
        others = {"token_type": token_type, "scope": scope, "expires_at": expires_at, "expires_in": expires_in}
        for name, value in {**tokens, **others}.items():
            object.__setattr__(self, name, value)
        _check("access_token", self.access_token)
        if self.refresh_token is not None:
            _check("refresh_token", self.refresh_token)
        if expires_at is not None and expires_at.tzinfo is None:
            message = "expires_at of a grant has no time zone; use datetime.now(UTC) + ..."
            raise IntegrationError(message)

    @classmethod
    def from_response(cls, token: Mapping[str, Any]) -> TokenGrant:
        """Return the grant in the answer of a token endpoint, such as the dictionary that Authlib returns.

        What can be done without and is not as RFC 6749 has it is left out, since a refresh token that came with it
        exists nowhere else.

        Raises:
            PlaintextTypeError: there is no access token, or a token that cannot be stored.

        """
        given: dict[str, Any] = {
            "access_token": hide(token.get("access_token")),
            "refresh_token": hide(token.get("refresh_token") or None),
            "token_type": _match(_TOKEN_TYPE, token.get("token_type")) or "Bearer",
            "scope": _match(_SCOPE, _joined(token.get("scope"))),
            "expires_in": _lifetime(token.get("expires_in")),
        }
        del token
        return cls(**given)


def hide(value: object) -> Any:
    """Return what shows nothing: of what is no text, the type."""
    if value is None or isinstance(value, type):
        return value
    return SecretString(str.__str__(value)) if isinstance(value, str) else type(value)


def require_text(name: str, value: object) -> None:
    """Raise `PlaintextTypeError` unless what `hide` returned is a text."""
    if not isinstance(value, str):
        message = f"{name} is {'missing' if value is None else f'{value.__name__}, not str'}"  # type: ignore[attr-defined]
        raise PlaintextTypeError(message)


def _check(name: str, value: object) -> None:
    require_text(f"the {name} of a grant", value)
    problem = None
    if not value:
        problem = "is empty"
    elif any("\ud800" <= character <= "\udfff" for character in str(value)):
        problem = "is no text that UTF-8 can encode"
    elif str(value).startswith("sealchemy:"):
        problem = "is an encrypted value, not a token"
    if problem is not None:
        message = f"the {name} of a grant {problem}"
        raise PlaintextTypeError(message)


def _match(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _joined(scope: object) -> object:
    return " ".join(map(str, scope)) if isinstance(scope, list | tuple) else scope


def _lifetime(value: object) -> float | None:
    """Return the seconds; providers are known to send them as text, and anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), _LONGEST_LIFE)
