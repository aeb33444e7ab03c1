"""`Provider`: the parameters of `OAuthClient` that depend on the provider."""

from __future__ import annotations

from typing import TypedDict

from sealchemy.integrations.request_form import RevocationOptions

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
