"""`sealchemy integrations loopback-provider`: an OAuth provider on this machine, to try a client against.

It has what a client sees of RFC 6749 (codes and refresh tokens), 6750, 7009 and 7636 (S256), for any client: it has no
accounts and asks for no password. So it listens on the loopback interface only, answers no request for another host,
and sends codes only to this machine. Each refresh token works once, and everything is forgotten when it stops.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_THIS_MACHINE = {"127.0.0.1", "localhost"}
_LONGEST_FORM = 100_000
"""Bytes; a form with two tokens is far shorter."""
_CODE_SECONDS = 60


class RefusedError(Exception):
    """A request that is refused, with a code of RFC 6749, section 5.2."""


@dataclass
class Provider:
    """A WSGI application that keeps its codes and tokens in memory.

    Attributes:
        lifetime: seconds for which an access token is valid.
        clock: the time, in seconds from a moment in the past.
    """

    lifetime: int
    clock: Callable[[], float] = time.monotonic
    _codes: dict[str, tuple[str, str, float]] = field(default_factory=dict, repr=False)
    _access_token_of: dict[str, str] = field(default_factory=dict, repr=False)  # by refresh token
    _end_of: dict[str, float] = field(default_factory=dict, repr=False)  # by access token
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self, environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache"}
        try:
            _check_host(environment)
            fields = _fields(environment)
            with self._lock:
                status, more, body = self._answer(environment, fields)
        except RefusedError as error:
            status, more, body = "400 Bad Request", {}, {"error": str(error)}
        start_response(status, list({**headers, **more}.items()))
        return [json.dumps(body).encode()]

    def _answer(
        self, environment: WSGIEnvironment, fields: dict[str, str]
    ) -> tuple[str, dict[str, str], dict[str, Any]]:
        """Return the status, more headers, and the body."""
        match environment["REQUEST_METHOD"], environment["PATH_INFO"]:
            case "GET", "/authorize":
                return "302 Found", {"Location": self._authorize(fields)}, {}
            case "POST", "/token":
                return "200 OK", {}, self._issue(fields)
            case "POST", "/revoke":
                self._revoke(_required(fields, "token"))
                return "200 OK", {}, {}
            case "GET", "/me":
                scheme, _, token = environment.get("HTTP_AUTHORIZATION", "").partition(" ")
                if scheme.lower() == "bearer" and self._end_of.get(token, 0) > self.clock():
                    return "200 OK", {}, {"name": "Ada"}
                challenge = 'Bearer error="invalid_token"' if token else "Bearer"  # RFC 6750, 3.1
                return "401 Unauthorized", {"WWW-Authenticate": challenge}, {}
        return "404 Not Found", {}, {"paths": ["/authorize", "/token", "/revoke", "/me"]}

    def _authorize(self, fields: dict[str, str]) -> str:
        """Return where to send the user, who consents without being asked (RFC 6749, 4.1.2)."""
        target, challenge = _redirect_uri(fields), fields.get("code_challenge", "")
        if fields.get("response_type") != "code" or not fields.get("client_id"):
            raise RefusedError("invalid_request")
        if challenge and fields.get("code_challenge_method") != "S256":
            raise RefusedError("invalid_request")
        now, code = self.clock(), secrets.token_urlsafe(24)
        self._codes = {code: kept for code, kept in self._codes.items() if kept[-1] > now}
        self._codes[code] = challenge, target, now + _CODE_SECONDS
        answer = urlencode({"code": code, **({"state": fields["state"]} if "state" in fields else {})})
        return f"{target}{'&' if urlsplit(target).query else '?'}{answer}"

    def _issue(self, fields: dict[str, str]) -> dict[str, Any]:
        """Exchange a code or a refresh token, each of which works once (RFC 6749, 4.1.3 and 6)."""
        grant_type, now = _required(fields, "grant_type"), self.clock()
        if grant_type == "authorization_code":
            challenge, target, end = self._codes.pop(_required(fields, "code"), ("", "", 0))
            is_same = (challenge, target) == (_challenge(fields), fields.get("redirect_uri"))
            if end <= now or not is_same:
                raise RefusedError("invalid_grant")
        elif grant_type == "refresh_token":
            if self._access_token_of.pop(_required(fields, "refresh_token"), None) is None:
                raise RefusedError("invalid_grant")
        else:
            raise RefusedError("unsupported_grant_type")
        access_token, refresh_token = (f"loopback-{secrets.token_urlsafe(32)}" for _ in range(2))
        self._end_of = {token: end for token, end in self._end_of.items() if end > now}
        self._end_of[access_token] = now + self.lifetime
        self._access_token_of[refresh_token] = access_token
        return {
            "access_token": access_token,
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_in": self.lifetime,
        }

    def _revoke(self, token: str) -> None:
        """Forget a token, and with a refresh token its access token; one that is not known is no error (RFC 7009)."""
        self._end_of.pop(self._access_token_of.pop(token, token), None)


def _check_host(environment: WSGIEnvironment) -> None:
    """Refuse a request that a page of another host has sent here under its own name."""
    if _host("//" + environment.get("HTTP_HOST", "")) not in _THIS_MACHINE:
        raise RefusedError("invalid_request")


def _host(address: str) -> str | None:
    """Return the host of an address, and None for one with more than a host, a port, a path and a query, in ASCII."""
    if address.isascii() and address.isprintable() and not set(address) & set(" \\@#"):
        with suppress(ValueError):
            parts = urlsplit(address)
            return parts.hostname if parts.port != 0 else None
    return None


def _redirect_uri(fields: dict[str, str]) -> str:
    target = _required(fields, "redirect_uri")
    if not target.startswith(("http://", "https://")) or _host(target) not in _THIS_MACHINE:  # it becomes a header
        raise RefusedError("invalid_request")
    return target


def _fields(environment: WSGIEnvironment) -> dict[str, str]:
    """Return the parameters of a request: of its form, or of its URL (RFC 6749, appendix B). None is sent twice."""
    text = environment.get("QUERY_STRING", "")
    if environment["REQUEST_METHOD"] == "POST":
        length = environment.get("CONTENT_LENGTH") or "0"
        is_number = length.isascii() and length.isdigit() and len(length) < 10  # noqa: PLR2004 - digits
        if not is_number or int(length) > _LONGEST_FORM:
            raise RefusedError("invalid_request")
        try:
            text = environment["wsgi.input"].read(int(length)).decode("utf-8", "replace")
        except OSError:  # the client said no more
            raise RefusedError("invalid_request") from None
    pairs = parse_qsl(text)
    if len(dict(pairs)) < len(pairs):
        raise RefusedError("invalid_request")
    return dict(pairs)


def _required(fields: dict[str, str], name: str) -> str:
    if not fields.get(name):
        raise RefusedError("invalid_request")
    return fields[name]


def _challenge(fields: dict[str, str]) -> str:
    """Return the S256 challenge of the verifier (RFC 7636, 4.2), and nothing for a client that sends none."""
    verifier = fields.get("code_verifier", "")
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=") if verifier else ""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds for which a client may be silent

    def handle(self) -> None:
        """Answer one request, unless the client goes away or says nothing."""
        with suppress(TimeoutError, ConnectionError):
            super().handle()

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the signature of the base class
        """Log nothing: the line of a request has its code."""


def make(port: int, lifetime: int) -> WSGIServer:
    """Return a server on the loopback interface, whose `serve_forever` answers until it is shut down.

    Args:
        port: on which it listens; with 0, the system chooses one.
        lifetime: seconds for which an access token is valid.

    Raises:
        OSError: the port is in use.
    """
    return make_server("127.0.0.1", port, Provider(lifetime), server_class=_Server, handler_class=_Handler)
