"""A ready-made table for OAuth integrations and what keeps its tokens valid, built on the public API of sealchemy."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .grants import TokenGrant
    from .models import Base, Integration, IntegrationMixin
    from .oauth import AuthorizationRequest, OAuthClient
    from .providers import GITHUB, GOOGLE_CALENDAR, GOOGLE_DRIVE, MICROSOFT
    from .schemas import IntegrationPublic
    from .service import (
        disconnect_integration,
        disconnect_integration_async,
        get_valid_token,
        get_valid_token_async,
        upsert_integration,
    )
    from .settings import IntegrationSettings, create_protected_engine, create_protected_engine_async

__all__ = [
    "GITHUB",
    "GOOGLE_CALENDAR",
    "GOOGLE_DRIVE",
    "MICROSOFT",
    "AuthorizationRequest",
    "Base",
    "Integration",
    "IntegrationMixin",
    "IntegrationPublic",
    "IntegrationSettings",
    "OAuthClient",
    "TokenGrant",
    "create_protected_engine",
    "create_protected_engine_async",
    "disconnect_integration",
    "disconnect_integration_async",
    "get_valid_token",
    "get_valid_token_async",
    "upsert_integration",
]

_MODULES = ("models", "settings", "schemas", "providers", "grants", "oauth", "service")


def __getattr__(name: str) -> object:
    """Import a name when it is first used: models and settings do without an HTTP client."""
    if name in __all__:
        for module in (import_module(f".{module}", __name__) for module in _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
