"""`attach_key_ring`: keys and rollout stages on an engine.

Keys belong to the engine, as SQLAlchemy's JSON serializer does: so there is none in model code, in a type's `repr`,
in a pickle, in a statement cache key or in a migration file, and two engines can hold two rings.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy import Engine

from sealchemy._values.envelope import require_context
from sealchemy._values.key_ring import KeyRing
from sealchemy._values.secret import hide
from sealchemy.errors import RolloutError, UnsupportedOperationError

from .engine_keys import engine_keys
from .redact_errors import redact_errors
from .rollout import Rollout
from .statements import protect

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine  # needs greenlet, which not every application has

_Engine = TypeVar("_Engine", Engine, "AsyncEngine")

logger = logging.getLogger("sealchemy")


def attach_key_ring(
    engine: _Engine,
    key_ring: KeyRing,
    *,
    rollout: Rollout | Mapping[str, Rollout] = Rollout.STRICT,
    on_secret_parameter: Literal["refuse", "warn"] = "refuse",  # noqa: S107 - a policy
) -> _Engine:
    """Give an engine the keys of its encrypted columns, and return the same engine.

    Calling it again replaces the ring and the stages, also for statements that are already compiled. From the first
    call on, the errors of this engine carry no statement parameters.

    Args:
        engine: an `Engine` or `AsyncEngine`; engines made from it with `execution_options()` are included.
        key_ring: usually `KeyRing.from_env(...)`.
        rollout: one stage for all columns, or stages by context; a context that is absent is STRICT.
        on_secret_parameter: a `SecretString` as a parameter for a column that is not encrypted, or in `text()`, would
            be stored in plaintext, and is refused. "warn" logs a warning instead, for one release of an application.

    Raises:
        RolloutError: an unknown stage.
        UnsupportedOperationError: `engine` is not an engine, or `key_ring` not a key ring.
    """
    target = getattr(engine, "sync_engine", engine)
    if not isinstance(target, Engine) or not isinstance(key_ring, KeyRing):
        given = f"{type(engine).__name__} and {type(key_ring).__name__}"
        engine, key_ring, target = hide(engine), hide(key_ring), None  # one of them may be the text of a key
        raise UnsupportedOperationError(f"attach_key_ring takes an Engine or AsyncEngine and a KeyRing, not {given}")
    rollout = (
        {hide(key): hide(stage) for key, stage in rollout.items()} if isinstance(rollout, Mapping) else hide(rollout)
    )
    stages = _parse_rollout(rollout)
    keys = engine_keys(target.dialect)
    keys.replace(key_ring, stages)
    keys.refuses_secrets = _parse_policy(on_secret_parameter)
    if not keys.has_listeners:
        protect(target.dialect)
        target.clear_compiled_cache()
        redact_errors(target)
        keys.has_listeners = True
    logger.info("attached %r to %s, rollout %s", key_ring, target.dialect.name, _describe(stages))
    return engine


attach_key_ring.__module__ = "sealchemy"


def _parse_rollout(rollout: object) -> Mapping[str, Rollout] | Rollout:
    if isinstance(rollout, Mapping):
        return {require_context(context): _parse_stage(stage, context) for context, stage in rollout.items()}
    return _parse_stage(rollout, "all contexts")


def _parse_stage(stage: Any, context: str) -> Rollout:
    if isinstance(stage, str) and stage in list(Rollout):
        return Rollout(stage)
    raise RolloutError(f"the rollout stage of {context} must be one of {', '.join(Rollout)}")


def _parse_policy(policy: object) -> bool:
    policy = hide(policy)
    if policy not in {"refuse", "warn"}:
        raise UnsupportedOperationError('on_secret_parameter must be "refuse" or "warn"')
    return bool(policy == "refuse")


def _describe(rollout: Mapping[str, Rollout] | Rollout) -> str:
    if isinstance(rollout, Rollout):
        return rollout.value
    return ", ".join(f"{context}={stage.value}" for context, stage in rollout.items()) or Rollout.STRICT.value
