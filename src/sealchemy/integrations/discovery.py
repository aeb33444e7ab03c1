"""`discover`: the endpoints of a server that publishes them, such as Okta, Keycloak and Entra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sealchemy import IntegrationError

from . import client_options
from .bounded_http import Transport
from .client_authentication import METHODS
from .endpoints import is_safe
from .provider_session import ProviderSession
from .providers import Provider
from .responses import Refused, parse

_DOCUMENT = ".well-known/openid-configuration"
_BY_PREFERENCE = ("client_secret_post", "private_key_jwt", *METHODS)


def discover(
    issuer: str, *, scope: str | None = None, timeout: float = 10.0, verify: bool | str | Path = True
) -> Provider:
    """Ask a server for its endpoints, and return the parameters of `OAuthClient` (OpenID Connect Discovery 1.0).

    Okta: `https://<domain>/oauth2/default`; Keycloak: `https://<host>/realms/<realm>`. Do this where the application
    starts: it asks the server each time.

    Args:
        issuer: the URL of the server, as the document names it.
        scope: the scopes to request, separated by spaces.
        timeout: seconds for the request.
        verify: as for `OAuthClient`.

    Raises:
        IntegrationError: the document cannot be read, is of another issuer, or names an endpoint without TLS.
    """
    if not isinstance(issuer, str) or not is_safe(issuer):
        raise IntegrationError(
            "issuer must be https://host/path, as the server names itself; http:// on this machine only"
        )
    client_options.require_timeout(timeout)
    url = f"{issuer.rstrip('/')}/{_DOCUMENT}"
    transport = Transport(timeout, verify=client_options.authorities(verify))
    found = ProviderSession(url, transport).ask(
        lambda session: parse(session.send_fields("GET", {}, {}, "form"), frozenset(), (), needs_token=False)
    )
    if isinstance(found, Refused):
        raise IntegrationError(
            f"{url}: the provider {found}; is this the issuer? (Keycloak: https://host/realms/realm)"
        )
    if not found:
        raise IntegrationError(f"{url}: this is no JSON object")
    named = found.get("issuer")
    if named != issuer:
        shown = f": {named}" if isinstance(named, str) and is_safe(named) else ""
        raise IntegrationError(
            f"{url} names another issuer{shown} (OpenID Connect Discovery, section 4.3); pass it exactly as it is"
            " there, with or without the slash at its end"
        )
    provider: Any = {name: _endpoint(found, name) for name in ("authorization_endpoint", "token_endpoint")}
    if found.get("revocation_endpoint"):
        provider["revocation_endpoint"] = _endpoint(found, "revocation_endpoint")
    methods = found.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    if not isinstance(methods, list) or not {*map(str, methods)}.intersection(METHODS):
        raise IntegrationError(f"{url}: it names no way to authenticate that sealchemy knows: {', '.join(METHODS)}")
    if "client_secret_basic" not in methods:
        provider["auth_method"] = next(method for method in _BY_PREFERENCE if method in methods)
    return provider | ({"scope": scope} if scope is not None else {})  # type: ignore[no-any-return]


def _endpoint(found: Mapping[str, Any], name: str) -> str:
    endpoint = found.get(name)
    if not isinstance(endpoint, str) or not is_safe(endpoint):
        raise IntegrationError(f"{_DOCUMENT} has no {name} with TLS")
    return endpoint
