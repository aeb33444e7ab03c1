"""The last line before the driver: no secret among plain parameters, and no INSERT or UPDATE that was not checked.

The listeners are on the class `Engine`: an engine without a key ring must not store plaintext either.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any
from weakref import WeakSet

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from sealchemy._values.secret import MaskedBytes, MaskedText, SecretBytes, SecretString, StoredPlaintext, hide

from .engine_keys import EngineKeys
from .rows.guards import execute_guarded, is_guarded
from .statements import ProtectedCompiler, protect

_checked: WeakSet[SQLCompiler] = WeakSet()

_CONTAINERS = (Mapping, AbstractSet, list, tuple)
_SECRET = (SecretString, SecretBytes)
_MAY_PASS = (StoredPlaintext, MaskedText, MaskedBytes)


@event.listens_for(Engine, "do_connect")
def _protect_dialect(dialect: Dialect, *_: object) -> None:
    protect(dialect)


@event.listens_for(Engine, "do_execute")
def _check_one(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    _check_compiled(context)
    _check_parameters([parameters] if parameters else [], context)
    return is_guarded(context) and execute_guarded(cursor, statement, [parameters], context)


@event.listens_for(Engine, "do_executemany")
def _check_many(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    _check_compiled(context)
    _check_parameters(parameters, context)
    return is_guarded(context) and execute_guarded(cursor, statement, parameters, context)


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
        keys.refuse_secret()


def _has_secret(rows: list[Any]) -> bool:
    """Look level by level, at the types alone: most rows hold no containers."""
    seen: dict[int, Any] = {}
    while rows:
        types = set(map(type, chain.from_iterable(_values(rows))))
        if any(issubclass(item, _SECRET) and not issubclass(item, _MAY_PASS) for item in types):
            return True
        containers = {item for item in types if issubclass(item, _CONTAINERS)}
        if not containers:
            return False
        found = {id(item): item for row in _values(rows) for item in row if type(item) in containers}
        new = [item for number, item in found.items() if number not in seen]
        seen.update(found)
        rows = [*new, *(list(item) for item in new if isinstance(item, Mapping))]  # the keys as well
    return False


def _values(rows: list[Any]) -> Iterable[Iterable[Any]]:
    types = set(map(type, rows))
    if types == {dict}:
        return map(dict.values, rows)
    if types == {tuple}:
        return rows
    return (row.values() if isinstance(row, Mapping) else row for row in rows)
