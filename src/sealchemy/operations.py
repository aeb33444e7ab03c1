"""The import path of `render_item` in `env.py` files of version 0.1."""

from .alembic.rendering import render_item

__all__ = ["render_item"]
