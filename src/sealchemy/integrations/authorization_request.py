"""`AuthorizationRequest`: how a user who wants to connect is sent to the provider."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from authlib.integrations.requests_client import OAuth2Session  # type: ignore[import-untyped]

from sealchemy import SecretString


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """Where to send the user, and the values to keep in their session until they come back.

    Attributes:
        url: the provider's page.
        state: compare it with the `state` of the callback; refuse the callback if it differs (RFC 6749, 10.12).
        code_verifier: for `exchange_code` (RFC 7636); empty if the provider does not take one.
    """

    __module__ = "sealchemy.integrations.oauth"  # the path in version 0.1

    url: str
    state: str
    code_verifier: str = field(repr=False)

    @classmethod
    def make(
        cls,
        client_id: str,
        endpoint: str,
        parameters: Mapping[str, str | None],
        names: Mapping[str, str],
        *,
        use_pkce: bool,
    ) -> Self:
        """Return one with new random values.

        Args:
            client_id: of the application.
            endpoint: the page where users consent.
            parameters: of the request.
            names: what this provider calls them.
            use_pkce: whether to send a code challenge.
        """
        verifier = SecretString(secrets.token_urlsafe(48) if use_pkce else "")
        all_of_them = {**parameters, **({"client_id": client_id} if "client_id" in names else {})}
        session: Any = OAuth2Session(client_id, code_challenge_method="S256")
        renamed = {names.get(name, name): value for name, value in all_of_them.items()}
        url, state = session.create_authorization_url(endpoint, code_verifier=verifier, **renamed)
        session.close()
        return cls(url, state, verifier)
