"""What another process needs to work on the same table: the engine, the keys, the table and the options.

It goes through a pipe, and stands neither in arguments nor in the environment, where others could read it.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import import_module
from inspect import getclosurevars, isfunction
from typing import Any

from sqlalchemy import Engine, make_url
from sqlalchemy.pool import NullPool

from sealchemy._column.engine import attach_key_ring
from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.rollout import Rollout
from sealchemy._databases.access import Access
from sealchemy._databases.async_drivers import make_engine
from sealchemy._rewriting.conversions import Conversion
from sealchemy._rewriting.options import Options
from sealchemy._values.key_ring import KeyRing
from sealchemy._values.keys import Key
from sealchemy.errors import KeyRingError, SealchemyError, UnsupportedOperationError

_OBSERVERS = {"ddtrace", "elasticapm", "newrelic", "opentelemetry", "sentry_sdk"}
"""Packages that only watch statements, most of them those of every engine."""

_LISTENERS = {"create_engine.<locals>.on_connect", "create_engine.<locals>.first_connect"}
"""Those that SQLAlchemy adds to every engine."""

_DOOR = (
    "name a function that returns the engine, with its key ring attached, in Options(engine_factory='package.module:f')"
)


def pack(access: Access, conversion: Conversion, options: Options) -> str:
    """Return it as one line of JSON, which holds keys.

    Raises:
        UnsupportedOperationError: the engine cannot be made again from its URL; the text says why.
    """
    keys, factory, wanted = engine_keys(access.connection.dialect), options.engine_factory, access.wanted
    identity = access.run(access.identity, write=False)
    return json.dumps(
        {
            "conversion": conversion.name,
            "table": wanted._asdict()
            | {
                "columns": dict(wanted.columns),
                "kinds": None if wanted.kinds is None else dict(wanted.kinds),
                "bind_to": {name: list(parts) for name, parts in wanted.bind_to.items()},
            },
            "identity": identity,
            "options": asdict(options) | {"jobs": 1, "engine_factory": None},
            "rollout": {context: keys.stage(context) for context in access.target.contexts},
            "key_id": keys.require_ring(access.target.name).primary.id,
            "log_level": logging.getLogger("sealchemy").getEffectiveLevel(),
            "engine": {"factory": factory} if factory else _describe_engine(access.connection.engine),
            "ring": None if factory else _describe_ring(keys.require_ring(access.target.name)),
        }
    )


def parse(line: str) -> dict[str, Any]:
    """Return what `pack` made, with the URL and the key ring in place of their texts."""
    given: dict[str, Any] = json.loads(line)
    if given["ring"] is not None:
        given["engine"]["url"] = make_url(given["engine"]["url"])
        primary, *previous = map(Key.parse, given["ring"].pop("keys"))
        given["ring"] = KeyRing(primary, previous, **given["ring"])
    return given


def make_carried_engine(given: Mapping[str, Any]) -> Engine:
    """Return the engine, with its key ring.

    Raises:
        UnsupportedOperationError: the function of `engine_factory` cannot be used.
    """
    if given["ring"] is None:
        return _call_factory(given["engine"]["factory"], given["key_id"])
    engine = make_engine(
        given["engine"]["url"],
        connect_args=given["engine"]["connect_args"],
        poolclass=NullPool,
        hide_parameters=True,
    )
    return attach_key_ring(
        engine, given["ring"], rollout={key: Rollout(stage) for key, stage in given["rollout"].items()}
    )


def require_same(access: Access, given: Mapping[str, Any]) -> None:
    """Raise `UnsupportedOperationError` if this table is not the one that was meant."""
    with access.transaction(write=False):
        found = access.identity()
    if found != given["identity"]:
        raise UnsupportedOperationError(
            f"{access.target.name}: the engine of engine_factory connects to another server, database or table"
        )


def _call_factory(name: str, key_id: str) -> Engine:
    module, _, function = name.partition(":")
    problem = None
    try:
        engine = getattr(import_module(module), function)()
    except (AttributeError, ImportError, SealchemyError) as error:
        problem, engine = f"{type(error).__name__}: {error}", None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the user's code; its text may be a key
        problem, engine = f"it raised {type(error).__name__}", None
    if problem is None and not isinstance(engine, Engine):
        problem = f"it returns {type(engine).__name__}, not an Engine"
    if isinstance(engine, Engine):
        ring = engine_keys(engine.dialect).key_ring
        if ring is None or ring.primary.id != key_id:
            problem = f"its engine has {f'key {ring.primary.id}' if ring else 'no key ring'}, not key {key_id}"
    if problem is not None:
        raise UnsupportedOperationError(f"engine_factory {name}: {problem}")
    return engine  # type: ignore[no-any-return] # it was looked at


def _describe_ring(ring: KeyRing) -> dict[str, Any]:
    try:
        return {"keys": [key.reveal() for key in (ring.primary, *ring.previous)], "size_limit": ring.size_limit}
    except KeyRingError as error:
        problem = f"jobs: the keys cannot be given to other processes: {error}; {_DOOR}"
    raise UnsupportedOperationError(problem)


def _describe_engine(engine: Engine) -> dict[str, Any]:
    if problem := _find_problem(engine):  # whose frame has the password, and is gone now
        raise UnsupportedOperationError(
            f"jobs: this engine cannot be made again in other processes: {problem}; {_DOOR}"
        )
    return {"url": engine.url.render_as_string(hide_password=False), "connect_args": _connect_args(engine)}


def _find_problem(engine: Engine) -> str | None:
    """Return what else than its URL and its connect_args makes the connections of an engine what they are."""
    dialect, creator = engine.dialect, _creator(engine)
    if getattr(creator, "__module__", None) != "sqlalchemy.engine.create" or "cparams" not in _closure(creator):
        return "it was made with creator="
    if type(dialect) is not engine.url.get_dialect() or not type(dialect).__module__.startswith("sqlalchemy."):
        return f"its dialect is {type(dialect).__name__}, which is not one of SQLAlchemy's"
    module = type(dialect).import_dbapi()
    is_other = dialect.dbapi is not module and not (dialect.is_async and type(dialect.dbapi) is type(module))
    if is_other or getattr(dialect, "client_encoding", None):
        return "it was made with module= or client_encoding="
    if list(_closure(creator)["cargs_tup"]) != list(dialect.create_connect_args(engine.url)[0]):
        return "a plugin changed the arguments of its connections"
    if wrong := [
        key for key, value in _connect_args(engine).items() if not isinstance(value, str | int | float | None)
    ]:
        return f"connect_args has {', '.join(sorted(wrong))}, which is neither text nor a number"
    if options := set(engine.get_execution_options()) - {"isolation_level"}:
        return f"it has the execution options {', '.join(sorted(options))}"
    listener = next(_listeners(engine), None)
    return listener and f"it has the listener {listener}"


def _creator(engine: Engine) -> Any:
    return engine.pool._creator  # noqa: SLF001 - SQLAlchemy shows it nowhere else


def _closure(function: Any) -> Mapping[str, Any]:
    return getclosurevars(function).nonlocals if isfunction(function) else {}


def _connect_args(engine: Engine) -> dict[str, Any]:
    expected = engine.dialect.create_connect_args(engine.url)[1]
    made = _closure(_creator(engine))["cparams"]
    return {key: value for key, value in made.items() if key not in expected or expected[key] != value}


def _listeners(engine: Engine) -> Iterator[str]:
    """Yield the functions of others that are called for the connections and the statements of an engine."""
    for owner in (engine, engine.pool, engine.dialect):
        dispatch: Any = owner.dispatch
        # An engine that another one was made of has joined them.
        for part in (dispatch.local, dispatch.parent) if hasattr(dispatch, "parent") else (dispatch,):
            for event in part._event_names:  # noqa: SLF001 - SQLAlchemy shows them nowhere else
                for listener in getattr(part, event):
                    if name := _foreign(listener):
                        yield f"{name} for {event}"


def _foreign(listener: Any) -> str | None:
    """Return the name of a listener, or of one that SQLAlchemy has wrapped, unless it is SQLAlchemy's own or ours."""
    package, name = str(getattr(listener, "__module__", "")).partition(".")[0], getattr(listener, "__qualname__", "")
    if package in {"sealchemy", *_OBSERVERS} or (package == "sqlalchemy" and name in _LISTENERS):
        return None
    if package == "sqlalchemy":
        inner = [item for item in _closure(listener).values() if callable(item) and not isinstance(item, type)]
        if inner:
            return next(filter(None, map(_foreign, inner)), None)
    return f"{getattr(listener, '__module__', '')}.{name or type(listener).__name__}"
