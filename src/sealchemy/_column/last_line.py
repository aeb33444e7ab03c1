"""The last line before the driver: no secret among plain parameters, and no INSERT or UPDATE that was not checked.

The listeners are on the class `Engine`: an engine without a key ring must not store plaintext either.
"""

import logging
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect

from sealchemy._values.secret import SecretString
from sealchemy.errors import UnsupportedOperationError

from .engine_keys import EngineKeys
from .statements import ProtectedCompiler, protect
from .writes import accepted_values

logger = logging.getLogger("sealchemy")

_CONTAINERS = frozenset({dict, list, tuple})


@event.listens_for(Engine, "do_connect")
def _protect_dialect(dialect: Dialect, *_: object) -> None:
    protect(dialect)


@event.listens_for(Engine, "do_execute")
def _check_one(_cursor: object, _statement: object, parameters: Any, context: Any) -> None:
    _check(lambda: _values(parameters or ()), context)


@event.listens_for(Engine, "do_executemany")
def _check_many(_cursor: object, _statement: object, parameters: Any, context: Any) -> None:
    _check(lambda: chain.from_iterable(map(_values, parameters)), context)


def _check(values: Callable[[], Iterable[Any]], context: Any) -> None:
    keys: EngineKeys | None = context.dialect.__dict__.get("_sealchemy")
    if keys is not None and keys.key_ring is not None and _has_secret(values):
        _refuse_secret(keys)
    compiled = context.compiled
    if compiled is not None and compiled.dml_compile_state and not isinstance(compiled, ProtectedCompiler):
        accepted_values(compiled.dml_compile_state)  # compiled before its dialect was protected


def _has_secret(values: Callable[[], Iterable[Any]]) -> bool:
    types = set(map(type, values()))
    if types.isdisjoint(_CONTAINERS):
        return SecretString in types
    items = chain.from_iterable(_values(value) for value in values() if type(value) in _CONTAINERS)
    return SecretString in types or SecretString in map(type, items)


def _values(parameters: Any) -> Iterable[Any]:
    return parameters.values() if isinstance(parameters, dict) else parameters


def _refuse_secret(keys: EngineKeys) -> None:
    message = (
        "a SecretString, which an encrypted column returns, is a parameter for a column that is not encrypted, or of"
        " text(): it would be stored in clear, and may be logged by the server"
    )
    if keys.refuses_secrets:
        raise UnsupportedOperationError(f"{message}. If that is what you want, pass str(value)")
    logger.warning("%s; this is refused unless on_secret_parameter is 'warn'", message)
