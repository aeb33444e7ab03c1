"""Encrypted columns for SQLAlchemy, and an in-place migration from plaintext that is safe on a live table."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._column.engine import Rollout as Rollout
    from ._column.engine import attach_key_ring as attach_key_ring
    from ._column.types import EncryptedString as EncryptedString
    from ._values.key_ring import KeyRing as KeyRing
    from ._values.keys import Key as Key
    from ._values.secret import SecretString as SecretString
    from .errors import *  # noqa: F403 - every name there is public
else:
    _MODULES = {
        "EncryptedString": "_column.types",
        "Key": "_values.keys",
        "KeyRing": "_values.key_ring",
        "Rollout": "_column.engine",
        "SecretString": "_values.secret",
        "attach_key_ring": "_column.engine",
    }

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used: `sealchemy --help` must not wait for SQLAlchemy."""
        if name == "__all__":
            errors = vars(import_module(".errors", __name__))
            public = (key for key, value in errors.items() if _is_public(value) and not key.startswith("_"))
            return sorted({*_MODULES, *public})
        value = None if name.startswith("_") else vars(_module_of(name)).get(name)
        if not _is_public(value):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})

    def _module_of(name: str) -> object:
        return import_module(f".{_MODULES.get(name, 'errors')}", __name__)

    def _is_public(value: object) -> bool:
        return getattr(value, "__module__", None) == __name__
