"""A ready-made table for OAuth integrations that keeps their tokens valid, built on the public API and `hide`."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .authentication import IntegrationAuth as IntegrationAuth
    from .dead_grant import DeadGrant as DeadGrant
    from .discovery import discover as discover
    from .models import Base as Base
    from .models import Integration as Integration
    from .models import IntegrationMixin as IntegrationMixin
    from .oauth import AuthorizationRequest as AuthorizationRequest
    from .oauth import OAuthClient as OAuthClient
    from .providers import ATLASSIAN as ATLASSIAN
    from .providers import DISCORD as DISCORD
    from .providers import DROPBOX as DROPBOX
    from .providers import FACEBOOK as FACEBOOK
    from .providers import GITHUB as GITHUB
    from .providers import GITLAB as GITLAB
    from .providers import GOOGLE_CALENDAR as GOOGLE_CALENDAR
    from .providers import GOOGLE_DRIVE as GOOGLE_DRIVE
    from .providers import HUBSPOT as HUBSPOT
    from .providers import LINEAR as LINEAR
    from .providers import LINKEDIN as LINKEDIN
    from .providers import MICROSOFT as MICROSOFT
    from .providers import NOTION as NOTION
    from .providers import QUICKBOOKS as QUICKBOOKS
    from .providers import SALESFORCE as SALESFORCE
    from .providers import SLACK as SLACK
    from .providers import SLACK_USER as SLACK_USER
    from .providers import SPOTIFY as SPOTIFY
    from .providers import STRIPE as STRIPE
    from .providers import TIKTOK as TIKTOK
    from .providers import ZOOM as ZOOM
    from .providers import X as X
    from .providers import gitlab as gitlab
    from .providers import microsoft as microsoft
    from .providers import reddit as reddit
    from .providers import salesforce as salesforce
    from .providers import shopify as shopify
    from .refresh_report import RefreshReport as RefreshReport
    from .scheduling import refresh_due as refresh_due
    from .scheduling import refresh_due_async as refresh_due_async
    from .schemas import IntegrationPublic as IntegrationPublic
    from .service import disconnect_integration as disconnect_integration
    from .service import disconnect_integration_async as disconnect_integration_async
    from .service import get_valid_token as get_valid_token
    from .service import get_valid_token_async as get_valid_token_async
    from .settings import IntegrationSettings as IntegrationSettings
    from .settings import create_protected_engine as create_protected_engine
    from .settings import create_protected_engine_async as create_protected_engine_async
    from .token_grant import TokenGrant as TokenGrant
    from .upsert import upsert_integration as upsert_integration

_MODULES = {
    "ATLASSIAN": "providers",
    "AuthorizationRequest": "oauth",
    "Base": "models",
    "DISCORD": "providers",
    "DROPBOX": "providers",
    "DeadGrant": "dead_grant",
    "FACEBOOK": "providers",
    "GITHUB": "providers",
    "GITLAB": "providers",
    "GOOGLE_CALENDAR": "providers",
    "GOOGLE_DRIVE": "providers",
    "HUBSPOT": "providers",
    "Integration": "models",
    "IntegrationAuth": "authentication",
    "IntegrationMixin": "models",
    "IntegrationPublic": "schemas",
    "IntegrationSettings": "settings",
    "LINEAR": "providers",
    "LINKEDIN": "providers",
    "MICROSOFT": "providers",
    "NOTION": "providers",
    "OAuthClient": "oauth",
    "QUICKBOOKS": "providers",
    "RefreshReport": "refresh_report",
    "SALESFORCE": "providers",
    "SLACK": "providers",
    "SLACK_USER": "providers",
    "SPOTIFY": "providers",
    "STRIPE": "providers",
    "TIKTOK": "providers",
    "TokenGrant": "token_grant",
    "X": "providers",
    "ZOOM": "providers",
    "create_protected_engine": "settings",
    "create_protected_engine_async": "settings",
    "disconnect_integration": "service",
    "disconnect_integration_async": "service",
    "discover": "discovery",
    "get_valid_token": "service",
    "get_valid_token_async": "service",
    "gitlab": "providers",
    "microsoft": "providers",
    "reddit": "providers",
    "refresh_due": "scheduling",
    "refresh_due_async": "scheduling",
    "salesforce": "providers",
    "shopify": "providers",
    "upsert_integration": "upsert",
}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Import a name when it is first used: models and settings need no HTTP client."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{name} needs {error.name}: pip install "sealchemy[integrations]"', name=error.name
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
