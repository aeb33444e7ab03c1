"""The part of an integration that an API may show."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class IntegrationPublic(BaseModel):
    """An integration without its tokens; `IntegrationPublic.model_validate(integration)`, or a response model.

    It reads only the columns that a listing has loaded, so nothing is fetched or decrypted for it.
    """

    model_config = ConfigDict(from_attributes=True)

    id: int | UUID | str
    user_id: int | UUID | str
    provider: str
    account: str
    scope: str | None
    expires_at: datetime | None
    reauthorization_required: bool
    has_access_token: bool
    has_refresh_token: bool
    created_at: datetime
    updated_at: datetime
