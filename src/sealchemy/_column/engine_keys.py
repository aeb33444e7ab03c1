"""`EngineKeys`: the ring and the rollout stages that an engine carries, and its functions for each context."""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NoReturn

from sqlalchemy.engine import Dialect

from sealchemy._values.key_ring import KeyRing
from sealchemy._values.secret import SecretString, StoredPlaintext, hide
from sealchemy.errors import KeyRingNotAttachedError, PlaintextFoundError, RolloutError

logger = logging.getLogger("sealchemy")

plaintext_reads: Counter[str] = Counter()
"""How often this process read plaintext, by context. It stays empty once a column is done."""


class Rollout(StrEnum):
    """What a process writes to a column, and what it accepts there.

    Every process that reads must understand ciphertext before any process writes it. Hence three stages, each
    deployed everywhere before the next.
    """

    __module__ = "sealchemy"

    PREPARE = "prepare"
    """Write plaintext, read both."""

    MIGRATE = "migrate"
    """Write ciphertext, read both."""

    STRICT = "strict"
    """Write ciphertext, read ciphertext only. The default."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        value = hide(value)  # it may be the value of another variable
        raise RolloutError(f"a rollout stage must be one of {', '.join(cls)}")


_lock = threading.Lock()  # without it, a function of the old ring could be entered after the ring was replaced


def _renew_lock() -> None:
    # Another thread may have held it during the fork.
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class EngineKeys:
    """The ring and the stages of an engine, and its functions for each context.

    There is one object for the life of a dialect; replacing a ring replaces the functions in it. SQLAlchemy keeps
    what `encryptor` and `decryptor` return with the statements that it has compiled, so these look the current
    function up for each value.
    """

    __slots__ = ("_decryptors", "_encryptors", "has_listeners", "key_ring", "refuses_secrets", "rollout")

    key_ring: KeyRing | None
    rollout: Mapping[str, Rollout] | Rollout

    def __init__(self) -> None:
        """Start without a ring: every value raises `KeyRingNotAttachedError`."""
        self.key_ring, self.rollout = None, Rollout.STRICT
        self.has_listeners, self.refuses_secrets = False, True
        self._encryptors: dict[str, Callable[[Any], Any]] = {}
        self._decryptors: dict[str, Callable[[Any], Any]] = {}

    def encryptor(self, context: str) -> Callable[[Any], Any]:
        """Return a function that encodes a value with whatever ring is attached when it is called."""
        return self._current(self._encryptors, self._make_encryptor, context)

    def decryptor(self, context: str) -> Callable[[Any], Any]:
        """Return a function that decodes a value with whatever ring is attached when it is called."""
        return self._current(self._decryptors, self._make_decryptor, context)

    def stage(self, context: str) -> Rollout:
        """Return the rollout stage of a context."""
        return self.rollout if isinstance(self.rollout, Rollout) else self.rollout.get(context, Rollout.STRICT)

    def require_ring(self, context: str) -> KeyRing:
        """Return the ring, or raise `KeyRingNotAttachedError` naming the column that needs it."""
        return self.key_ring or _refuse_without_ring(context)

    def replace(self, key_ring: KeyRing, rollout: Mapping[str, Rollout] | Rollout) -> None:
        """Use another ring and other stages from now on."""
        with _lock:
            self.key_ring, self.rollout = key_ring, rollout
            for context in self._encryptors:
                self._encryptors[context] = self._make_encryptor(context)
            for context in self._decryptors:
                self._decryptors[context] = self._make_decryptor(context)

    def _current(
        self, functions: dict[str, Callable[[Any], Any]], make: Callable[[str], Callable[[Any], Any]], context: str
    ) -> Callable[[Any], Any]:
        if context not in functions:
            with _lock:
                functions.setdefault(context, make(context))

        def current(value: Any) -> Any:
            try:
                return functions[context](value)
            except BaseException:
                value = hide(value)  # this frame is in the traceback
                raise

        return current

    def _make_encryptor(self, context: str) -> Callable[[Any], Any]:
        if self.key_ring is None:
            return _refuse_values(context)
        encrypt = self.key_ring.encryptor(context)
        if self.stage(context) is not Rollout.PREPARE:
            return encrypt

        def write_plaintext(value: Any) -> Any:
            value = hide(value)
            encrypt(value)  # refuses a value that could not be encrypted later
            return None if value is None else StoredPlaintext(value)

        return write_plaintext

    def _make_decryptor(self, context: str) -> Callable[[Any], Any]:
        if self.key_ring is None:
            return _refuse_values(context)
        on_plaintext = _refuse_plaintext if self.stage(context) is Rollout.STRICT else _accept_plaintext
        return self.key_ring.decryptor(context, lambda value: on_plaintext(context, value))


def engine_keys(dialect: Dialect) -> EngineKeys:
    """Return the keys that a dialect carries; the object is made on first use."""
    attributes: dict[str, Any] = dialect.__dict__
    keys: EngineKeys = attributes.setdefault("_sealchemy", EngineKeys())
    return keys


def _refuse_without_ring(context: str) -> NoReturn:
    raise KeyRingNotAttachedError(
        f"{context} is encrypted, and this engine has no key ring; call"
        ' attach_key_ring(engine, KeyRing.from_env("<your prefix>")) where the engine is made'
    )


def _refuse_values(context: str) -> Callable[[Any], None]:
    def refuse(value: Any) -> None:
        value = hide(value)
        if value is not None:
            _refuse_without_ring(context)

    return refuse


def _refuse_plaintext(context: str, _value: SecretString) -> NoReturn:
    raise PlaintextFoundError(
        f"{context}: this column holds plaintext, and its rollout stage is strict; find out who wrote it. If it dates"
        " from before the migration, attach the key ring with rollout=Rollout.MIGRATE and encrypt the rows there"
    )


def _accept_plaintext(context: str, value: SecretString) -> SecretString:
    plaintext_reads[context] += 1
    if plaintext_reads[context] == 1:
        logger.warning("%s: read plaintext; logged once, plaintext_reads keeps counting", context)
    return value
