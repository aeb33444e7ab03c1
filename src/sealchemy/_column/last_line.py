"""The last line before the driver: no secret among plain parameters, and no INSERT or UPDATE that was not checked.

The listeners are on the class `Engine`: an engine without a key ring must not store plaintext either.
"""

import logging
from collections.abc import Iterable
from itertools import chain
from typing import Any
from weakref import WeakSet

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from sealchemy._values.secret import SecretString, hide
from sealchemy.errors import UnsupportedOperationError

from .engine_keys import EngineKeys
from .statements import ProtectedCompiler, protect

logger = logging.getLogger("sealchemy")

_checked: WeakSet[SQLCompiler] = WeakSet()

_CONTAINERS = frozenset({dict, list, tuple})


@event.listens_for(Engine, "do_connect")
def _protect_dialect(dialect: Dialect, *_: object) -> None:
    protect(dialect)


@event.listens_for(Engine, "do_execute")
def _check_one(_cursor: object, _statement: object, parameters: Any, context: Any) -> None:
    _check_compiled(context)
    _check_parameters([parameters] if parameters else [], context)


@event.listens_for(Engine, "do_executemany")
def _check_many(_cursor: object, _statement: object, parameters: Any, context: Any) -> None:
    _check_compiled(context)
    _check_parameters(parameters, context)


def _check_compiled(context: Any) -> None:
    """Check a statement that was compiled before its dialect was protected, or for another dialect."""
    compiled = context.compiled
    if isinstance(compiled, ProtectedCompiler) or not isinstance(compiled, SQLCompiler) or compiled in _checked:
        return
    if compiled.statement is not None:
        protect(context.dialect)
        compiled.statement.compile(dialect=context.dialect, column_keys=compiled.column_keys)
        _checked.add(compiled)


def _check_parameters(rows: Any, context: Any) -> None:
    keys: EngineKeys | None = context.dialect.__dict__.get("_sealchemy")
    if keys is not None and keys.key_ring is not None and rows and _has_secret(rows):
        rows = hide(rows)
        _refuse_secret(keys)


def _has_secret(rows: Any) -> bool:
    values = map(dict.values, rows) if isinstance(rows[0], dict) else rows
    types = set(map(type, chain.from_iterable(values)))
    if SecretString in types or types.isdisjoint(_CONTAINERS):
        return SecretString in types
    containers = [item for row in rows for item in _values(row) if type(item) in _CONTAINERS and item]
    return any(_has_secret([container]) for container in containers)


def _values(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _refuse_secret(keys: EngineKeys) -> None:
    message = (
        "a SecretString, which an encrypted column returns, is a parameter for a column that is not encrypted, or of"
        " text(): it would be stored in clear, and may be logged by the server"
    )
    if keys.refuses_secrets:
        raise UnsupportedOperationError(f"{message}. If that is what you want, pass str(value)")
    logger.warning("%s; this is refused unless on_secret_parameter is 'warn'", message)
