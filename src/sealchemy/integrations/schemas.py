"""What an API may show of an integration."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations

from pydantic import BaseModel, ConfigDict


class IntegrationPublic(BaseModel):
    """An integration without its tokens; `IntegrationPublic.model_validate(integration)`, or a response model.

    It reads only what a listing has loaded, so that nothing is fetched or decrypted for it.
    """

    model_config = ConfigDict(from_attributes=True)

    id: int
    user_id: str
    provider: str
    scope: str | None
    expires_at: datetime | None
    reauthorization_required: bool
    has_access_token: bool
    has_refresh_token: bool
    created_at: datetime
    updated_at: datetime
