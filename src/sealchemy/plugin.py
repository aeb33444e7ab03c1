"""The entry point by which Alembic 1.18 and later finds the operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.runtime.plugins import Plugin


def setup(plugin: Plugin) -> None:
    """Register the operations.

    They are imported here and not above because Alembic loads this module while it is itself being imported,
    and `operations`, if it was what imported Alembic, is then not complete yet.
    """
    del plugin
    from . import operations  # noqa: F401, PLC0415 - importing them registers them
