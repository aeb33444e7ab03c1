"""The audit trail: which token was handed out, and for what."""

from __future__ import annotations

import logging
from contextlib import suppress

from sealchemy import IntegrationError
from sealchemy.metrics import count_token_event

_LONGEST_PURPOSE = 200

logger = logging.getLogger("sealchemy.audit")


def require_purpose(purpose: object) -> None:
    """Raise `IntegrationError` if a purpose is not text."""
    if not isinstance(purpose, str):
        raise IntegrationError(f"purpose is {type(purpose).__name__}; pass a text, which may be empty")


def handed_out(integration_id: object, user_id: object, provider: str, account: str, purpose: str) -> None:
    """Log that the access token of a row is handed out, once for each time; control characters are escaped.

    The fields are attributes of the log record too, unless the application has such attributes of its own.
    """
    count_token_event("handed_out", provider)
    fields = {"integration_id": integration_id, "user_id": user_id, "provider": provider, "account": account}
    fields["purpose"] = purpose[:_LONGEST_PURPOSE]
    line = ", ".join(f"{name}={str(value)!r}" for name, value in fields.items())
    with suppress(KeyError):
        logger.info("access token handed out: %s", line, extra=fields)
        return
    logger.info("access token handed out: %s", line)
