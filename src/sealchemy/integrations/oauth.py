"""`OAuthClient`: the requests to a provider."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sealchemy import IntegrationError, RevocationFailedError
from sealchemy._values.secret import hide

from . import client_options
from .authorization_request import AuthorizationRequest
from .bounded_http import Transport
from .client_authentication import ClientAuthentication
from .dead_grant import DeadGrant
from .endpoints import check_endpoint, host_of
from .hooks import Hooks
from .provider_requests import ProviderRequests
from .request_form import RequestForm, Revocation, RevocationOptions
from .responses import DEAD_GRANT_ERRORS, require_codes
from .token_grant import TokenGrant, require_text

__all__ = ["AuthorizationRequest", "OAuthClient", "TokenGrant"]


class OAuthClient:
    """An application, as a provider knows it.

    It has neither connections nor state, so threads and processes can share it. Certificates are always verified;
    `verify` or `REQUESTS_CA_BUNDLE` name another authority. Its errors and log lines contain no token, no code, no
    client secret, no key, and no text from the provider except the error codes of RFC 6749.
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
        auth_method: str | None = None,
        token_endpoint_auth_method: str | None = None,
        private_key: str | None = None,
        assertion_headers: Mapping[str, str] | None = None,
        assertion_audience: str | None = None,
        client_certificate: str | Path | Sequence[str | Path] | None = None,
        verify: bool | str | Path = True,
        headers: Mapping[str, str] | None = None,
        token_params: Mapping[str, str] | None = None,
        parameter_names: Mapping[str, str] | None = None,
        body: str = "form",
        use_pkce: bool = True,
        refresh_grant_type: str = "refresh_token",
        response_path: Sequence[str] = (),
        revocation: RevocationOptions | None = None,
        dead_grant_errors: Collection[str] = (),
        details: Sequence[str] = (),
        timeout: float = 10.0,
        requests_per_second: float = 10.0,
        on_grant: Callable[[TokenGrant], Mapping[str, Any] | None] | None = None,
        on_reauthorization_required: Callable[[DeadGrant], object] | None = None,
    ) -> None:
        """Describe the application. For well-known providers: `OAuthClient(..., **GOOGLE_CALENDAR)`.

        Args:
            client_id: from the provider.
            client_secret: from the provider; None for a public client, or one with a key.
            token_endpoint: `https://...`; `http://` only for this machine.
            authorization_endpoint: the page where users consent, for `authorization_request`.
            revocation_endpoint: where tokens are revoked (RFC 7009); None if there is none. `{client_id}` in it is
                replaced.
            scope: the scopes to request, separated by spaces.
            authorization_parameters: parameters that this provider needs in addition to the standard ones.
            auth_method: how the application proves that it is the one (RFC 7591, section 2): `client_secret_basic` (the
                default if there is a secret; form-encoded, as RFC 6749 says), `client_secret_basic_raw` (not encoded,
                for servers that do not decode it), `client_secret_post`, `client_secret_jwt`, `private_key_jwt` (RFC
                7523), `tls_client_auth`, `self_signed_tls_client_auth` (RFC 8705) or `none`.
            token_endpoint_auth_method: the name of `auth_method` in version 0.1.
            private_key: for `private_key_jwt`: PEM, of RSA or a curve P-256, P-384 or P-521.
            assertion_headers: what the JWT has in its header besides, such as `kid`, or another `alg`.
            assertion_audience: its `aud`, if that is not the endpoint.
            client_certificate: a PEM file with a certificate and its key, or one for each, for TLS.
            verify: a file or folder with the certificates of an authority of your own.
            headers: of each request, such as `User-Agent`.
            token_params: parameters of each request for a token, besides the standard ones or in place of them.
            parameter_names: what the provider calls a standard parameter, such as `{"client_id": "client_key"}`.
            body: of requests: `form`, as RFC 6749 says, or `json`.
            use_pkce: whether to send a code challenge (RFC 7636); False only where a provider refuses one.
            refresh_grant_type: how to get a new access token: `refresh_token`; `client_credentials` (RFC 6749, section
                4.4), with the client's credentials alone; or `fb_exchange_token`, with the access token.
            response_path: where in a response the object with the tokens is, such as `("authed_user",)`.
            revocation: how this provider revokes, if not as RFC 7009 says.
            dead_grant_errors: codes with which this provider says that a grant is dead, in addition to those that mean
                it everywhere; texts or numbers as text, anywhere in its response.
            details: what else of a response is stored in the column `details`, such as `instance_url` or `team.name`;
                `refresh_token_expires_at`, in ISO 8601, if the provider says how long a refresh token lives.
            timeout: seconds for one request, at most 300. If a process dies during a refresh, another caller takes
                over 15 seconds after that time.
            requests_per_second: how often `refresh_due` asks.
            on_grant: called with each grant, by `exchange_code` and after each refresh is stored; what it returns is
                kept in the column `details` as well. Errors are logged by their type.
            on_reauthorization_required: called once when a user must connect again, in the process that found out,
                after that is stored. Both are called in a thread, and are no coroutine functions.

        Raises:
            IntegrationError: an endpoint without TLS, or an invalid argument.
        """
        client_secret, private_key = hide(client_secret), hide(private_key)
        self.client_id, self.token_endpoint = client_id, token_endpoint
        headers, token_params = client_options.hidden(headers), client_options.hidden(token_params)
        check_endpoint(token_endpoint)
        for endpoint in (authorization_endpoint, revocation_endpoint):
            if endpoint is not None:
                check_endpoint(endpoint)
        client_options.check(timeout, requests_per_second, body, refresh_grant_type)
        headers = client_options.texts("headers", headers)
        token_params = client_options.texts("token_params", token_params)
        method = client_options.one_of(auth_method, token_endpoint_auth_method)
        certificate, how = client_options.certificate_files(client_certificate), Revocation.from_options(revocation)
        authenticate = partial(
            ClientAuthentication,
            client_id,
            client_secret,
            private_key=private_key,
            has_certificate=certificate is not None,
            assertion_headers=client_options.texts("assertion_headers", assertion_headers),
            assertion_audience=assertion_audience,
        )
        self._names = client_options.texts("parameter_names", parameter_names)
        self._requests = ProviderRequests(
            RequestForm(authenticate(method), headers, token_params, self._names, body),
            how,
            authenticate(how.auth_method or method),
            partial(Transport, timeout, verify=client_options.authorities(verify), certificate=certificate),
            DEAD_GRANT_ERRORS | require_codes(dead_grant_errors),
            client_options.names("details", details),
        )
        self.authorization_endpoint, self.scope = authorization_endpoint, scope
        self.timeout, self.requests_per_second = timeout, requests_per_second
        self.refresh_grant_type, self.hooks = refresh_grant_type, Hooks(on_grant, on_reauthorization_required)
        self._authorization_parameters = client_options.texts("authorization_parameters", authorization_parameters)
        self._use_pkce, self._path = use_pkce, client_options.names("response_path", response_path)
        self.revocation_endpoint = revocation_endpoint and revocation_endpoint.replace("{client_id}", quote(client_id))

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
        return AuthorizationRequest.make(
            self.client_id,
            self.authorization_endpoint,
            {"redirect_uri": redirect_uri, "scope": self.scope, **self._authorization_parameters},
            self._names,
            use_pkce=self._use_pkce,
        )

    def exchange_code(self, code: str, redirect_uri: str, code_verifier: str | None = None) -> TokenGrant:
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
        fields: dict[str, Any] = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        if self._use_pkce:
            require_text("code_verifier", code_verifier)
            fields["code_verifier"] = code_verifier
        grant = self._grant(fields, code, code_verifier or "", path=self._path)
        self.hooks.granted(grant)
        return grant

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
        return self._grant({"grant_type": "refresh_token", "refresh_token": refresh_token}, refresh_token)

    def request_client_credentials(self) -> TokenGrant:
        """Get a grant for the application itself (RFC 6749, section 4.4); raises as `refresh` does."""
        return self._grant({"grant_type": "client_credentials", **({"scope": self.scope} if self.scope else {})})

    def can_renew(self, access_token: object, refresh_token: object) -> bool:
        """Return whether there is what `renew` needs."""
        needed = {"refresh_token": refresh_token, "fb_exchange_token": access_token}
        return self.refresh_grant_type not in needed or bool(needed[self.refresh_grant_type])

    def renew(self, access_token: str | None, refresh_token: str | None) -> TokenGrant:
        """Get a new grant for the tokens of a row, in the way of `refresh_grant_type`; raises as `refresh` does."""
        access_token, refresh_token = hide(access_token), hide(refresh_token)
        if self.refresh_grant_type == "client_credentials":
            return self.request_client_credentials()
        if self.refresh_grant_type == "fb_exchange_token":
            require_text("access_token", access_token)
            return self._grant(
                {"grant_type": "fb_exchange_token", "fb_exchange_token": access_token}, hide(access_token)
            )
        require_text("refresh_token", refresh_token)
        return self.refresh(hide(refresh_token))

    def token_to_revoke(self, access_token: str | None, refresh_token: str | None) -> str | None:
        """Return the token that ends a grant at this provider; None if there is none, or no endpoint."""
        tokens = [hide(refresh_token), hide(access_token)]
        if self._requests.revocation.token == "access_token":  # noqa: S105 - a kind
            tokens.reverse()
        return next(filter(None, tokens), None) if self.revocation_endpoint else None

    def revoke(self, token: str) -> None:
        """Revoke a token, and with a refresh token its grant (RFC 7009).

        Raises:
            RevocationFailedError: the provider did not revoke it, or has no endpoint for that.
        """
        token = hide(token)
        require_text("token", token)
        if self.revocation_endpoint is None:
            raise RevocationFailedError("this client has no revocation_endpoint")
        self._requests.revoke(self.revocation_endpoint, token)

    def _grant(self, fields: dict[str, Any], *sent: str, path: Sequence[str] = ()) -> TokenGrant:
        return self._requests.grant(self.token_endpoint, fields, *sent, path=path)
