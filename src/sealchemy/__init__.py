"""Encrypted columns for SQLAlchemy, and an in-place migration from plaintext that is safe on a live table."""

from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._column.engine import attach_key_ring as attach_key_ring
    from ._column.rollout import Rollout as Rollout
    from ._column.types import BlindIndex as BlindIndex
    from ._column.types import EncryptedBytes as EncryptedBytes
    from ._column.types import EncryptedJSON as EncryptedJSON
    from ._column.types import EncryptedString as EncryptedString
    from ._values.blind_index import matches as matches
    from ._values.blind_index import normalize_email as normalize_email
    from ._values.key_ring import KeyRing as KeyRing
    from ._values.keys import Key as Key
    from ._values.rows import RowValue as RowValue
    from ._values.secret import SecretBytes as SecretBytes
    from ._values.secret import SecretString as SecretString
    from .errors import *  # noqa: F403 - every name there is public
else:
    _MODULES = {
        "BlindIndex": "_column.types",
        "EncryptedBytes": "_column.types",
        "EncryptedJSON": "_column.types",
        "EncryptedString": "_column.types",
        "Key": "_values.keys",
        "KeyRing": "_values.key_ring",
        "Rollout": "_column.rollout",
        "RowValue": "_values.rows",
        "SecretBytes": "_values.secret",
        "SecretString": "_values.secret",
        "attach_key_ring": "_column.engine",
        "matches": "_values.blind_index",
        "normalize_email": "_values.blind_index",
    }
    _SUBMODULES = {"engine", "errors", "redaction", "types"}
    _lock = RLock()  # several threads that import parts of SQLAlchemy for the first time block each other

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used: `sealchemy --help` must not wait for SQLAlchemy."""
        if name == "__all__":
            public = (key for key, value in vars(_import("errors")).items() if _is_public(value))
            return sorted({*_MODULES, *(key for key in public if not key.startswith("_"))})
        if name in _SUBMODULES:
            return _import(name)
        value = None if name.startswith("_") else vars(_import(_MODULES.get(name, "errors"))).get(name)
        if not _is_public(value):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})

    def _import(name: str) -> object:
        with _lock:
            return import_module(f".{name}", __name__)

    def _is_public(value: object) -> bool:
        return getattr(value, "__module__", None) == __name__
