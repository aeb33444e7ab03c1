"""What the requests to a provider look like, where providers differ from RFC 6749 and RFC 7009."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from requests import Response

from sealchemy import IntegrationError

from .client_authentication import ClientAuthentication
from .provider_session import ProviderSession


class RevocationOptions(TypedDict, total=False):
    """How a provider revokes, if not by a POST of the field `token` (RFC 7009); each may be left out."""

    method: Literal["POST", "DELETE"]
    token: Literal["refresh_token", "access_token"]
    """Which of the two ends the grant."""
    field: str | None
    """The name of the field with the token; None sends it as `Authorization: Bearer`, without other credentials."""
    body: Literal["form", "json"]
    auth_method: str


@dataclass(frozen=True, slots=True)
class Revocation:
    """How a provider revokes."""

    method: str = "POST"
    token: str = "refresh_token"  # noqa: S105 - a kind
    field: str | None = "token"
    body: str | None = None
    auth_method: str | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any] | None) -> Revocation:
        """Return it, or raise `IntegrationError`."""
        try:
            found = cls(**(options or {}))
        except TypeError:
            found = cls(method="")
        is_known = found.method in ("POST", "DELETE") and found.token in ("refresh_token", "access_token")
        if not is_known or found.body not in (None, "form", "json"):
            raise IntegrationError(
                "revocation takes a dictionary with method (POST, DELETE), token (refresh_token, access_token), field,"
                " body (form, json) and auth_method, each of which may be left out"
            )
        return found


@dataclass(frozen=True, slots=True)
class RequestForm:
    """How an application asks a provider."""

    authentication: ClientAuthentication
    headers: Mapping[str, str]
    token_params: Mapping[str, str]
    parameter_names: Mapping[str, str]
    body: str

    def ask_for_token(self, session: ProviderSession, endpoint: str, fields: Mapping[str, Any]) -> Response:
        """Send a request to a token endpoint."""
        return self._send(session, "POST", endpoint, {**fields, **self.token_params}, self.body, self.authentication)

    def revoke(
        self,
        session: ProviderSession,
        endpoint: str,
        token: str,
        how: Revocation,
        authentication: ClientAuthentication,
    ) -> Response:
        """Send a request to a revocation endpoint."""
        if how.field is None:
            return session.send_fields(how.method, {}, {**self.headers, "Authorization": f"Bearer {token}"}, "form")
        return self._send(session, how.method, endpoint, {how.field: token}, how.body or self.body, authentication)

    def _send(
        self,
        session: ProviderSession,
        method: str,
        endpoint: str,
        fields: dict[str, Any],
        body: str,
        authentication: ClientAuthentication,
    ) -> Response:
        headers = dict(self.headers)
        authentication.add(endpoint, fields, headers)
        renamed = {self.parameter_names.get(name, name): value for name, value in fields.items()}
        return session.send_fields(method, renamed, headers, body)
