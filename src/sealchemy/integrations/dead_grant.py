"""`DeadGrant`: a user who must connect again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DeadGrant:
    """The row of a user who must connect again, for `OAuthClient(on_reauthorization_required=...)`.

    Attributes:
        integration_id: the id of the row.
        user_id: whose it is.
        provider: the application's name of the provider.
        account: the name of the account there.
        code: why, as in `last_error`; None if the provider gave no code.
    """

    __module__ = "sealchemy.integrations"

    integration_id: Any
    user_id: Any
    provider: str
    account: str
    code: str | None
