"""A ready-made table for OAuth integrations and what keeps its tokens valid, built on the public API of sealchemy."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .grants import TokenGrant as TokenGrant
    from .models import Base as Base
    from .models import Integration as Integration
    from .models import IntegrationMixin as IntegrationMixin
    from .oauth import AuthorizationRequest as AuthorizationRequest
    from .oauth import OAuthClient as OAuthClient
    from .providers import GITHUB as GITHUB
    from .providers import GOOGLE_CALENDAR as GOOGLE_CALENDAR
    from .providers import GOOGLE_DRIVE as GOOGLE_DRIVE
    from .providers import MICROSOFT as MICROSOFT
    from .schemas import IntegrationPublic as IntegrationPublic
    from .service import disconnect_integration as disconnect_integration
    from .service import disconnect_integration_async as disconnect_integration_async
    from .service import get_valid_token as get_valid_token
    from .service import get_valid_token_async as get_valid_token_async
    from .service import upsert_integration as upsert_integration
    from .settings import IntegrationSettings as IntegrationSettings
    from .settings import create_protected_engine as create_protected_engine
    from .settings import create_protected_engine_async as create_protected_engine_async

_MODULES = {
    "AuthorizationRequest": "oauth",
    "Base": "models",
    "GITHUB": "providers",
    "GOOGLE_CALENDAR": "providers",
    "GOOGLE_DRIVE": "providers",
    "Integration": "models",
    "IntegrationMixin": "models",
    "IntegrationPublic": "schemas",
    "IntegrationSettings": "settings",
    "MICROSOFT": "providers",
    "OAuthClient": "oauth",
    "TokenGrant": "grants",
    "create_protected_engine": "settings",
    "create_protected_engine_async": "settings",
    "disconnect_integration": "service",
    "disconnect_integration_async": "service",
    "get_valid_token": "service",
    "get_valid_token_async": "service",
    "upsert_integration": "service",
}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Import a name when it is first used: models and settings do without an HTTP client."""
    if name not in _MODULES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    try:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        message = f'{name} needs {error.name}: pip install "sealchemy[integrations]"'
        raise ModuleNotFoundError(message, name=error.name) from error


def __dir__() -> list[str]:
    return sorted(__all__)
