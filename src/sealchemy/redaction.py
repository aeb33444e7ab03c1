"""The import path in pickles of version 0.1."""

from ._values.secret import SecretString

__all__ = ["SecretString"]
