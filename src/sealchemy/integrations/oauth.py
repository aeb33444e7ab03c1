"""`OAuthClient`: the requests to a provider."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from sealchemy import (
    IntegrationError,
    PlaintextTypeError,
    ReauthorizationRequiredError,
    RefreshFailedError,
    RevocationFailedError,
    SecretString,
)
from sealchemy._values.secret import hide

from .endpoints import check_endpoint, host_of
from .failures import CLIENT_ERRORS
from .provider_session import ProviderSession
from .responses import DEAD_GRANT_ERRORS, DEAD_TOKEN_ERRORS, Refused, require_codes
from .token_grant import TokenGrant, require_text

__all__ = ["AuthorizationRequest", "OAuthClient", "TokenGrant"]

_AUTH_METHODS = {None, "client_secret_basic", "client_secret_post", "none"}
_LONGEST_TIMEOUT = 300


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """Where to send the user, and the values to keep in their session until they come back.

    Attributes:
        url: the provider's page.
        state: compare it with the `state` of the callback; refuse the callback if it differs (RFC 6749, 10.12).
        code_verifier: for `exchange_code` (RFC 7636).
    """

    url: str
    state: str
    code_verifier: str = field(repr=False)


class OAuthClient:
    """An application, as a provider knows it.

    It has neither connections nor state, so threads and processes can share it. Certificates are always verified;
    `REQUESTS_CA_BUNDLE` names another authority. Its errors and log lines contain no token, no code, no client
    secret, and no text from the provider except the error codes of RFC 6749.
    """

    def __init__(  # noqa: PLR0913 - providers differ in each of these
        self,
        client_id: str,
        client_secret: str | None,
        token_endpoint: str,
        *,
        authorization_endpoint: str | None = None,
        revocation_endpoint: str | None = None,
        scope: str | None = None,
        authorization_parameters: Mapping[str, str] | None = None,
        token_endpoint_auth_method: str | None = None,
        timeout: float = 10.0,
        dead_grant_errors: Collection[str] = (),
    ) -> None:
        """Describe the application. For well-known providers: `OAuthClient(..., **GOOGLE_CALENDAR)`.

        Args:
            client_id: from the provider.
            client_secret: from the provider; None for a public client.
            token_endpoint: `https://...`; `http://` only for this machine.
            authorization_endpoint: the page where users consent, for `authorization_request`.
            revocation_endpoint: where tokens are revoked (RFC 7009); None if there is none.
            scope: the scopes to request, separated by spaces.
            authorization_parameters: parameters that this provider needs in addition to the standard ones.
            token_endpoint_auth_method: `client_secret_basic` (the default), `client_secret_post` or `none`.
            timeout: seconds for one request, at most 300. If a process dies during a refresh, another caller takes
                over 15 seconds after that time.
            dead_grant_errors: codes with which this provider says that a grant is dead, in addition to those that mean
                it everywhere; texts or numbers as text, anywhere in its response.

        Raises:
            IntegrationError: an endpoint without TLS, or an invalid argument.
        """
        client_secret = hide(client_secret)
        self._client_secret = client_secret
        self.client_id = client_id
        self.token_endpoint = token_endpoint
        self.authorization_endpoint = authorization_endpoint
        self.revocation_endpoint = revocation_endpoint
        self.scope = scope
        self.timeout = timeout
        self._authorization_parameters = dict(authorization_parameters or {})
        self._auth_method = token_endpoint_auth_method
        self._dead = DEAD_GRANT_ERRORS | require_codes(dead_grant_errors)
        check_endpoint(token_endpoint)
        for endpoint in (authorization_endpoint, revocation_endpoint):
            if endpoint is not None:
                check_endpoint(endpoint)
        self._check()

    def _check(self) -> None:
        problem = None
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout <= _LONGEST_TIMEOUT:
            problem = (
                f"timeout is {self.timeout!r}; give the seconds that one request may take, up to {_LONGEST_TIMEOUT}"
            )
        elif not isinstance(self.client_id, str) or not self.client_id:
            problem = "client_id is empty; the provider gave you one when you registered the application"
        elif not isinstance(self._client_secret, str | None):
            problem = "client_secret is not text"
        elif self._auth_method not in _AUTH_METHODS:
            problem = "token_endpoint_auth_method must be client_secret_basic, client_secret_post or none"
        elif self._auth_method != "client_secret_post" and not f"{self.client_id}{self._client_secret!s}".isascii():
            problem = "the client's id or secret is not ASCII; use token_endpoint_auth_method='client_secret_post'"
        if problem is not None:
            raise IntegrationError(problem)

    def __repr__(self) -> str:
        """Return the client id and the host, never the secret."""
        return f"OAuthClient({self.client_id!r}, provider at {host_of(self.token_endpoint)!r})"

    def authorization_request(self, redirect_uri: str) -> AuthorizationRequest:
        """Return where to send a user who wants to connect (RFC 6749, section 4.1.1; with PKCE, RFC 7636).

        Raises:
            IntegrationError: this client was made without `authorization_endpoint`.
        """
        if self.authorization_endpoint is None:
            raise IntegrationError("this client has no authorization_endpoint; pass one to OAuthClient")
        verifier = SecretString(secrets.token_urlsafe(48))
        with self._session(self.authorization_endpoint, code_challenge_method="S256") as session:
            url, state = session.create_authorization_url(
                self.authorization_endpoint,
                redirect_uri=redirect_uri,
                code_verifier=verifier,
                scope=self.scope,
                **self._authorization_parameters,
            )
        return AuthorizationRequest(url, state, verifier)

    def exchange_code(self, code: str, redirect_uri: str, code_verifier: str) -> TokenGrant:
        """Exchange the code of a callback for a grant (RFC 6749, section 4.1.3).

        Args:
            code: from the callback, after you have compared its `state`.
            redirect_uri: the same as for `authorization_request`.
            code_verifier: from the `AuthorizationRequest`.

        Raises:
            ReauthorizationRequiredError: the code was used before, is expired, or belongs to another client.
            RefreshFailedError: the provider issued no token.
        """
        code, code_verifier = hide(code), hide(code_verifier)
        require_text("code", code)
        require_text("code_verifier", code_verifier)
        return self._grant(
            lambda session: session.fetch_token(
                self.token_endpoint,
                grant_type="authorization_code",
                code=code,
                redirect_uri=redirect_uri,
                code_verifier=code_verifier,
                allow_redirects=False,
            ),
            code,
            code_verifier,
        )

    def refresh(self, refresh_token: str) -> TokenGrant:
        """Exchange a refresh token for a grant (RFC 6749, section 6).

        Applications call `get_valid_token`, which does this once for all callers and stores the response: a provider
        that rotates refresh tokens takes a second use of one for theft, and revokes the grant.

        Raises:
            ReauthorizationRequiredError: the provider refuses the refresh token.
            RefreshFailedError: it issued no token for another reason.
        """
        refresh_token = hide(refresh_token)
        require_text("refresh_token", refresh_token)
        return self._grant(
            lambda session: session.fetch_token(
                self.token_endpoint, grant_type="refresh_token", refresh_token=refresh_token, allow_redirects=False
            ),
            refresh_token,
        )

    def revoke(self, token: str) -> None:
        """Revoke a token, and with a refresh token its grant (RFC 7009).

        Raises:
            RevocationFailedError: the provider did not revoke it, or has no endpoint for that.
        """
        token = hide(token)
        require_text("token", token)
        if self.revocation_endpoint is None:
            raise RevocationFailedError("this client has no revocation_endpoint")
        session = self._session(self.revocation_endpoint, token, dead=frozenset())
        refused = session.ask(
            lambda session: session.parse(
                session.revoke_token(self.revocation_endpoint, token=token, allow_redirects=False), needs_token=False
            )
        )
        # Some providers respond with an error for a token that is dead already.
        if isinstance(refused, Refused) and refused.code not in DEAD_TOKEN_ERRORS:
            raise RevocationFailedError(
                f"the token was not revoked: the provider at {host_of(self.revocation_endpoint)} {refused}",
                code=refused.code,
            )

    def _grant(self, request: Callable[[ProviderSession], Any], *sent: str) -> TokenGrant:
        asked_at = time.monotonic()
        token = self._session(self.token_endpoint, *sent).ask(request)
        if isinstance(token, Refused):
            self._raise(token)
        try:
            return TokenGrant.from_response(token).requested_at(asked_at)
        except PlaintextTypeError as error:
            refused = Refused(f"sent an unusable grant: {error}", "unusable_response")
        token = hide(token)
        return self._raise(refused)

    def _raise(self, refused: Refused) -> NoReturn:
        where = f"the provider at {host_of(self.token_endpoint)}"
        if refused.is_dead:
            raise ReauthorizationRequiredError(f"{where} {refused}: the user must connect again", code=refused.code)
        advice = ""
        if refused.code in {*CLIENT_ERRORS, "unauthorized_client"}:
            advice = f"; check the secret of client {self.client_id!r} and its token_endpoint_auth_method"
        raise RefreshFailedError(f"no token: {where} {refused}{advice}", refused.retry_after, code=refused.code)

    def _session(
        self, endpoint: str, *sent: str, dead: frozenset[str] | None = None, **options: Any
    ) -> ProviderSession:
        return ProviderSession(
            endpoint,
            self.timeout,
            self._dead if dead is None else dead,
            [secret for secret in (*sent, self._client_secret) if secret],
            client_id=self.client_id,
            client_secret=self._client_secret,
            token_endpoint_auth_method=self._auth_method,
            revocation_endpoint_auth_method=self._auth_method,
            **options,
        )
