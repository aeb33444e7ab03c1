"""Well-known providers: `OAuthClient(client_id=..., client_secret=..., **GOOGLE_CALENDAR)`.

The docstring of each names the provider's documentation. For other scopes: `{**ATLASSIAN, "scope": "..."}`.
"""

from .commerce import QUICKBOOKS, STRIPE, shopify
from .provider import Provider
from .social import DISCORD, FACEBOOK, LINKEDIN, SPOTIFY, TIKTOK, X, reddit
from .work import (
    ATLASSIAN,
    DROPBOX,
    GITHUB,
    GITLAB,
    GOOGLE_CALENDAR,
    GOOGLE_DRIVE,
    HUBSPOT,
    LINEAR,
    MICROSOFT,
    NOTION,
    SALESFORCE,
    SLACK,
    SLACK_USER,
    ZOOM,
    gitlab,
    microsoft,
    salesforce,
)

__all__ = [
    "ATLASSIAN",
    "DISCORD",
    "DROPBOX",
    "FACEBOOK",
    "GITHUB",
    "GITLAB",
    "GOOGLE_CALENDAR",
    "GOOGLE_DRIVE",
    "HUBSPOT",
    "LINEAR",
    "LINKEDIN",
    "MICROSOFT",
    "NOTION",
    "QUICKBOOKS",
    "SALESFORCE",
    "SLACK",
    "SLACK_USER",
    "SPOTIFY",
    "STRIPE",
    "TIKTOK",
    "ZOOM",
    "Provider",
    "X",
    "gitlab",
    "microsoft",
    "reddit",
    "salesforce",
    "shopify",
]
