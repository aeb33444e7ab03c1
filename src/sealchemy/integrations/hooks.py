"""What an application wants to be told: of each grant, and of users who must connect again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any

from sealchemy import IntegrationError

from .dead_grant import DeadGrant
from .token_grant import TokenGrant

logger = logging.getLogger("sealchemy")


class Hooks:
    """The functions of an application; what they raise is logged by its type, and changes nothing."""

    def __init__(
        self,
        on_grant: Callable[[TokenGrant], Mapping[str, Any] | None] | None,
        on_reauthorization_required: Callable[[DeadGrant], object] | None,
    ) -> None:
        """Check that they can be called; raises `IntegrationError` if not."""
        self._on_grant, self._on_reauthorization_required = on_grant, on_reauthorization_required
        for name, given in (("on_grant", on_grant), ("on_reauthorization_required", on_reauthorization_required)):
            if given is not None and not callable(given):
                raise IntegrationError(f"{name} is {type(given).__name__}; pass a function")
            if iscoroutinefunction(given) or iscoroutinefunction(getattr(given, "__call__", None)):  # noqa: B004 - its own
                raise IntegrationError(f"{name} is a coroutine function; pass a plain one, which is called in a thread")

    def granted(self, grant: TokenGrant) -> None:
        """Tell of a grant, and keep what the application says of it among its details."""
        if self._on_grant is None:
            return
        try:
            grant.keep({**grant.details, **(self._on_grant(grant) or {})}, grant.response)
        except Exception as error:  # noqa: BLE001 - its text may be a token
            logger.error("on_grant failed: %s", type(error).__name__)  # noqa: TRY400 - the traceback too

    def lost(self, grant: DeadGrant) -> None:
        """Tell of a user who must connect again."""
        if self._on_reauthorization_required is None:
            return
        try:
            self._on_reauthorization_required(grant)
        except Exception as error:  # noqa: BLE001 - its text may be a token
            logger.error("on_reauthorization_required failed: %s", type(error).__name__)  # noqa: TRY400 - the traceback too
