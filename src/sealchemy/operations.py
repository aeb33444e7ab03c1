"""The import path of `render_item` for `env.py`."""

from .alembic.operations import render_item

__all__ = ["render_item"]
