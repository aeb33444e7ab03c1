"""Providers of mail, documents, code and customers."""

from __future__ import annotations

from sealchemy.integrations.endpoints import check_endpoint

from .provider import BASIC_RAW, POST, Provider, require_host


def _google(scope: str) -> Provider:
    return {
        "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth",
        "token_endpoint": "https://oauth2.googleapis.com/token",
        "revocation_endpoint": "https://oauth2.googleapis.com/revoke",
        "scope": scope,
        # Without consent, only the first response has a refresh token.
        "authorization_parameters": {"access_type": "offline", "prompt": "consent"},
        "auth_method": POST,
    }


GOOGLE_CALENDAR = _google("https://www.googleapis.com/auth/calendar")
"""Google Calendar, read and write. https://developers.google.com/identity/protocols/oauth2/web-server"""

GOOGLE_DRIVE = _google("https://www.googleapis.com/auth/drive")
"""Google Drive, all files of the user. The same page."""


def microsoft(tenant: str = "common") -> Provider:
    """Return Microsoft Graph for the accounts of a tenant. It has no endpoint to revoke tokens.

    https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-auth-code-flow
    """
    require_host("tenant", tenant)
    return {
        "authorization_endpoint": f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0/authorize",
        "token_endpoint": f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
        "scope": "offline_access User.Read Calendars.ReadWrite",
        "auth_method": POST,
    }


MICROSOFT = microsoft()
"""Microsoft Graph, for any account."""

GITHUB: Provider = {
    "authorization_endpoint": "https://github.com/login/oauth/authorize",
    "token_endpoint": "https://github.com/login/oauth/access_token",
    "revocation_endpoint": "https://api.github.com/applications/{client_id}/grant",
    "auth_method": POST,
    "revocation": {
        "method": "DELETE",
        "token": "access_token",
        "field": "access_token",
        "body": "json",
        "auth_method": BASIC_RAW,
    },
}
"""GitHub. The tokens of OAuth apps do not expire; those of GitHub apps do, and are refreshed.

https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps
https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens
https://docs.github.com/en/rest/apps/oauth-applications
"""


def gitlab(url: str = "https://gitlab.com") -> Provider:
    """Return GitLab, at its URL.

    https://docs.gitlab.com/api/oauth2/
    """
    url = url.rstrip("/")
    check_endpoint(f"{url}/oauth/token")
    return {
        "authorization_endpoint": f"{url}/oauth/authorize",
        "token_endpoint": f"{url}/oauth/token",
        "revocation_endpoint": f"{url}/oauth/revoke",
        "scope": "read_user",
        "auth_method": POST,
    }


GITLAB = gitlab()
"""GitLab.com."""

SLACK: Provider = {
    "authorization_endpoint": "https://slack.com/oauth/v2/authorize",
    "token_endpoint": "https://slack.com/api/oauth.v2.access",
    "revocation_endpoint": "https://slack.com/api/auth.revoke",
    "auth_method": POST,
    "revocation": {"token": "access_token", "field": None},
    "details": ("team.id", "team.name", "bot_user_id", "app_id"),
}
"""Slack, as a bot; scopes are separated by commas. Token rotation, which makes tokens expire, is a setting of the app.

https://docs.slack.dev/authentication/installing-with-oauth
https://docs.slack.dev/authentication/using-token-rotation
https://docs.slack.dev/reference/methods/auth.revoke
"""

SLACK_USER: Provider = {
    **SLACK,
    "parameter_names": {"scope": "user_scope"},
    "response_path": ("authed_user",),
    "details": ("team.id", "team.name", "id"),
}
"""Slack, on behalf of the user, whose tokens are inside the response. The same pages."""

ATLASSIAN: Provider = {
    "authorization_endpoint": "https://auth.atlassian.com/authorize",
    "token_endpoint": "https://auth.atlassian.com/oauth/token",
    "scope": "offline_access read:me",
    "authorization_parameters": {"audience": "api.atlassian.com", "prompt": "consent"},
    "auth_method": POST,
    "dead_grant_errors": ("unauthorized_client",),
}
"""Atlassian (Jira, Confluence). It has no endpoint to revoke tokens.

https://developer.atlassian.com/cloud/jira/platform/oauth-2-3lo-apps/
"""


def salesforce(host: str = "login.salesforce.com") -> Provider:
    """Return Salesforce; the host is `test.salesforce.com` for sandboxes, or a domain of your own there.

    https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_web_server_flow.htm
    https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_revoke_token.htm
    """
    require_host("host", host, ".salesforce.com", ".salesforce.mil")
    return {
        "authorization_endpoint": f"https://{host}/services/oauth2/authorize",
        "token_endpoint": f"https://{host}/services/oauth2/token",
        "revocation_endpoint": f"https://{host}/services/oauth2/revoke",
        "scope": "api refresh_token",
        "auth_method": POST,
        "dead_grant_errors": ("inactive_user", "inactive_org"),
        "details": ("instance_url", "id"),
    }


SALESFORCE = salesforce()
"""Salesforce, production organizations. Its responses do not say when a token expires: pass `rejected=` after a 401."""

HUBSPOT: Provider = {
    "authorization_endpoint": "https://app.hubspot.com/oauth/authorize",
    "token_endpoint": "https://api.hubapi.com/oauth/2026-03/token",
    "revocation_endpoint": "https://api.hubapi.com/oauth/2026-03/token/revoke",
    "scope": "oauth crm.objects.contacts.read",
    "auth_method": POST,
    "details": ("hub_id", "user_id"),
}
"""HubSpot, in the version 2026-03 of its endpoints.

https://developers.hubspot.com/docs/api-reference/latest/authentication/oauth-tokens/revoke-token
https://developers.hubspot.com/changelog/v1-oauth-api-deprecation
"""

NOTION: Provider = {
    "authorization_endpoint": "https://api.notion.com/v1/oauth/authorize",
    "token_endpoint": "https://api.notion.com/v1/oauth/token",
    "revocation_endpoint": "https://api.notion.com/v1/oauth/revoke",
    "authorization_parameters": {"owner": "user"},
    "auth_method": BASIC_RAW,
    "headers": {"Notion-Version": "2022-06-28"},
    "body": "json",
    "use_pkce": False,
    "revocation": {"token": "access_token"},
    "details": ("workspace_id", "workspace_name", "bot_id"),
    "requests_per_second": 3,
}
"""Notion. Its requests are JSON.

https://developers.notion.com/reference/create-a-token
https://developers.notion.com/reference/refresh-a-token
https://developers.notion.com/reference/revoke-token
https://developers.notion.com/reference/request-limits
"""

ZOOM: Provider = {
    "authorization_endpoint": "https://zoom.us/oauth/authorize",
    "token_endpoint": "https://zoom.us/oauth/token",
    "revocation_endpoint": "https://zoom.us/oauth/revoke",
    "auth_method": BASIC_RAW,
    "revocation": {"token": "access_token"},
    "details": ("api_url",),
}
"""Zoom, on behalf of a user. https://developers.zoom.us/docs/integrations/oauth/"""

DROPBOX: Provider = {
    "authorization_endpoint": "https://www.dropbox.com/oauth2/authorize",
    "token_endpoint": "https://api.dropboxapi.com/oauth2/token",
    "revocation_endpoint": "https://api.dropboxapi.com/2/auth/token/revoke",
    "authorization_parameters": {"token_access_type": "offline"},
    "auth_method": POST,
    "revocation": {"token": "access_token", "field": None},
    "details": ("account_id", "team_id"),
}
"""Dropbox. https://www.dropbox.com/developers/documentation/http/documentation#authorization"""

LINEAR: Provider = {
    "authorization_endpoint": "https://linear.app/oauth/authorize",
    "token_endpoint": "https://api.linear.app/oauth/token",
    "revocation_endpoint": "https://api.linear.app/oauth/revoke",
    "scope": "read",
    "auth_method": POST,
}
"""Linear; scopes are separated by commas. https://linear.app/developers/oauth-2-0-authentication"""
