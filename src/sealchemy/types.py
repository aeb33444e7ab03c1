"""The import path in pickles of version 0.1."""

from ._column.types import EncryptedString

__all__ = ["EncryptedString"]
