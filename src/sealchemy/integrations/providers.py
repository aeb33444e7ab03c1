"""Endpoints of well-known providers: `OAuthClient(client_id=..., client_secret=..., **GOOGLE_CALENDAR)`."""

from __future__ import annotations

from typing import TypedDict


class Provider(TypedDict, total=False):
    """The parameters of `OAuthClient` that depend on the provider."""

    authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str
    scope: str
    authorization_parameters: dict[str, str]
    token_endpoint_auth_method: str
    dead_grant_errors: tuple[str, ...]


def _google(scope: str) -> Provider:
    return {
        "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth",
        "token_endpoint": "https://oauth2.googleapis.com/token",
        "revocation_endpoint": "https://oauth2.googleapis.com/revoke",
        "scope": scope,
        # Without consent, only the first response has a refresh token.
        "authorization_parameters": {"access_type": "offline", "prompt": "consent"},
        "token_endpoint_auth_method": "client_secret_post",
    }


GOOGLE_CALENDAR = _google("https://www.googleapis.com/auth/calendar")
"""Google Calendar, read and write."""

GOOGLE_DRIVE = _google("https://www.googleapis.com/auth/drive")
"""Google Drive, all files of the user."""

MICROSOFT: Provider = {
    "authorization_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
    "token_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
    "scope": "offline_access User.Read Calendars.ReadWrite",
    "token_endpoint_auth_method": "client_secret_post",
}
"""Microsoft Graph, for any account. It has no endpoint to revoke tokens."""

GITHUB: Provider = {
    "authorization_endpoint": "https://github.com/login/oauth/authorize",
    "token_endpoint": "https://github.com/login/oauth/access_token",
    "token_endpoint_auth_method": "client_secret_post",
}
"""GitHub. Its revocation does not follow RFC 7009, so tokens are only deleted here."""

ATLASSIAN: Provider = {
    "authorization_endpoint": "https://auth.atlassian.com/authorize",
    "token_endpoint": "https://auth.atlassian.com/oauth/token",
    "scope": "offline_access read:me",
    "authorization_parameters": {"audience": "api.atlassian.com", "prompt": "consent"},
    "token_endpoint_auth_method": "client_secret_post",
    "dead_grant_errors": ("unauthorized_client",),
}
"""Atlassian (Jira, Confluence). It has no endpoint to revoke tokens."""

SALESFORCE: Provider = {
    "authorization_endpoint": "https://login.salesforce.com/services/oauth2/authorize",
    "token_endpoint": "https://login.salesforce.com/services/oauth2/token",
    "revocation_endpoint": "https://login.salesforce.com/services/oauth2/revoke",
    "scope": "api refresh_token",
    "token_endpoint_auth_method": "client_secret_post",
    "dead_grant_errors": ("inactive_user", "inactive_org"),
}
"""Salesforce, production organizations."""

X: Provider = {
    "authorization_endpoint": "https://x.com/i/oauth2/authorize",
    "token_endpoint": "https://api.x.com/2/oauth2/token",
    "revocation_endpoint": "https://api.x.com/2/oauth2/revoke",
    "scope": "tweet.read users.read offline.access",
    "token_endpoint_auth_method": "client_secret_basic",
    "dead_grant_errors": ("invalid_request",),
}
"""X, formerly Twitter."""
