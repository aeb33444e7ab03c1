"""`Provider`: the parameters of `OAuthClient` that depend on the provider."""

from __future__ import annotations

import re
from typing import TypedDict

from sealchemy import IntegrationError
from sealchemy.integrations.request_form import RevocationOptions

_HOST = re.compile(r"[A-Za-z0-9.-]+")

BASIC_RAW, POST = "client_secret_basic_raw", "client_secret_post"


class Provider(TypedDict, total=False):
    """The parameters of `OAuthClient` that depend on the provider."""

    authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str
    scope: str
    authorization_parameters: dict[str, str]
    auth_method: str
    headers: dict[str, str]
    token_params: dict[str, str]
    parameter_names: dict[str, str]
    body: str
    use_pkce: bool
    refresh_grant_type: str
    response_path: tuple[str, ...]
    revocation: RevocationOptions
    dead_grant_errors: tuple[str, ...]
    details: tuple[str, ...]
    requests_per_second: float


def require_host(name: str, value: object, *ends: str) -> None:
    """Raise `IntegrationError` unless a value is a host name with one of these endings; tokens are sent there."""
    if not isinstance(value, str) or not _HOST.fullmatch(value) or (ends and not value.lower().endswith(ends)):
        like = f", which ends with {' or '.join(ends)}" if ends else ""
        raise IntegrationError(f"{name} must be a name alone, without https:// and without a path{like}")
