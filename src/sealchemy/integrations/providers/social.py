"""Providers where people meet, listen and watch."""

from __future__ import annotations

from .provider import BASIC_RAW, POST, Provider

DISCORD: Provider = {
    "authorization_endpoint": "https://discord.com/oauth2/authorize",
    "token_endpoint": "https://discord.com/api/oauth2/token",
    "revocation_endpoint": "https://discord.com/api/oauth2/token/revoke",
    "scope": "identify",
    "auth_method": POST,
    "details": ("guild.id", "webhook.url"),
}
"""Discord. https://docs.discord.com/developers/topics/oauth2"""

X: Provider = {
    "authorization_endpoint": "https://x.com/i/oauth2/authorize",
    "token_endpoint": "https://api.x.com/2/oauth2/token",
    "revocation_endpoint": "https://api.x.com/2/oauth2/revoke",
    "scope": "tweet.read users.read offline.access",
    "auth_method": BASIC_RAW,
    "dead_grant_errors": ("invalid_request",),
}
"""X, formerly Twitter.

https://docs.x.com/resources/fundamentals/authentication/oauth-2-0/authorization-code
"""

SPOTIFY: Provider = {
    "authorization_endpoint": "https://accounts.spotify.com/authorize",
    "token_endpoint": "https://accounts.spotify.com/api/token",
    "scope": "user-read-email",
    "auth_method": BASIC_RAW,
}
"""Spotify. It has no endpoint to revoke tokens.

https://developer.spotify.com/documentation/web-api/tutorials/code-flow
https://developer.spotify.com/documentation/web-api/tutorials/refreshing-tokens
"""


def reddit(user_agent: str) -> Provider:
    """Return Reddit, which refuses requests without a `User-Agent` of the application's own.

    https://github.com/reddit-archive/reddit/wiki/OAuth2
    https://github.com/reddit-archive/reddit/wiki/API

    Args:
        user_agent: `<platform>:<app id>:<version> (by /u/<name>)`.
    """
    return {
        "authorization_endpoint": "https://www.reddit.com/api/v1/authorize",
        "token_endpoint": "https://www.reddit.com/api/v1/access_token",
        "revocation_endpoint": "https://www.reddit.com/api/v1/revoke_token",
        "scope": "identity",
        "authorization_parameters": {"duration": "permanent"},
        "auth_method": BASIC_RAW,
        "headers": {"User-Agent": user_agent},
        "use_pkce": False,
        "requests_per_second": 1,
    }


LINKEDIN: Provider = {
    "authorization_endpoint": "https://www.linkedin.com/oauth/v2/authorization",
    "token_endpoint": "https://www.linkedin.com/oauth/v2/accessToken",
    "revocation_endpoint": "https://www.linkedin.com/oauth/v2/revoke",
    "scope": "openid profile email",
    "auth_method": POST,
    "use_pkce": False,  # it answers a code verifier with invalid_client
    "details": ("id_token",),
}
"""LinkedIn. Only approved partners get refresh tokens.

https://learn.microsoft.com/en-us/linkedin/shared/authentication/authorization-code-flow
https://learn.microsoft.com/en-us/linkedin/shared/authentication/programmatic-refresh-tokens
"""

FACEBOOK: Provider = {
    "authorization_endpoint": "https://www.facebook.com/v23.0/dialog/oauth",
    "token_endpoint": "https://graph.facebook.com/v23.0/oauth/access_token",
    "revocation_endpoint": "https://graph.facebook.com/v23.0/me/permissions",
    "scope": "public_profile",
    "auth_method": POST,
    "use_pkce": False,
    "refresh_grant_type": "fb_exchange_token",
    "revocation": {"method": "DELETE", "token": "access_token", "field": None},
    "dead_grant_errors": ("190",),
}
"""Facebook. It has no refresh tokens: a token is exchanged for one that lives for 60 days, as long as it is valid.

https://developers.facebook.com/docs/facebook-login/guides/advanced/manual-flow
https://developers.facebook.com/docs/facebook-login/guides/access-tokens/get-long-lived
https://developers.facebook.com/docs/graph-api/guides/error-handling
"""

TIKTOK: Provider = {
    "authorization_endpoint": "https://www.tiktok.com/v2/auth/authorize/",
    "token_endpoint": "https://open.tiktokapis.com/v2/oauth/token/",
    "revocation_endpoint": "https://open.tiktokapis.com/v2/oauth/revoke/",
    "scope": "user.info.basic",
    "auth_method": POST,
    "parameter_names": {"client_id": "client_key"},
    "use_pkce": False,
    "revocation": {"token": "access_token"},
    "details": ("open_id",),
}
"""TikTok; scopes are separated by commas.

https://developers.tiktok.com/doc/oauth-user-access-token-management
"""
