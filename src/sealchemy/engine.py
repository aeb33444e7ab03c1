"""`attach_key_ring`: keys and rollout stages on an engine, and errors without parameters.

Keys belong to the engine, as SQLAlchemy's JSON serialiser does: so there is none in model code, in a type's
`repr`, in a pickle, in a statement cache key or in a migration file, and two engines can hold two rings.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sqlalchemy import Engine, event
from sqlalchemy.exc import StatementError

from .ciphers import Slot, decrypting, encrypting
from .envelope import check_context
from .errors import (
    KeyRingNotAttachedError,
    PlaintextFoundError,
    RolloutError,
    UnsupportedOperationError,
)
from .guard import refuse_expressions
from .keys import KeyRing

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect, ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncEngine

    from .redaction import SecretString

    _Engine = TypeVar("_Engine", Engine, AsyncEngine)

logger = logging.getLogger("sealchemy")

plaintext_reads: Counter[str] = Counter()
"""How often this process read plaintext, by context. It stays empty once a column is done."""

# PostgreSQL's DETAIL and CONTEXT show rows, keys and parameters; sqlite3 shows a text that is not UTF-8.
_TOLD_OF_A_ROW = re.compile(r"\s*(?:DETAIL|HINT|CONTEXT): .*|(?<= )with text '.*", re.DOTALL)


class Rollout(StrEnum):
    """What a process writes to a column, and what it accepts there.

    Every process that reads must understand ciphertext before any process writes it: hence three stages,
    each deployed everywhere before the next.
    """

    PREPARE = "prepare"
    """Write plaintext, read both."""

    MIGRATE = "migrate"
    """Write ciphertext, read both."""

    STRICT = "strict"
    """Write ciphertext, read ciphertext only. The default."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        del value  # it may be the value of another variable
        message = f"a rollout stage must be one of {', '.join(cls)}"
        raise RolloutError(message)


class Binding:
    """What a dialect carries: the current ring, and how each context is written and read with it.

    One object for the life of the dialect, whose content is replaced when a ring is: SQLAlchemy keeps the
    functions that hold it, with the statements that it has compiled.
    """

    __slots__ = ("_lock", "_readers", "_writers", "key_ring", "listens", "rollout")

    key_ring: KeyRing | None
    rollout: Mapping[str, Rollout] | Rollout

    def __init__(self) -> None:
        """Start without a ring: everything raises `KeyRingNotAttachedError`."""
        self.key_ring, self.rollout, self.listens = None, Rollout.STRICT, False
        self._lock = threading.Lock()  # or a function made of the old ring could come in after it was replaced
        self._writers: dict[str, tuple[Slot, Any]] = {}
        self._readers: dict[str, tuple[Slot, Any]] = {}

    def writer(self, context: str) -> Any:
        """Return the function that makes what is stored of a value; it goes on with the ring that is current then."""
        if context not in self._writers:
            with self._lock:
                slot = self._writing(context)
                self._writers.setdefault(context, (slot, encrypting(slot, context)))
        return self._writers[context][1]

    def reader(self, context: str) -> Any:
        """Return the function that makes a value of what is stored, likewise."""
        if context not in self._readers:
            with self._lock:
                slot = self._reading(context)
                self._readers.setdefault(context, (slot, decrypting(slot)))
        return self._readers[context][1]

    def stage(self, context: str) -> Rollout:
        """Return the rollout stage of a context."""
        return self.rollout if isinstance(self.rollout, Rollout) else self.rollout.get(context, Rollout.STRICT)

    def require_ring(self, context: str) -> KeyRing:
        """Return the ring, or raise `KeyRingNotAttachedError` naming the column that needs it."""
        return self.key_ring or _refuse_without_ring(context)

    def replace(self, key_ring: KeyRing, rollout: Mapping[str, Rollout] | Rollout) -> None:
        """Use another ring and other stages from now on."""
        with self._lock:
            self.key_ring, self.rollout = key_ring, rollout
            for slots, make in ((self._writers, self._writing), (self._readers, self._reading)):
                for context, (slot, _) in slots.items():
                    new = make(context)
                    slot.otherwise, slot.current = new.otherwise, new.current

    def _writing(self, context: str) -> Slot:
        if self.key_ring is None:
            return Slot(None, lambda _value: _refuse_without_ring(context))
        slot = self.key_ring.writing(context)
        if self.stage(context) is not Rollout.PREPARE:
            return slot
        encrypt = encrypting(slot, context)

        def write_plaintext(value: SecretString) -> SecretString:
            try:
                encrypt(value)  # refuses what could not be encrypted later
                return value
            finally:
                del value

        return Slot(None, write_plaintext)

    def _reading(self, context: str) -> Slot:
        if self.key_ring is None:
            return Slot({}, lambda _stored: _refuse_without_ring(context))
        strict = self.stage(context) is Rollout.STRICT
        on_plaintext = _refuse_plaintext if strict else _accept_plaintext
        return self.key_ring.reading(context, lambda value: on_plaintext(context, value))


def attach_key_ring(
    engine: _Engine,
    key_ring: KeyRing,
    *,
    rollout: Rollout | Mapping[str, Rollout] = Rollout.STRICT,
) -> _Engine:
    """Give an engine the keys of its encrypted columns, and return the same engine.

    Calling it again replaces the ring and the stages, for statements that are compiled already too. From
    the first call on, the errors of this engine carry no statement parameters.

    Args:
        engine: an `Engine` or `AsyncEngine`; engines made from it with `execution_options()` are included.
        key_ring: usually `KeyRing.from_env(...)`.
        rollout: one stage for all columns, or stages by context; a context that is absent is STRICT.

    Raises:
        RolloutError: a stage that is none of the three.
        UnsupportedOperationError: `engine` is no engine, or `key_ring` no key ring.

    """
    target = getattr(engine, "sync_engine", engine)
    if not isinstance(target, Engine) or not isinstance(key_ring, KeyRing):
        message = (
            "attach_key_ring takes an Engine or AsyncEngine and a KeyRing, not"
            f" {type(engine).__name__} and {type(key_ring).__name__}"
        )
        del engine, key_ring, target  # what was passed may be the text of a key
        raise UnsupportedOperationError(message)
    stages = _parse_rollout(rollout)
    keys = binding(target.dialect)
    keys.replace(key_ring, stages)
    if not keys.listens:
        event.listen(target, "before_execute", refuse_expressions)
        scrub_errors(target)
        keys.listens = True
    logger.info("attached %r to %s, rollout %s", key_ring, target.dialect.name, _describe(stages))
    return engine


def binding(dialect: Dialect) -> Binding:
    """Return what a dialect carries, made on first use."""
    attributes: dict[str, Any] = dialect.__dict__
    found: Binding = attributes.setdefault("_sealchemy", Binding())
    return found


def _parse_rollout(rollout: object) -> Mapping[str, Rollout] | Rollout:
    if isinstance(rollout, Mapping):
        return {check_context(context): _parse_stage(stage, context) for context, stage in rollout.items()}
    return _parse_stage(rollout, "all contexts")


def _parse_stage(stage: Any, context: str) -> Rollout:
    try:
        return Rollout(stage)
    except ValueError:
        names = ", ".join(member.value for member in Rollout)
        message = f"the rollout stage of {context} must be one of {names}"
        del stage
    raise RolloutError(message)


def _describe(rollout: Mapping[str, Rollout] | Rollout) -> str:
    if isinstance(rollout, Rollout):
        return rollout.value
    return ", ".join(f"{context}={stage.value}" for context, stage in rollout.items()) or Rollout.STRICT.value


def _refuse_without_ring(context: str) -> Any:
    message = (
        f"{context} is encrypted, and this engine has no key ring: call"
        ' attach_key_ring(engine, KeyRing.from_env("<your prefix>")) where the engine is made'
    )
    raise KeyRingNotAttachedError(message)


def _refuse_plaintext(context: str, _value: SecretString) -> SecretString:
    message = (
        f"{context}: plaintext is stored in this column, and its rollout stage is strict: encrypt the rows"
        " (op.encrypt_columns), or attach the key ring with rollout=Rollout.MIGRATE until that is done"
    )
    raise PlaintextFoundError(message)


def _accept_plaintext(context: str, value: SecretString) -> SecretString:
    plaintext_reads[context] += 1
    if plaintext_reads[context] == 1:
        logger.warning("%s: read plaintext; this is logged once, plaintext_reads counts on", context)
    return value


def scrub_errors(engine: Engine) -> None:
    """Have the errors of an engine tell nothing about rows, as `attach_key_ring` does."""
    event.listen(engine, "handle_error", _scrub, insert=True)


def _scrub(error: ExceptionContext) -> None:
    """Empty what SQLAlchemy and the driver would tell about the row."""
    if isinstance(error.sqlalchemy_exception, StatementError):
        error.sqlalchemy_exception.params = None
        error.sqlalchemy_exception.hide_parameters = True
    driver_error = error.original_exception
    told = _what_the_server_told(driver_error)
    for shown in (error.sqlalchemy_exception, driver_error, driver_error.__cause__):
        if shown is not None:
            shown.args = tuple(_without(argument, told) for argument in shown.args)


def _what_the_server_told(error: BaseException) -> list[str]:
    """Return the texts beside the message itself, and empty them where they can be.

    They are not found by their titles, which PostgreSQL translates.
    """
    told: list[str | None] = [
        getattr(getattr(error, "diag", None), name, None) for name in ("message_detail", "message_hint", "context")
    ]
    for source in (error, error.__cause__):  # asyncpg's errors have a `detail`, and print it
        for name in ("detail", "context"):
            if isinstance(getattr(source, name, None), str):
                told.append(getattr(source, name))
                setattr(source, name, None)
    return [text for text in told if text]


def _without(argument: object, told: list[str]) -> object:
    if not isinstance(argument, str):
        return argument
    for value in told:
        argument = argument.replace(value, "")
    return _TOLD_OF_A_ROW.sub("", argument)
