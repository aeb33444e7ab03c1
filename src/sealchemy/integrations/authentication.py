"""`IntegrationAuth`: put the token of an integration into the requests of httpx and `requests`."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Generator
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from sealchemy import IntegrationError
from sealchemy._values.secret import hide

from .audit import require_purpose
from .endpoints import is_safe
from .models import Integration, IntegrationMixin
from .oauth import OAuthClient
from .service import get_valid_token, get_valid_token_async

_UNAUTHORIZED = 401  # RFC 9110, section 15.5.2

# httpx takes instances of its own class; `requests` takes anything that can be called.
_HTTPX = [import_module(name) for name in ("httpx", "httpx2") if find_spec(name)]
_BASES: Any = tuple(module.Auth for module in _HTTPX) or (object,)
_IN_MEMORY: Any = tuple(module.ByteStream for module in _HTTPX)
_TOKEN = re.compile(r"[\x21-\x7e]+")
_ERROR = re.compile(r"\berror=\"?([a-z_]+)")
_HOST = re.compile(r"[A-Za-z0-9.-]+")


class IntegrationAuth(*_BASES):  # type: ignore[misc]
    """The `auth` of a client, or of one request, of httpx (also `AsyncClient`) and `requests`.

    Each request gets a valid token. If the provider answers with 401, the token counts as rejected, and the request is
    sent once more with a new one, unless its body was a stream or has files, which are read. A redirect to another host
    takes no token along. Raises as `get_valid_token` does.

    A 401 whose `WWW-Authenticate` names another error than `invalid_token` is returned as it is. An API that has no
    such header, and answers 401 to a valid token (for a scope that is missing, say), costs a refresh each time.
    """

    def __init__(  # noqa: PLR0913 - as `get_valid_token`
        self,
        session_factory: Callable[[], Any],
        *,
        user_id: Any,
        provider: str,
        client: OAuthClient,
        account: str = "",
        leeway: float = 300.0,
        deadline: float | None = None,
        purpose: str = "",
        host: str | None = None,
        model: type[IntegrationMixin] = Integration,
    ) -> None:
        """Name the integration; the arguments are those of `get_valid_token`.

        Args:
            session_factory: `sessionmaker(engine)`, or for `AsyncClient` `async_sessionmaker(engine)`.
            user_id: the application's id of the user.
            provider: the application's name of the provider.
            client: the application, as the provider knows it.
            account: the name of the account at the provider.
            leeway: how long the token has to stay valid, in seconds.
            deadline: how long getting a token may take, in seconds.
            purpose: what the tokens are for, in the audit trail.
            host: of the provider's API, such as `www.googleapis.com`; a request to another one is refused. By default,
                the application makes sure that it sends its requests to the provider alone.
            model: the table, if it is not the ready-made one.
        """
        if host is not None and not _HOST.fullmatch(host):
            raise IntegrationError(f"host is {host!r}; give the name alone, without https:// and without a port")
        require_purpose(purpose)
        self._session_factory, self._host = session_factory, host and host.lower()
        self._arguments: dict[str, Any] = {
            "user_id": user_id,
            "provider": provider,
            "client": client,
            "account": account,
            "leeway": leeway,
            "deadline": deadline,
            "purpose": purpose,
            "model": model,
        }

    def __repr__(self) -> str:
        """Return the provider."""
        return f"IntegrationAuth(provider={self._arguments['provider']!r})"

    def __call__(self, request: Any) -> Any:
        """Put the token into a prepared request of `requests`."""
        self._check(str(request.url))
        token = self._token()
        request.headers["Authorization"] = _bearer(token)
        request.register_hook("response", self._again)
        return request

    def _again(self, response: Any, **options: Any) -> Any:
        """Send a request of `requests` once more, if its token was refused."""
        if not _is_refused(response):
            return response
        response.content  # noqa: B018 - reads the rest, so that the connection can be used again
        response.close()
        token = self._token(rejected=hide(response.request.headers["Authorization"].removeprefix("Bearer ")))
        request = response.request.copy()
        if request.body is not None and not isinstance(request.body, str | bytes):
            return response  # a stream has been read
        request.headers["Authorization"] = _bearer(token)
        again = response.connection.send(request, **options)
        again.history.append(response)
        again.request = request
        return again

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Put the token into a request of httpx."""
        self._check(str(request.url))
        token = self._token()
        response = yield _with(request, token)
        if _is_refused(response):
            token = self._token(rejected=token)
            if _can_repeat(request):
                yield _with(request, token)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Do the same for `AsyncClient`."""
        self._check(str(request.url))
        token = await get_valid_token_async(self._session_factory, **self._arguments)
        response = yield _with(request, token)
        if _is_refused(response):
            token = await get_valid_token_async(self._session_factory, **self._arguments, rejected=token)
            if _can_repeat(request):
                yield _with(request, token)

    def _token(self, rejected: str | None = None) -> Any:
        return get_valid_token(self._session_factory, **self._arguments, rejected=rejected)

    def _check(self, url: str) -> None:
        """Refuse to send a token without TLS, or to another host than the provider's."""
        parts = urlsplit(url)
        if not is_safe(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"):
            raise IntegrationError(f"a request to {parts.hostname!r} gets no token without TLS; use https://")
        if self._host is not None and parts.hostname != self._host:
            raise IntegrationError(f"a request to {parts.hostname!r} with the auth of {self._host!r}: it gets no token")


def _bearer(token: str) -> Any:
    if not _TOKEN.fullmatch(token):
        raise IntegrationError("the access token has a character that no header can have; connect the account again")
    return hide(f"Bearer {token}")  # RFC 6750, section 2.1


def _with(request: Any, token: str) -> Any:
    request.headers["Authorization"] = _bearer(token)
    return request


def _is_refused(response: Any) -> bool:
    """Return whether a response refuses the token, rather than something else about the request.

    After a redirect to another host, there was none. RFC 6750 (section 3.1) has other errors in the same header.
    """
    if response.status_code != _UNAUTHORIZED or "Authorization" not in response.request.headers:
        return False
    error = _ERROR.search(response.headers.get("WWW-Authenticate", ""))
    return error is None or error.group(1) == "invalid_token"


def _can_repeat(request: Any) -> bool:
    """Return whether a body can be sent again: it is in memory, and is no file or stream that has been read."""
    return isinstance(request.stream, _IN_MEMORY)
