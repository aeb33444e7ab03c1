"""The audit trail: who was handed a token, and for what."""

from __future__ import annotations

import logging

from sealchemy.metrics import count_token_event

_LONGEST_PURPOSE = 200

logger = logging.getLogger("sealchemy.audit")


def handed_out(integration_id: object, provider: str, purpose: str) -> None:
    """Log that the access token of a row is handed out, once for each time; control characters are escaped."""
    count_token_event("handed_out", provider)
    shown = {"integration_id": integration_id, "provider": provider, "purpose": purpose[:_LONGEST_PURPOSE]}
    line = ", ".join(f"{name}={str(value)!r}" for name, value in shown.items())
    logger.info("access token handed out: %s", line, extra=shown)
