"""The import path in pickles of version 0.1."""

from ._rewriting.options import Options

__all__ = ["Options"]
