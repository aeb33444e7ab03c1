"""`ProviderRequests`: ask a provider for grants, and revoke them; no error of it shows what was sent or received."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from sealchemy import PlaintextTypeError, ReauthorizationRequiredError, RefreshFailedError, RevocationFailedError

from .bounded_http import Transport
from .client_authentication import ClientAuthentication
from .details import hide_texts, picked
from .endpoints import host_of
from .failures import CLIENT_ERRORS
from .provider_session import ProviderSession
from .request_form import RequestForm, Revocation
from .responses import DEAD_TOKEN_ERRORS, Refused, parse, with_nested
from .token_grant import TokenGrant, lifetime

_LIVES_OF_REFRESH_TOKENS = ("refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in")


@dataclass(frozen=True, slots=True)
class ProviderRequests:
    """The requests of an application to a provider.

    Attributes:
        form: what they look like.
        revocation: how the provider revokes.
        revoking: how the application proves there that it is the one.
        transport: makes the adapter of a request, whose time then runs.
        dead: the codes that say that a grant is dead.
        details: the names of what is kept of a response besides its tokens.
    """

    form: RequestForm
    revocation: Revocation
    revoking: ClientAuthentication
    transport: Callable[[], Transport]
    dead: frozenset[str]
    details: Sequence[str]

    def grant(self, endpoint: str, fields: Mapping[str, Any], *sent: str, path: Sequence[str] = ()) -> TokenGrant:
        """Return a new grant.

        Args:
            endpoint: the token endpoint.
            fields: of the request, without the client's credentials.
            sent: the secrets among them.
            path: where in the response the object with the tokens is.

        Raises:
            ReauthorizationRequiredError, RefreshFailedError: the provider issued none.
        """
        asked_at = time.monotonic()

        def request(session: ProviderSession) -> object:
            response = self.form.ask_for_token(session, endpoint, fields)
            secrets = [*filter(None, sent), *self.form.authentication.secrets()]
            return parse(response, self.dead, secrets, path=path)

        token = ProviderSession(endpoint, self.transport()).ask(request)
        if isinstance(token, Refused):
            self._raise(endpoint, token)
        token = hide_texts(token)
        try:
            grant = TokenGrant.from_response(with_nested(token, path)).requested_at(asked_at)
        except PlaintextTypeError as error:
            refused = Refused(f"sent an unusable grant: {error}", "unusable_response")
        else:
            grant.keep(self._details(grant.response), token)
            return grant
        return self._raise(endpoint, refused)

    def revoke(self, endpoint: str, token: str) -> None:
        """Revoke a token, or raise `RevocationFailedError`."""
        sent = [token, *self.revoking.secrets()]

        def request(session: ProviderSession) -> object:
            response = self.form.revoke(session, endpoint, token, self.revocation, self.revoking)
            return parse(response, frozenset(), sent, needs_token=False)

        refused = ProviderSession(endpoint, self.transport()).ask(request)
        # Some providers respond with an error for a token that is dead already.
        if isinstance(refused, Refused) and refused.code not in DEAD_TOKEN_ERRORS:
            raise RevocationFailedError(
                f"the token was not revoked: the provider at {host_of(endpoint)} {refused}", code=refused.code
            )

    def _details(self, response: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is kept besides the tokens."""
        details = picked(response, self.details)
        lives = (lifetime(response.get(name)) for name in _LIVES_OF_REFRESH_TOKENS)
        if self.details and (seconds := next(filter(None, lives), None)):
            details["refresh_token_expires_at"] = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        return details

    def _raise(self, endpoint: str, refused: Refused) -> NoReturn:
        where = f"the provider at {host_of(endpoint)}"
        if refused.is_dead:
            raise ReauthorizationRequiredError(f"{where} {refused}: the user must connect again", code=refused.code)
        advice = ""
        if refused.code in {*CLIENT_ERRORS, "unauthorized_client"}:
            authentication = self.form.authentication
            advice = f"; check the secret of client {authentication.client_id!r} and its auth_method"
            advice += authentication.advice()
        raise RefreshFailedError(f"no token: {where} {refused}{advice}", refused.retry_after, code=refused.code)
