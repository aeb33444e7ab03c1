"""An OAuth 2.0 provider on loopback: Authlib's authorization server, with refresh-token rotation.

Reusing a refresh token revokes its whole family, as in RFC 9700 (section 4.14.2).
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc7636 import CodeChallenge
from flask import Flask, Response, current_app, jsonify, redirect, request
from werkzeug.serving import WSGIRequestHandler, make_server

from sealchemy.integrations.oauth import OAuthClient

if TYPE_CHECKING:
    import logging
    import ssl
    from collections.abc import Callable, Iterator

LATE = 2.0
"""Seconds after which nobody waits for a response any more, in tests with such a timeout."""

CLIENT_ID, CLIENT_SECRET = "client-1", "client-secret-SENTINEL"


class Client(ClientMixin):
    """The only registered client."""

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> str:
        return "http://127.0.0.1/callback"

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return True

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(client_secret.encode(), _provider().client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in _provider().auth_methods

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in {"authorization_code", "client_credentials", "refresh_token"}


@dataclass
class Token(TokenMixin):
    """A pair of tokens and the family that it belongs to."""

    access_token: str
    refresh_token: str | None
    user: str
    scope: str
    family: str
    expires_at: float
    used: bool = False
    revoked: bool = False

    def check_client(self, client: ClientMixin) -> bool:
        return True

    def get_scope(self) -> str:
        return self.scope

    def get_expires_in(self) -> int:
        return int(self.expires_at - time.time())

    def is_expired(self) -> bool:
        return time.time() > self.expires_at

    def is_revoked(self) -> bool:
        return self.revoked

    def get_user(self) -> str:
        return self.user

    def get_client(self) -> Client:
        return Client()


@dataclass
class Code:
    """An authorization code and what the user consented to."""

    code: str
    user: str
    redirect_uri: str
    scope: str
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


@dataclass
class Answer:
    """A scripted response that replaces the server's own."""

    status: int = 200
    body: str | dict[str, Any] = ""
    headers: dict[str, str] = field(default_factory=dict)
    drip: float = 0


@dataclass
class Provider:
    """The running server.

    Attributes:
        url: its base URL.
        lifetime: lifetime of granted access tokens, in seconds.
        delay: seconds before /token responds.
        rotates: whether a refresh returns a new refresh token.
        answers: scripted responses, used one by one instead of its own at /token and /revoke.
        fault: called for each request to /token; `refuse` and `fail` respond with 429 and 500, `hang` responds late,
            and `drop` grants tokens and responds too late for anyone to receive them.
        dropped: the families whose tokens were granted and not received.
        asked_by: by family, who has asked last, the query of the URL, and when, by `time.monotonic`.
        reuses: the family of each refresh token that was used twice, and who had used it before, and when.
        counts: number of requests per path, and of reused refresh tokens.
        auth_methods: how the client may authenticate.
        client_secret: the client's secret.
        client_key: the public key that its JWTs are verified with, or the secret.
        certificates: the subjects of the certificates that clients came with.
        discovery: the document that names its endpoints.
        authorizations: what came in that header to a page that wants none.
        id_token: what a grant has besides, if it is not empty.
    """

    url: str = ""
    lifetime: int = 3600
    delay: float = 0
    rotates: bool = True
    answers: list[Answer] = field(default_factory=list)
    fault: Callable[[], str] = lambda: ""
    dropped: set[str] = field(default_factory=set)
    asked_by: dict[str, tuple[str, float]] = field(default_factory=dict)
    reuses: list[tuple[str, str, float]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    in_request: threading.Event = field(default_factory=threading.Event)
    tokens: list[Token] = field(default_factory=list)
    codes: dict[str, Code] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    auth_methods: set[str] = field(default_factory=lambda: {"client_secret_basic", "client_secret_post"})
    client_secret: str = CLIENT_SECRET
    client_key: Any = None
    certificates: list[str] = field(default_factory=list)
    assertions: set[str] = field(default_factory=set)
    discovery: dict[str, Any] = field(default_factory=dict)
    authorizations: list[str | None] = field(default_factory=list)
    id_token: str = ""

    def client(self, **options: Any) -> OAuthClient:
        """Return a client with the registered credentials."""
        defaults: dict[str, Any] = {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "token_endpoint": f"{self.url}/token",
            "authorization_endpoint": f"{self.url}/authorize",
            "revocation_endpoint": f"{self.url}/revoke",
            "scope": "calendar",
        }
        return OAuthClient(**{**defaults, **options})

    def save(self, token: dict[str, Any], user: str, family: str | None = None) -> Token:
        """Store a granted pair of tokens."""
        expires_at = time.time() + token["expires_in"]
        kept = Token(
            token["access_token"],
            token.get("refresh_token"),
            user,
            token.get("scope", ""),
            family or secrets.token_hex(8),
            expires_at,
        )
        self.tokens.append(kept)
        return kept

    def grant(self, user: str = "u1") -> Token:
        """Grant a pair of tokens without a browser."""
        return self.save(self.make(), user)

    def make(self, scope: str = "calendar") -> dict[str, Any]:
        """Return a new pair of tokens whose text shows their kind."""
        return {
            "token_type": "Bearer",
            "access_token": f"ya29.SENTINEL-access-{secrets.token_urlsafe(30)}",
            "refresh_token": f"1//SENTINEL-refresh-{secrets.token_urlsafe(30)}",
            "expires_in": self.lifetime,
            "scope": scope,
            **({"id_token": self.id_token} if self.id_token else {}),
        }

    def end(self, family: str) -> None:
        """Revoke all tokens of a family."""
        for token in self.tokens:
            token.revoked = token.revoked or token.family == family


def _provider() -> Provider:
    return current_app.config["PROVIDER"]


AUTH_METHODS = ("client_secret_basic", "client_secret_post", "client_assertion_jwt", "tls_client_auth")


class Assertion(JWTBearerClientAssertion):
    """Authentication of clients by JWT (RFC 7523), each of which is taken once."""

    def get_audiences(self) -> list[str]:
        return [f"{_provider().url}/token", f"{_provider().url}/revoke"]

    def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
        is_new = jti not in _provider().assertions
        _provider().assertions.add(jti)
        return is_new

    def resolve_client_public_key(self, client: Client) -> Any:
        return _provider().client_key


def _by_certificate(query_client: Callable[[str], Client | None], asked: Any) -> Client | None:
    """Authenticate a client by the certificate of its connection (RFC 8705)."""
    subject = request.environ.get("sealchemy.certificate")
    client = query_client(asked.form.get("client_id"))
    return client if subject and client and client.check_endpoint_auth_method("tls_client_auth", "token") else None


class ClientCredentialsGrant(grants.ClientCredentialsGrant):
    """Tokens for the client itself."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS


class CodeGrant(grants.AuthorizationCodeGrant):
    """Authorization codes, with PKCE."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def save_authorization_code(self, code: str, request: Any) -> None:
        asked, data = request.payload, request.payload.data
        challenge = (data.get("code_challenge"), data.get("code_challenge_method"))
        _provider().codes[code] = Code(code, request.user, asked.redirect_uri, asked.scope, *challenge)

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        return _provider().codes.get(code)

    def delete_authorization_code(self, authorization_code: Code) -> None:
        del _provider().codes[authorization_code.code]

    def authenticate_user(self, authorization_code: Code) -> str:
        return authorization_code.user


class RefreshGrant(grants.RefreshTokenGrant):
    """Refresh tokens that can be used once."""

    INCLUDE_NEW_REFRESH_TOKEN = True
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        provider = _provider()
        found = next((token for token in provider.tokens if token.refresh_token == refresh_token), None)
        if found is None or found.revoked:
            return None
        if found.used and provider.rotates:
            provider.counts["reused"] += 1
            provider.reuses.append((found.family, *provider.asked_by.get(found.family, ("", 0.0))))
            provider.end(found.family)
            return None
        return found

    def authenticate_user(self, refresh_token: Token) -> str:
        return refresh_token.user

    def issue_token(self, user: str, refresh_token: Token) -> dict[str, Any]:
        token = super().issue_token(user, refresh_token)
        return {name: token[name] for name in token if _provider().rotates or name != "refresh_token"}

    def revoke_old_credential(self, refresh_token: Token) -> None:
        refresh_token.used = True
        _provider().asked_by[refresh_token.family] = request.query_string.decode(), time.monotonic()


class Revocation(RevocationEndpoint):
    """Revocation of the whole token family."""

    CLIENT_AUTH_METHODS = AUTH_METHODS

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        known = (item for item in _provider().tokens if token_string in (item.access_token, item.refresh_token))
        return next(known, None)

    def revoke_token(self, token: Token, request: Any) -> None:
        _provider().end(token.family)


class Validator(BearerTokenValidator):
    """Validation of access tokens from this provider."""

    def authenticate_token(self, token_string: str) -> Token | None:
        return next((token for token in _provider().tokens if token.access_token == token_string), None)


def _save_token(token: dict[str, Any], asked: Any) -> None:
    old = getattr(asked, "refresh_token", None)
    _provider().save(token, asked.user, old.family if isinstance(old, Token) else None)


def _add_what_is_no_standard(application: Flask, provider: Provider, protector: ResourceProtector) -> None:
    @application.post("/echo")
    def echo() -> Any:
        said = {"form": request.form, "json": request.get_json(silent=True), "headers": dict(request.headers)}
        return jsonify(access_token="ya29.echo", echo=json.dumps(said))

    @application.post("/upload")
    @protector()
    def upload() -> Any:
        return str(len(request.get_data()))

    @application.get("/refuses")
    def refuses() -> Any:
        provider.counts["/refuses"] += 1
        return "", 401, {"WWW-Authenticate": request.args.get("header", "Bearer")}

    @application.get("/here")
    def here() -> Any:
        return redirect(f"{provider.url}/calendar")

    @application.get("/elsewhere")
    def elsewhere() -> Any:
        return redirect(f"{provider.url}/open".replace("127.0.0.1", "localhost"))

    @application.get("/open")
    def open_to_all() -> Any:
        provider.authorizations.append(request.headers.get("Authorization"))
        return "", 401

    @application.get("/.well-known/openid-configuration")
    @application.get("/<tenant>/.well-known/openid-configuration")
    def discovery(**_tenant: str) -> Any:
        return (provider.discovery, 200) if provider.discovery else ("", 404)


def _application(provider: Provider) -> Flask:
    application = Flask("provider")
    application.config["PROVIDER"] = provider
    server = AuthorizationServer(
        application, query_client=lambda name: Client() if name == CLIENT_ID else None, save_token=_save_token
    )
    server.register_token_generator("default", lambda **given: provider.make(given.get("scope") or ""))
    server.register_grant(CodeGrant, [CodeChallenge(required=True)])
    server.register_grant(RefreshGrant)
    server.register_grant(ClientCredentialsGrant)
    server.register_endpoint(Revocation)
    server.register_client_auth_method(
        Assertion.CLIENT_AUTH_METHOD, Assertion(token_url=None)
    )  # older Authlib wants it
    server.register_client_auth_method("tls_client_auth", _by_certificate)
    protector = ResourceProtector()
    protector.register_token_validator(Validator())
    _add_what_is_no_standard(application, provider, protector)

    @application.get("/authorize")
    def authorize() -> Any:
        user = request.args.get("login_hint", "u1")  # the user always consents
        return server.create_authorization_response(grant_user=user, grant=server.get_consent_grant(end_user=user))

    @application.post("/token")
    def token() -> Any:
        provider.counts["/token"] += 1
        request.get_data()  # whoever waits for this may kill the client
        provider.in_request.set()
        time.sleep(provider.delay)
        if provider.answers:
            return _scripted(provider)
        fault = provider.fault()
        if fault == "hang":
            time.sleep(LATE)
        if fault in {"refuse", "fail", "hang"}:
            return Response("", 429 if fault == "refuse" else 500, {"Retry-After": "1"} if fault == "refuse" else {})
        with provider.lock:
            before = len(provider.tokens)
            response = server.create_token_response()
            if fault == "drop":
                provider.dropped.update(token.family for token in provider.tokens[before:])
        if fault == "drop":
            time.sleep(LATE)
        return response

    @application.post("/revoke")
    def revoke() -> Any:
        provider.counts["/revoke"] += 1
        return _scripted(provider) if provider.answers else server.create_endpoint_response("revocation")

    @application.get("/calendar")
    @protector()
    def calendar() -> Any:
        return jsonify(events=[])

    return application


def _scripted(provider: Provider) -> Response:
    answer = provider.answers.pop(0)
    body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
    return Response(_dripping(body, answer.drip) if answer.drip else body, answer.status, answer.headers)


def _dripping(body: str, pause: float) -> Iterator[str]:
    for character in body:
        time.sleep(pause)
        yield character


def logged_by_provider(record: logging.LogRecord) -> bool:
    """Return whether the provider logged this: it runs in threads of the test process, and logs what it grants."""
    return "process_request_thread" in str(record.threadName)


class _SilentHandler(WSGIRequestHandler):
    def make_environ(self) -> dict[str, Any]:
        """Add the subject of the client's certificate."""
        environ: dict[str, Any] = super().make_environ()
        found = getattr(self.connection, "getpeercert", dict)()
        if found:
            environ["sealchemy.certificate"] = str(found["subject"])
            self.server.app.config["PROVIDER"].certificates.append(str(found["subject"]))  # type: ignore[attr-defined]
        return environ

    def log(self, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[Provider]:
    """Run a provider during the `with` block."""
    provider = Provider()
    server = make_server(
        "127.0.0.1", 0, _application(provider), threaded=True, request_handler=_SilentHandler, ssl_context=tls
    )
    server.daemon_threads = True  # type: ignore[attr-defined]
    provider.url = f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
