"""The import path in pickles of version 0.1."""

from .token_grant import TokenGrant

__all__ = ["TokenGrant"]
