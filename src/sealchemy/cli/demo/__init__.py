"""`sealchemy demo`: turn a table of plaintext tokens into an encrypted one, on a real database."""

from .steps import run

__all__ = ["run"]
