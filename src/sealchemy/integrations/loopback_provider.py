"""`sealchemy integrations loopback-provider`: an OAuth provider on this machine, to try a client against.

It answers as RFC 6749, 6750, 7009 and 7636 say, to any client: it has no accounts and asks for no password, so it
listens on the loopback interface only. Each refresh token works once, and everything is forgotten when it stops.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_LONGEST_FORM = 100_000
"""Bytes; a form with two tokens is far shorter."""


class RefusedError(Exception):
    """A request that is refused, with a code of RFC 6749, section 5.2."""


@dataclass
class Provider:
    """A WSGI application that keeps its codes and tokens in memory.

    Attributes:
        lifetime: seconds for which an access token is valid.
    """

    lifetime: float
    _codes: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    _refresh_tokens: set[str] = field(default_factory=set, repr=False)
    _access_tokens: dict[str, float] = field(default_factory=dict, repr=False)  # and when they expire
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self, environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        asked = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        status, body = "200 OK", {}
        try:
            fields = _fields(environment)
            with self._lock:
                if asked == ("GET", "/authorize"):
                    status, headers["Location"] = "302 Found", self._authorize(fields)
                elif asked == ("POST", "/token"):
                    body = self._issue(fields)
                elif asked == ("POST", "/revoke"):
                    self._revoke(fields.get("token", ""))
                elif asked != ("GET", "/me"):
                    status, body = "404 Not Found", {"paths": ["/authorize", "/token", "/revoke", "/me"]}
                elif self._is_valid(environment.get("HTTP_AUTHORIZATION", "")):
                    body = {"name": "Ada"}
                else:
                    status, headers["WWW-Authenticate"] = "401 Unauthorized", 'Bearer error="invalid_token"'
        except RefusedError as error:
            status, body = "400 Bad Request", {"error": str(error)}
        start_response(status, list(headers.items()))
        return [json.dumps(body).encode()]

    def _authorize(self, query: dict[str, str]) -> str:
        """Return where to send the user, who consents without being asked (RFC 6749, 4.1.2)."""
        target = query.get("redirect_uri", "")
        if urlsplit(target).scheme not in {"http", "https"}:
            raise RefusedError("invalid_request")
        code = secrets.token_urlsafe(24)
        self._codes[code] = query.get("code_challenge", ""), target
        answer = urlencode({"code": code, "state": query.get("state", "")})
        return f"{target}{'&' if urlsplit(target).query else '?'}{answer}"

    def _issue(self, form: dict[str, str]) -> dict[str, Any]:
        """Exchange a code or a refresh token, each of which works once (RFC 6749, 4.1.3 and 6)."""
        grant_type, refresh_token = form.get("grant_type"), form.get("refresh_token", "")
        if grant_type == "authorization_code":
            asked = self._codes.pop(form.get("code", ""), None)
            if asked != (_challenge(form.get("code_verifier", "")), form.get("redirect_uri")):
                raise RefusedError("invalid_grant")
        elif grant_type == "refresh_token":
            if refresh_token not in self._refresh_tokens:
                raise RefusedError("invalid_grant")
            self._refresh_tokens.remove(refresh_token)
        else:
            raise RefusedError("unsupported_grant_type")
        access_token, refresh_token = (f"loopback-{secrets.token_urlsafe(32)}" for _ in range(2))
        self._access_tokens[access_token] = time.monotonic() + self.lifetime
        self._refresh_tokens.add(refresh_token)
        return {
            "access_token": access_token,
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_in": self.lifetime,
        }

    def _revoke(self, token: str) -> None:
        """Forget a token of either kind, and answer in the same way if it is not known (RFC 7009, 2.2)."""
        self._refresh_tokens.discard(token)
        self._access_tokens.pop(token, None)

    def _is_valid(self, authorization: str) -> bool:
        """Tell whether a header has an access token that has not expired (RFC 6750, 2.1)."""
        return self._access_tokens.get(authorization.removeprefix("Bearer "), 0) > time.monotonic()


def _fields(environment: WSGIEnvironment) -> dict[str, str]:
    """Return the parameters of a request: of its form, or of its URL (RFC 6749, appendix B)."""
    if environment["REQUEST_METHOD"] != "POST":
        return dict(parse_qsl(environment.get("QUERY_STRING", "")))
    length = environment.get("CONTENT_LENGTH") or "0"
    if not length.isdigit() or int(length) > _LONGEST_FORM:
        raise RefusedError("invalid_request")
    return dict(parse_qsl(environment["wsgi.input"].read(int(length)).decode("utf-8", "replace")))


def _challenge(verifier: str) -> str:
    """Return the S256 challenge of a verifier (RFC 7636, 4.2), and nothing for a client that sends none."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=") if verifier else ""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the signature of the base class
        """Log nothing: the line of a request has its code."""


def make(port: int, lifetime: float) -> WSGIServer:
    """Return a server on the loopback interface, whose `serve_forever` answers until it is shut down.

    Args:
        port: on which it listens; with 0, the system chooses one.
        lifetime: seconds for which an access token is valid.

    Raises:
        OSError: the port is in use.
    """
    return make_server("127.0.0.1", port, Provider(lifetime), server_class=_Server, handler_class=_Quiet)
