"""`OAuthClient`: what is said to a provider."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from authlib.common.errors import AuthlibBaseError  # type: ignore[import-untyped]
from authlib.integrations.requests_client import OAuth2Session  # type: ignore[import-untyped]
from requests import RequestException, Response
from requests.exceptions import SSLError, Timeout
from urllib3.exceptions import HTTPError

from sealchemy import (
    IntegrationError,
    PlaintextTypeError,
    ReauthorizationRequiredError,
    RefreshFailedError,
    RevocationFailedError,
    SecretString,
)

from .answers import GRANT_IS_DEAD, Refused, parse
from .grants import TokenGrant, hide, require_text
from .transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["AuthorizationRequest", "OAuthClient", "TokenGrant"]

_AUTH_METHODS = {None, "client_secret_basic", "client_secret_post", "none"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_LONGEST_TIMEOUT = 300
_URL = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(/[\x21-\x5b\x5d-\x7e]*)?")


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """Where to send the user, and what to keep in the session for when they come back.

    Attributes:
        url: of the provider's page.
        state: to compare with the `state` of the callback; refuse the callback if it differs (RFC 6749, 10.12).
        code_verifier: for `exchange_code` (RFC 7636).

    """

    url: str
    state: str
    code_verifier: str = field(repr=False)


class _Session(OAuth2Session):  # type: ignore[misc] # Authlib has no types
    """Authlib's, reading the answer as strictly as it must be and as tolerantly as it can be."""

    def parse_response_token(self, resp: Response) -> dict[str, Any]:
        answer = parse(resp)
        if not answer.get("access_token"):
            problem = "its answer holds no access token"
            raise Refused(problem)
        return answer


class OAuthClient:
    """An application, as a provider knows it.

    It holds no connection and no state, so threads and processes can share it. Certificates are always verified;
    `REQUESTS_CA_BUNDLE` names another authority. Nothing that it raises or logs holds a token, a code, the client
    secret, or a text of the provider's but the error codes of RFC 6749.
    """

    def __init__(  # noqa: PLR0913 - what providers differ in
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
    ) -> None:
        """Describe the application. For well-known providers: `OAuthClient(..., **GOOGLE_CALENDAR)`.

        Args:
            client_id: from the provider.
            client_secret: from the provider; None for a public client.
            token_endpoint: `https://...`; `http://` only on this machine.
            authorization_endpoint: the page where users consent, for `authorization_request`.
            revocation_endpoint: where tokens are revoked (RFC 7009); None if there is none.
            scope: what to ask for, separated by spaces.
            authorization_parameters: what this provider wants beside the standard parameters.
            token_endpoint_auth_method: `client_secret_basic` (the default), `client_secret_post` or `none`.
            timeout: seconds for one request, at most 300. A refresh that dies is taken over 15 seconds after them.

        Raises:
            IntegrationError: an endpoint without TLS, or an argument that cannot be used.

        """
        self._client_secret = hide(client_secret)
        del client_secret
        self.client_id = client_id
        self.token_endpoint = token_endpoint
        self.authorization_endpoint = authorization_endpoint
        self.revocation_endpoint = revocation_endpoint
        self.scope = scope
        self.timeout = timeout
        self._authorization_parameters = dict(authorization_parameters or {})
        self._auth_method = token_endpoint_auth_method
        for endpoint in (token_endpoint, authorization_endpoint, revocation_endpoint):
            _check_endpoint(endpoint)
        self._check()

    def _check(self) -> None:
        problem = None
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout <= _LONGEST_TIMEOUT:
            problem = f"timeout is {self.timeout!r}; give the seconds that a request may take, up to {_LONGEST_TIMEOUT}"
        elif not isinstance(self.client_id, str) or not self.client_id:
            problem = "client_id is empty; the provider gave you one when you registered the application"
        elif not isinstance(self._client_secret, str | None):
            problem = "client_secret is no text"
        elif self._auth_method not in _AUTH_METHODS:
            problem = "token_endpoint_auth_method must be client_secret_basic, client_secret_post or none"
        elif self._auth_method != "client_secret_post" and not f"{self.client_id}{self._client_secret!s}".isascii():
            problem = "the client's id or secret is not ASCII; use token_endpoint_auth_method='client_secret_post'"
        if problem is not None:
            raise IntegrationError(problem)

    def __repr__(self) -> str:
        """Return what is no secret."""
        return f"OAuthClient({self.client_id!r}, provider at {_host(self.token_endpoint)!r})"

    def authorization_request(self, redirect_uri: str) -> AuthorizationRequest:
        """Return where to send a user who wants to connect (RFC 6749, section 4.1.1; with PKCE, RFC 7636).

        Raises:
            IntegrationError: this client was made without `authorization_endpoint`.

        """
        if self.authorization_endpoint is None:
            message = "this client has no authorization_endpoint: give it one"
            raise IntegrationError(message)
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
        """Return what the provider grants for the code of a callback (RFC 6749, section 4.1.3).

        Args:
            code: of the callback, whose `state` has been compared.
            redirect_uri: the same as for `authorization_request`.
            code_verifier: from there.

        Raises:
            ReauthorizationRequiredError: the code is used, expired or not of this client.
            RefreshFailedError: the provider gave no token.

        """
        secret, verifier = hide(code), hide(code_verifier)
        del code, code_verifier
        require_text("code", secret)
        require_text("code_verifier", verifier)
        return self._grant(
            lambda session: session.fetch_token(
                self.token_endpoint,
                grant_type="authorization_code",
                code=secret,
                redirect_uri=redirect_uri,
                code_verifier=verifier,
                allow_redirects=False,
            )
        )

    def refresh(self, refresh_token: str) -> TokenGrant:
        """Return what the provider grants for a refresh token (RFC 6749, section 6).

        Applications call `get_valid_token`, which does so once for all callers and stores the answer: a provider
        that rotates refresh tokens takes a second use of one for theft, and ends the grant.

        Raises:
            ReauthorizationRequiredError: the provider refuses the refresh token.
            RefreshFailedError: it gave no token for another reason.

        """
        secret = hide(refresh_token)
        del refresh_token
        require_text("refresh_token", secret)
        return self._grant(
            lambda session: session.fetch_token(
                self.token_endpoint, grant_type="refresh_token", refresh_token=secret, allow_redirects=False
            )
        )

    def revoke(self, token: str) -> None:
        """Have the provider end a token, and the grant that a refresh token stands for (RFC 7009).

        Raises:
            RevocationFailedError: the provider did not do so, or has no endpoint for it.

        """
        secret = hide(token)
        del token
        require_text("token", secret)
        if self.revocation_endpoint is None:
            message = "this client has no revocation_endpoint"
            raise RevocationFailedError(message)
        refused = self._ask(
            self.revocation_endpoint,
            lambda session: parse(
                session.revoke_token(self.revocation_endpoint, token=secret, allow_redirects=False), needs_body=False
            ),
        )
        # Some answer so for a token that has ended already.
        if isinstance(refused, Refused) and refused.code not in {"invalid_token", *GRANT_IS_DEAD}:
            message = f"the token was not revoked: the provider at {_host(self.revocation_endpoint)} {refused}"
            raise RevocationFailedError(message)

    def _grant(self, request: Callable[[_Session], Any]) -> TokenGrant:
        answer = self._ask(self.token_endpoint, request)
        if isinstance(answer, Refused):
            self._raise(answer)
        try:
            return TokenGrant.from_response(answer)
        except PlaintextTypeError as error:
            refused = Refused(f"sent a grant that cannot be used: {error}")
        finally:
            del answer
        return self._raise(refused)

    def _raise(self, refused: Refused) -> NoReturn:
        where = f"the provider at {_host(self.token_endpoint)}"
        if refused.code in GRANT_IS_DEAD:
            message = f"{where} {refused}: the user must connect again"
            raise ReauthorizationRequiredError(message)
        advice = ""
        if refused.code in {"invalid_client", "incorrect_client_credentials", "unauthorized_client"}:
            advice = f"; check the secret of client {self.client_id!r} and its token_endpoint_auth_method"
        message = f"no token: {where} {refused}{advice}"
        raise RefreshFailedError(message, retry_after=refused.retry_after)

    def _session(self, endpoint: str, **options: Any) -> Any:
        session: Any = _Session(
            client_id=self.client_id,
            client_secret=self._client_secret,
            token_endpoint_auth_method=self._auth_method,
            revocation_endpoint_auth_method=self._auth_method,
            **options,
        )
        for scheme in ("https://", "http://"):
            session.mount(scheme, Transport(self.timeout))
        session.trust_env = endpoint.startswith("https:")  # no proxy has a part in what stays on this machine
        return session

    def _ask(self, endpoint: str, request: Callable[[_Session], Any]) -> Any:
        """Return the answer, or a new `Refused`.

        What Authlib and `requests` raise is not raised here, since it carries the request with its tokens, and the
        frames that it came through do. What a signal handler raises there loses its traceback.
        """
        began = time.monotonic()
        try:
            with self._session(endpoint) as session:
                return request(session)
        except Refused as error:
            return Refused(str(error), error.code, error.retry_after)
        except _THEIR_ERRORS as error:
            if isinstance(error, Timeout) or time.monotonic() - began >= self.timeout:
                return Refused(f"did not answer within {self.timeout:g} s")
            if isinstance(error, SSLError):
                return Refused("has no certificate that this machine trusts")
            if isinstance(error, RequestException | HTTPError):
                return Refused("could not be reached")
            return Refused(f"could not be asked ({type(error).__name__})")
        except BaseException as error:  # noqa: BLE001 - an interruption
            interruption = error.with_traceback(None)
            interruption.__context__ = interruption.__cause__ = None
        raise interruption


_THEIR_ERRORS = (
    RequestException,
    HTTPError,
    AuthlibBaseError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)


def _check_endpoint(endpoint: str | None) -> None:
    if endpoint is None:
        return
    host = scheme = None
    if _URL.fullmatch(endpoint):  # where parsers of URLs do not differ
        try:
            parts = urlsplit(endpoint)
            host, scheme, _ = parts.hostname, parts.scheme, parts.port
        except ValueError:
            host = None
    if host and (scheme == "https" or (scheme == "http" and host in _LOOPBACK)):
        return
    message = f"the endpoint at {host!r} is not https://host/path: tokens and the client's secret go there"
    raise IntegrationError(message)


def _host(endpoint: str) -> str:
    try:
        return urlsplit(endpoint).hostname or ""
    except ValueError:
        return ""
