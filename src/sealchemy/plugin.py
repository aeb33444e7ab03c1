"""The entry point by which Alembic 1.18 and later finds the operations."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.runtime.plugins import Plugin


class _IterableModule(ModuleType):
    """Some releases of Alembic iterate over what the entry point loads, and fail on their own import if they cannot."""

    def __iter__(self) -> Iterator[ModuleType]:
        yield self


sys.modules[__name__].__class__ = _IterableModule


def setup(plugin: Plugin) -> None:
    """Register the operations.

    They are imported here and not above because Alembic loads this module while it is itself being imported,
    and `operations`, if it was what imported Alembic, is then not complete yet.
    """
    del plugin
    from . import operations  # noqa: F401, PLC0415 - importing them registers them
