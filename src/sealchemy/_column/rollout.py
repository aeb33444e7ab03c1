"""`Rollout`: what a process writes to a column, and what it accepts there."""

from enum import StrEnum
from typing import NoReturn

from sealchemy._values.secret import hide
from sealchemy.errors import RolloutError


class Rollout(StrEnum):
    """What a process writes to a column, and what it accepts there.

    Every process that reads must understand ciphertext before any process writes it. Hence three stages, each
    deployed everywhere before the next. For values that are encrypted already, and are to be bound to their row, two
    more lead from STRICT to STRICT; for a column without `bind_to`, they are STRICT.
    """

    __module__ = "sealchemy"

    PREPARE = "prepare"
    """Write plaintext, read both."""

    MIGRATE = "migrate"
    """Write ciphertext, read both."""

    STRICT = "strict"
    """Write ciphertext, read ciphertext only; where a column has `bind_to`, bound values only. The default."""

    BIND_PREPARE = "bind_prepare"
    """Write values that are not bound to their row, read both."""

    BIND_MIGRATE = "bind_migrate"
    """Write values that are bound to their row, read both."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        value = hide(value)  # it may be the value of another variable
        raise RolloutError(f"a rollout stage must be one of {', '.join(cls)}")
