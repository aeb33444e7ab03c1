"""Stand-ins of providers on loopback, which answer as their documentation says, and refuse other requests.

Each names the page that it follows. They were not compared with the providers themselves.
"""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from sealchemy.integrations import providers

from .http_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sealchemy.integrations.providers import Provider

CLIENT_ID, CLIENT_SECRET = "client-1", "client-secret-SENTINEL"
SHOP = "shop-1.myshopify.com"
USER_AGENT = "web:stand-in:v1 (by /u/somebody)"


def tokens(number: int, **more: Any) -> dict[str, Any]:
    """Return the usual response, with texts that show what they are."""
    return {
        "access_token": f"SENTINEL-access-{number}",
        "refresh_token": f"SENTINEL-refresh-{number}",
        "token_type": "Bearer",
        "expires_in": 3600,
        **more,
    }


def without(response: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a response without some of its fields."""
    return {name: value for name, value in response.items() if name not in names}


@dataclass
class StandIn:
    """What a provider does, as it says itself.

    Attributes:
        preset: the parameters of a client for it.
        pages: where its documentation says the rest.
        connect: the response to a code.
        refresh: the response to a refresh token, or to an access token where there are none.
        dead: status and body of the response to a refresh token that is not valid any more.
        wrong_client: the same for a client that is not known.
        revoked: the same for a revocation; None if there is no such endpoint.
        auth: where the client's credentials are: `post` or `basic`.
        body: of requests: `form` or `json`.
        verifier: whether it takes a code verifier; True and False refuse the other case, None takes both.
        headers: which it requires, with these values.
        fields: which it requires in each request for a token.
        names: what it calls `client_id`.
        asked: the parameters that its authorization page requires.
        revokes: method, field and the token that it takes, and where: `form`, `json` or `bearer`.
        details: what is kept besides the tokens.
        is_named: whether it says that a grant is dead in a way that cannot mean anything else.
    """

    preset: Provider
    pages: tuple[str, ...]
    connect: dict[str, Any]
    refresh: dict[str, Any]
    dead: tuple[int, Any] = (400, {"error": "invalid_grant"})
    wrong_client: tuple[int, Any] = (401, {"error": "invalid_client"})
    revoked: tuple[int, Any] | None = (200, {})
    auth: str = "post"
    body: str = "form"
    verifier: bool | None = None
    headers: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    names: str = "client_id"
    asked: dict[str, str] = field(default_factory=dict)
    revokes: tuple[str, str, str, str] = ("POST", "token", "refresh", "form")
    details: dict[str, Any] = field(default_factory=dict)
    is_named: bool = True


STAND_INS: dict[str, StandIn] = {
    "google": StandIn(
        providers.GOOGLE_CALENDAR,
        ("https://developers.google.com/identity/protocols/oauth2/web-server",),
        tokens(1, scope="https://www.googleapis.com/auth/calendar"),
        without(tokens(2), "refresh_token"),
        (400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}),
        (401, {"error": "invalid_client", "error_description": "Unauthorized"}),
        asked={"access_type": "offline", "prompt": "consent"},
    ),
    "microsoft": StandIn(
        providers.MICROSOFT,
        ("https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-auth-code-flow",),
        tokens(1, ext_expires_in=3600, scope="User.Read Calendars.ReadWrite"),
        tokens(2, ext_expires_in=3600),
        (
            400,
            {
                "error": "invalid_grant",
                "error_description": "AADSTS700082: The refresh token has expired due to inactivity.",
                "error_codes": [700082],
            },
        ),
        (
            401,
            {
                "error": "invalid_client",
                "error_description": "AADSTS7000215: Invalid client secret provided.",
                "error_codes": [7000215],
            },
        ),
        revoked=None,
    ),
    "github": StandIn(
        providers.GITHUB,
        (
            "https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens",
            "https://docs.github.com/en/rest/apps/oauth-applications#delete-an-app-authorization",
        ),
        tokens(1, expires_in=28800, refresh_token_expires_in=15897600, scope="", token_type="bearer"),
        tokens(2, expires_in=28800, refresh_token_expires_in=15897600, scope="", token_type="bearer"),
        (
            200,
            {
                "error": "bad_refresh_token",
                "error_description": "The refresh token passed is incorrect or expired.",
                "error_uri": "https://docs.github.com",
            },
        ),
        (
            200,
            {
                "error": "incorrect_client_credentials",
                "error_description": "The client_id and/or client_secret passed are incorrect.",
            },
        ),
        (204, None),
        headers={"Accept": "application/json"},
        revokes=("DELETE", "access_token", "access", "json with basic"),
    ),
    "slack": StandIn(
        {**providers.SLACK, "scope": "commands,chat:write"},
        (
            "https://docs.slack.dev/authentication/installing-with-oauth",
            "https://docs.slack.dev/authentication/using-token-rotation",
        ),
        {
            "ok": True,
            **tokens(1, token_type="bot", expires_in=43200, scope="commands,chat:write"),
            "bot_user_id": "U0KRQLJ9H",
            "app_id": "A0KRD7HC3",
            "team": {"name": "Slack Softball Team", "id": "T9TK3CUKW"},
            "enterprise": None,
            "authed_user": {"id": "U1234", "access_token": "SENTINEL-of-another-kind", "token_type": "user"},
        },
        {"ok": True, **tokens(2, token_type="bot", expires_in=43200), "team": {"name": "New name", "id": "T9TK3CUKW"}},
        (200, {"ok": False, "error": "invalid_refresh_token"}),
        (200, {"ok": False, "error": "bad_client_secret"}),
        (200, {"ok": True, "revoked": True}),
        asked={"scope": "commands,chat:write"},
        revokes=("POST", "", "access", "bearer"),
        details={"team.id": "T9TK3CUKW", "team.name": "New name", "bot_user_id": "U0KRQLJ9H", "app_id": "A0KRD7HC3"},
    ),
    "slack-user": StandIn(
        {**providers.SLACK_USER, "scope": "chat:write"},
        (
            "https://docs.slack.dev/authentication/installing-with-oauth",
            "https://docs.slack.dev/authentication/using-token-rotation",
        ),
        {
            "ok": True,
            "access_token": "SENTINEL-of-another-kind",
            "refresh_token": "SENTINEL-of-another-kind",
            "token_type": "bot",
            "app_id": "A0KRD7HC3",
            "team": {"name": "Slack Softball Team", "id": "T9TK3CUKW"},
            "authed_user": {"id": "U1234", **tokens(1, token_type="user", expires_in=43200, scope="chat:write")},
        },
        {"ok": True, **tokens(2, token_type="user", expires_in=43200)},
        (200, {"ok": False, "error": "token_revoked"}),
        (200, {"ok": False, "error": "invalid_client_id"}),
        (200, {"ok": True, "revoked": True}),
        asked={"user_scope": "chat:write"},
        revokes=("POST", "", "access", "bearer"),
        details={"team.id": "T9TK3CUKW", "team.name": "Slack Softball Team", "id": "U1234"},
    ),
    "atlassian": StandIn(
        providers.ATLASSIAN,
        ("https://developer.atlassian.com/cloud/jira/platform/oauth-2-3lo-apps/",),
        tokens(1, scope="read:me offline_access"),
        tokens(2),
        (403, {"error": "unauthorized_client", "error_description": "refresh_token is invalid"}),
        (401, {"error": "access_denied", "error_description": "Unauthorized"}),
        None,
        asked={"audience": "api.atlassian.com", "prompt": "consent"},
    ),
    "salesforce": StandIn(
        providers.SALESFORCE,
        ("https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_web_server_flow.htm",),
        {
            **without(tokens(1, scope="api refresh_token"), "expires_in"),
            "signature": "d/SxeYBxH0GSVko0HMgcUxuZy0PA2cDDz1u7g7JtDHw=",
            "instance_url": "https://mycompany.my.salesforce.com",
            "id": "https://login.salesforce.com/id/00DB0000000TfcRMAS/005B0000005Bk90IAC",
            "issued_at": "1558553873237",
        },
        {
            **without(tokens(2), "expires_in", "refresh_token"),
            "instance_url": "https://moved.my.salesforce.com",
            "id": "https://login.salesforce.com/id/00DB0000000TfcRMAS/005B0000005Bk90IAC",
        },
        (400, {"error": "invalid_grant", "error_description": "expired access/refresh token"}),
        (400, {"error": "invalid_client_id", "error_description": "client identifier invalid"}),
        (200, None),
        details={
            "instance_url": "https://moved.my.salesforce.com",
            "id": "https://login.salesforce.com/id/00DB0000000TfcRMAS/005B0000005Bk90IAC",
        },
    ),
    "hubspot": StandIn(
        providers.HUBSPOT,
        (
            "https://developers.hubspot.com/docs/api-reference/latest/authentication/oauth-tokens/revoke-token",
            "https://developers.hubspot.com/changelog/new-oauth-v3-api-endpoints-and-standardized-error-responses",
        ),
        tokens(1, token_type="bearer", expires_in=1800, hub_id=62515, user_id=123),
        {**tokens(2, token_type="bearer", expires_in=1800), "refresh_token": "SENTINEL-refresh-1"},
        (
            400,
            {
                "error": "invalid_grant",
                "error_description": "refresh token is invalid, expired or revoked",
                "status": "BAD_REFRESH_TOKEN",
                "message": "refresh token is invalid, expired or revoked",
            },
        ),
        (401, {"error": "invalid_client", "status": "BAD_CLIENT_SECRET"}),
        (204, None),
        details={"hub_id": 62515, "user_id": 123},
    ),
    "notion": StandIn(
        providers.NOTION,
        (
            "https://developers.notion.com/reference/create-a-token",
            "https://developers.notion.com/reference/refresh-a-token",
            "https://developers.notion.com/reference/revoke-token",
        ),
        {
            **without(tokens(1, token_type="bearer"), "expires_in"),
            "bot_id": "b1",
            "workspace_id": "w1",
            "workspace_name": "Everything",
            "owner": {"type": "user", "user": {"object": "user", "id": "u1"}},
            "request_id": "r1",
        },
        {**without(tokens(2, token_type="bearer"), "expires_in"), "workspace_id": "w1", "workspace_name": "Renamed"},
        (400, {"error": "invalid_grant", "request_id": "r2"}),
        (401, {"error": "invalid_client", "request_id": "r3"}),
        (200, {"request_id": "r4"}),
        auth="basic",
        body="json",
        verifier=False,
        headers={"Notion-Version": "2022-06-28"},
        asked={"owner": "user"},
        revokes=("POST", "token", "access", "json with basic"),
        details={"workspace_id": "w1", "workspace_name": "Renamed", "bot_id": "b1"},
    ),
    "zoom": StandIn(
        providers.ZOOM,
        ("https://developers.zoom.us/docs/integrations/oauth/",),
        tokens(1, token_type="bearer", scope="user:read:user", api_url="https://api.zoom.us"),
        tokens(2, token_type="bearer", api_url="https://api.zoom.us"),
        (400, {"reason": "Invalid Token!", "error": "invalid_grant"}),
        (401, {"reason": "Invalid client_id or client_secret", "error": "invalid_client"}),
        (200, {"status": "success"}),
        auth="basic",
        revokes=("POST", "token", "access", "form with basic"),
        details={"api_url": "https://api.zoom.us"},
    ),
    "dropbox": StandIn(
        providers.DROPBOX,
        ("https://www.dropbox.com/developers/documentation/http/documentation#authorization",),
        tokens(1, token_type="bearer", expires_in=14400, account_id="dbid:1", uid="12345", scope="account_info.read"),
        without(tokens(2, token_type="bearer", expires_in=14400), "refresh_token"),
        (400, {"error": "invalid_grant", "error_description": "refresh token is invalid or revoked"}),
        (
            400,
            {
                "error": "invalid_client: Invalid client_id or client_secret",
                "error_description": "Invalid client_id or client_secret",
            },
        ),
        (200, "null"),
        asked={"token_access_type": "offline"},
        revokes=("POST", "", "access", "bearer"),
        details={"account_id": "dbid:1"},
    ),
    "stripe": StandIn(
        providers.STRIPE,
        ("https://docs.stripe.com/connect/oauth-reference",),
        {
            **without(tokens(1, token_type="bearer", scope="read_write"), "expires_in"),
            "livemode": False,
            "stripe_publishable_key": "a-public-key",
            "stripe_user_id": "acct_1",
        },
        {**without(tokens(2, token_type="bearer"), "expires_in"), "livemode": False, "stripe_user_id": "acct_1"},
        (400, {"error": "invalid_grant", "error_description": "Refresh token does not exist: SENTINEL-refresh-1"}),
        (401, {"error": {"message": "Invalid API Key provided: SENTINEL", "type": "invalid_request_error"}}),
        None,
        verifier=False,
        details={"stripe_user_id": "acct_1", "livemode": False},
    ),
    "linear": StandIn(
        providers.LINEAR,
        ("https://linear.app/developers/oauth-2-0-authentication",),
        tokens(1, expires_in=86399, scope="read write"),
        tokens(2, expires_in=86399, scope=["read", "write"]),
        revoked=(200, None),
    ),
    "discord": StandIn(
        providers.DISCORD,
        ("https://docs.discord.com/developers/topics/oauth2",),
        tokens(1, expires_in=604800, scope="identify", guild={"id": "g1", "name": "Guild"}),
        tokens(2, expires_in=604800),
        (400, {"error": "invalid_grant", "error_description": 'Invalid "refresh_token" in request.'}),
        details={"guild.id": "g1"},
    ),
    "x": StandIn(
        providers.X,
        ("https://docs.x.com/resources/fundamentals/authentication/oauth-2-0/authorization-code",),
        tokens(1, token_type="bearer", expires_in=7200, scope="tweet.read users.read offline.access"),
        tokens(2, token_type="bearer", expires_in=7200),
        (400, {"error": "invalid_request", "error_description": "Value passed for the token was invalid."}),
        (401, {"error": "unauthorized_client", "error_description": "Missing valid authorization header"}),
        (200, {"revoked": True}),
        auth="basic",
        verifier=True,
        revokes=("POST", "token", "refresh", "form with basic"),
    ),
    "spotify": StandIn(
        providers.SPOTIFY,
        (
            "https://developer.spotify.com/documentation/web-api/tutorials/code-flow",
            "https://developer.spotify.com/documentation/web-api/tutorials/refreshing-tokens",
        ),
        tokens(1, scope="user-read-email"),
        without(tokens(2), "refresh_token"),
        (400, {"error": "invalid_grant", "error_description": "Refresh token revoked"}),
        (400, {"error": "invalid_client", "error_description": "Invalid client secret"}),
        None,
        auth="basic",
    ),
    "reddit": StandIn(
        providers.reddit(USER_AGENT),
        ("https://github.com/reddit-archive/reddit/wiki/OAuth2",),
        tokens(1, token_type="bearer", scope="identity"),
        without(tokens(2, token_type="bearer"), "refresh_token"),
        (400, {"message": "Bad Request", "error": 400}),
        (401, {"message": "Unauthorized", "error": "invalid_client"}),
        (204, None),
        auth="basic",
        headers={"User-Agent": USER_AGENT},
        asked={"duration": "permanent"},
        revokes=("POST", "token", "refresh", "form with basic"),
        is_named=False,
    ),
    "linkedin": StandIn(
        providers.LINKEDIN,
        (
            "https://learn.microsoft.com/en-us/linkedin/shared/authentication/authorization-code-flow",
            "https://learn.microsoft.com/en-us/linkedin/shared/authentication/programmatic-refresh-tokens",
        ),
        {**without(tokens(1, expires_in=5184000), "token_type"), "refresh_token_expires_in": 525600, "scope": "openid"},
        {**tokens(2, expires_in=86400), "refresh_token": "SENTINEL-refresh-1", "refresh_token_expires_in": 439200},
        wrong_client=(401, {"error": "invalid_client", "error_description": "Client authentication failed"}),
        verifier=False,
        details={"refresh_token_expires_at": ...},
    ),
    "quickbooks": StandIn(
        providers.QUICKBOOKS,
        ("https://developer.intuit.com/app/developer/qbo/docs/develop/authentication-and-authorization/oauth-2.0",),
        tokens(1, token_type="bearer", x_refresh_token_expires_in=8726400),
        tokens(2, token_type="bearer", x_refresh_token_expires_in=8726400),
        (400, {"error_description": "Incorrect or invalid refresh token", "error": "invalid_grant"}),
        revoked=(200, None),
        auth="basic",
        headers={"Accept": "application/json"},
        revokes=("POST", "token", "refresh", "json with basic"),
        details={"refresh_token_expires_at": ...},
    ),
    "shopify": StandIn(
        {**providers.shopify(SHOP), "scope": "read_customers,write_orders"},
        (
            "https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant",
            "https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/offline-access-tokens",
        ),
        {**without(tokens(1, scope="write_orders"), "token_type"), "refresh_token_expires_in": 7776000},
        {**without(tokens(2, scope="write_orders"), "token_type"), "refresh_token_expires_in": 7776000},
        wrong_client=(400, {"error": "invalid_client"}),
        revoked=None,
        fields={"expiring": "1"},
        details={"refresh_token_expires_at": ...},
    ),
    "facebook": StandIn(
        providers.FACEBOOK,
        (
            "https://developers.facebook.com/docs/facebook-login/guides/advanced/manual-flow",
            "https://developers.facebook.com/docs/facebook-login/guides/access-tokens/get-long-lived",
            "https://developers.facebook.com/docs/graph-api/guides/error-handling",
        ),
        without(tokens(1, token_type="bearer"), "refresh_token"),
        without(tokens(2, token_type="bearer", expires_in=5183944), "refresh_token"),
        (
            400,
            {
                "error": {
                    "message": "Error validating access token: Session has expired on Friday.",
                    "type": "OAuthException",
                    "code": 190,
                    "error_subcode": 463,
                    "fbtrace_id": "A1",
                }
            },
        ),
        (401, {"error": "invalid_client"}),
        (200, {"success": True}),
        revokes=("DELETE", "", "access", "bearer"),
    ),
    "gitlab": StandIn(
        providers.GITLAB,
        ("https://docs.gitlab.com/api/oauth2/",),
        tokens(1, token_type="bearer", expires_in=7200, created_at=1607635748),
        tokens(2, token_type="bearer", expires_in=7200, created_at=1607642948),
        (400, {"error": "invalid_grant", "error_description": "The provided authorization grant is invalid."}),
    ),
    "tiktok": StandIn(
        providers.TIKTOK,
        (
            "https://developers.tiktok.com/doc/oauth-user-access-token-management",
            "https://developers.tiktok.com/doc/oauth-error-handling",
        ),
        tokens(1, open_id="o1", refresh_expires_in=31536000, scope="user.info.basic"),
        tokens(2, open_id="o1", refresh_expires_in=31536000),
        (200, {"error": "invalid_grant", "error_description": "Refresh token is invalid.", "log_id": "20220622"}),
        (200, {"error": "invalid_client", "error_description": "Client key is invalid.", "log_id": "20220622"}),
        (200, None),
        names="client_key",
        asked={"client_key": CLIENT_ID},
        verifier=False,
        revokes=("POST", "token", "access", "form"),
        details={"open_id": "o1", "refresh_token_expires_at": ...},
    ),
}


class Running:
    """A stand-in that is running.

    Attributes:
        url: its base URL.
        state: what it answers to a refresh: `alive`, `dead` or `unknown client`.
        problems: what was wrong with the requests.
        counts: how many requests of each kind there were.
    """

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in, self.url, self.state = stand_in, "", "alive"
        self.problems: list[str] = []
        self.asked: list[str] = []

    def parameters(self) -> dict[str, Any]:
        """Return the preset, with the endpoints of this machine."""
        preset: dict[str, Any] = {**self.stand_in.preset}
        for name, path in (("authorization_endpoint", "authorize"), ("token_endpoint", "token")):
            preset[name] = f"{self.url}/{path}"
        if "revocation_endpoint" in preset:
            preset["revocation_endpoint"] = f"{self.url}/revoke"
        return preset

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        """Return status and body of the response to a request, or a refusal if it is not as documented."""
        self.asked.append(path)
        wanted = self.stand_in
        fields = self._fields(headers, body)
        for name, value in wanted.headers.items():
            self._require(headers.get(name.lower()) == value, f"header {name}")
        if path == "/revoke":
            return self._revoke(method, headers, fields)
        self._require(method == "POST", method)
        is_json = "json" in headers.get("content-type", "")
        self._require(is_json == (wanted.body == "json"), f"body {headers.get('content-type')}")
        self._require_credentials(wanted.auth, headers, fields)
        for name, value in wanted.fields.items():
            self._require(fields.get(name) == value, f"field {name}")
        if fields.get("grant_type") == "authorization_code":
            self._require(fields.get("code") == "SENTINEL-code-1", "code")
            self._require(bool(fields.get("redirect_uri")), "redirect_uri")
            has_verifier = "code_verifier" in fields
            self._require(wanted.verifier in {None, has_verifier}, "code_verifier")
            return 200, wanted.connect
        kind = wanted.preset.get("refresh_grant_type", "refresh_token")
        self._require(fields.get("grant_type") == kind, f"grant_type {fields.get('grant_type')}")
        sent = "SENTINEL-access-" if kind == "fb_exchange_token" else "SENTINEL-refresh-"
        self._require(str(fields.get(kind)).startswith(sent), f"field {kind}")
        return {"alive": (200, wanted.refresh), "dead": wanted.dead, "unknown client": wanted.wrong_client}[self.state]

    def _revoke(self, method: str, headers: Mapping[str, str], fields: dict[str, Any]) -> tuple[int, Any]:
        wanted_method, name, kind, place = self.stand_in.revokes
        self._require(method == wanted_method, method)
        if place == "bearer":
            self._require(headers.get("authorization", "").startswith("Bearer SENTINEL-access-"), "bearer token")
            self._require(not fields, "no fields")
        else:
            self._require(str(fields.get(name)).startswith(f"SENTINEL-{kind}-"), f"field {name}")
            is_json = "json" in headers.get("content-type", "")
            self._require(is_json == place.startswith("json"), "body of the revocation")
            self._require_credentials("basic" if place.endswith("basic") else "post", headers, fields)
        assert self.stand_in.revoked is not None
        return self.stand_in.revoked

    def _require_credentials(self, auth: str, headers: Mapping[str, str], fields: dict[str, Any]) -> None:
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if auth == "basic":
            self._require(headers.get("authorization") == f"Basic {basic}", "Basic")
            self._require("client_secret" not in fields, "secret in the body as well")
        else:
            self._require(fields.get(self.stand_in.names) == CLIENT_ID, self.stand_in.names)
            self._require(fields.get("client_secret") == CLIENT_SECRET, "client_secret")
            self._require("authorization" not in headers, "Authorization as well")

    def _fields(self, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        if "json" in headers.get("content-type", ""):
            return json.loads(body)  # type: ignore[no-any-return]
        return {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}

    def _require(self, is_right: bool, what: str) -> None:
        if not is_right:
            self.problems.append(what)


@contextmanager
def running(stand_in: StandIn) -> Iterator[Running]:
    """Run a stand-in during the `with` block."""
    found = Running(stand_in)

    def respond(method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], str]:
        status, answer = found.answer(method, path, headers, body)
        text = answer if isinstance(answer, str) else "" if answer is None else json.dumps(answer)
        return status, {"Content-Type": "application/json"}, text

    with serving(respond) as found.url:
        yield found
