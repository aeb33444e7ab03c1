"""The entry point by which Alembic 1.18 and later finds the operations.

A module of its own, because Alembic calls `setup` while it is itself being imported: `operations`, imported
first, would import Alembic, which would come back for a `setup` that is not there yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import operations as operations  # importing them registers them

if TYPE_CHECKING:
    from alembic.runtime.plugins import Plugin


def setup(plugin: Plugin) -> None:
    """Do nothing more."""
