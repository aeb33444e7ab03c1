"""`EngineKeys`: the ring and the rollout stages that an engine carries, and its functions for each context."""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeAlias

from sqlalchemy.engine import Dialect

from sealchemy._values import key_ring, rows
from sealchemy._values.blind_index import digester_of
from sealchemy._values.codecs import Plaintext, require_encodable
from sealchemy._values.envelope import longest_plaintext
from sealchemy._values.key_ring import KeyRing
from sealchemy._values.secret import StoredPlaintext, hide
from sealchemy.errors import (
    DecryptionError,
    EnvelopeFormatError,
    KeyRingNotAttachedError,
    PlaintextFoundError,
    UnsupportedOperationError,
)

from .counters import count_plaintext, count_unreadable
from .rollout import Rollout

_Function: TypeAlias = Callable[[Any], Any]

logger = logging.getLogger("sealchemy")

_WRITE_UNBOUND = frozenset({Rollout.PREPARE, Rollout.BIND_PREPARE})
_READ_PLAINTEXT = frozenset({Rollout.PREPARE, Rollout.MIGRATE})

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

    __slots__ = (
        *("_columns", "_decryptors", "_encryptors", "digesters"),
        *("has_listeners", "key_ring", "refuses_secrets", "rollout"),
    )

    key_ring: KeyRing | None
    rollout: Mapping[str, Rollout] | Rollout

    def __init__(self) -> None:
        """Start without a ring: every value raises `KeyRingNotAttachedError`."""
        self.key_ring, self.rollout = None, Rollout.STRICT
        self.has_listeners, self.refuses_secrets = False, True
        # By kind and context in one text, whose hash is computed once.
        self._columns: dict[str, tuple[str, Plaintext, tuple[str, ...]]] = {}
        self._encryptors: dict[str, _Function] = {}
        self._decryptors: dict[str, _Function] = {}
        self.digesters: dict[str, Callable[[bytes], str]] = {}

    def encryptor(self, context: str, kind: Plaintext, bind_to: tuple[str, ...] = ()) -> Callable[[Any], Any]:
        """Return a function that encodes a value with whatever ring is attached when it is called.

        Where the values are bound to their row, it takes a pair: the value, and the associated data of the row.
        """
        return self._current(self._encryptors, self._make_encryptor, context, kind, bind_to)

    def decryptor(self, context: str, kind: Plaintext, bind_to: tuple[str, ...] = ()) -> Callable[[Any], Any]:
        """Return a function that decodes a value with whatever ring is attached when it is called.

        Where the values are bound to their row, it takes a text: the stored value, and behind it the parts of the row.
        """
        return self._current(self._decryptors, self._make_decryptor, context, kind, bind_to)

    def digester(self, context: str) -> Callable[[bytes], str]:
        """Return the function that makes the digests of a context now; raises `MissingKeyError` without a key."""
        found = self.digesters.get(context)
        if found is None:
            with _lock:
                found = self.digesters[context] = digester_of(self.require_ring(context), context)
        return found

    def reads_plaintext(self, context: str) -> bool:
        """Return whether values that are not encrypted are read."""
        return self.stage(context) in _READ_PLAINTEXT

    def stage(self, context: str) -> Rollout:
        """Return the rollout stage of a context."""
        return self.rollout if isinstance(self.rollout, Rollout) else self.rollout.get(context, Rollout.STRICT)

    def require_ring(self, context: str) -> KeyRing:
        """Return the ring, or raise `KeyRingNotAttachedError` naming the column that needs it."""
        return self.key_ring or _refuse_without_ring(context)

    def refuse_secret(self) -> None:
        """Refuse a value of an encrypted column as a parameter of another, or warn, as the policy says."""
        if self.key_ring is None:
            return
        message = (
            "a SecretString or SecretBytes, which an encrypted column returns, is a parameter for a column that is not"
            " encrypted, or of text(): it would be stored in plaintext, and may be logged by the server"
        )
        if self.refuses_secrets:
            raise UnsupportedOperationError(f"{message}. If that is what you want, pass str(value) or bytes(value)")
        logger.warning("%s; this is refused unless on_secret_parameter is 'warn'", message)

    def replace(self, key_ring: KeyRing, rollout: Mapping[str, Rollout] | Rollout) -> None:
        """Use another ring and other stages from now on."""
        with _lock:
            self.key_ring, self.rollout = key_ring, rollout
            self.digesters.clear()
            for name in self._encryptors:
                self._encryptors[name] = self._make_encryptor(*self._columns[name])
            for name in self._decryptors:
                self._decryptors[name] = self._make_decryptor(*self._columns[name])

    def _current(
        self,
        functions: dict[str, _Function],
        make: Callable[[str, Plaintext, tuple[str, ...]], _Function],
        *column: Any,
    ) -> _Function:
        context, kind, bind_to = column
        name = " ".join([kind.name, context, *bind_to])
        if name not in functions:
            with _lock:
                self._columns[name] = context, kind, bind_to
                functions.setdefault(name, make(context, kind, bind_to))

        def current(value: Any) -> Any:
            try:
                return functions[name](value)
            except BaseException as error:
                value = hide(value)  # this frame is in the traceback
                if functions is self._decryptors:
                    count_unreadable(context, error)
                raise

        return current

    def _make_encryptor(self, context: str, kind: Plaintext, bind_to: tuple[str, ...]) -> _Function:
        if self.key_ring is None:
            return _refuse_values(context)
        stage = self.stage(context)
        if bind_to and stage not in _WRITE_UNBOUND:
            return rows.pair_encryptor(self.key_ring, context, kind.value)
        write = _plaintext_writer(context, kind, longest_plaintext(self.key_ring.size_limit))
        if stage is not Rollout.PREPARE:
            write = key_ring.encryptor(self.key_ring, context, kind.value)
        return (lambda pair: write(pair[0])) if bind_to else write

    def _make_decryptor(self, context: str, kind: Plaintext, bind_to: tuple[str, ...]) -> _Function:
        if self.key_ring is None:
            return _refuse_values(context)
        stage, accepts_plaintext = self.stage(context), self.reads_plaintext(context)
        on_plaintext = partial(_accept_plaintext if accepts_plaintext else _refuse_plaintext, context, kind)
        read = key_ring.decryptor(self.key_ring, context, kind.value, on_plaintext)
        if not bind_to:
            return read
        if stage is Rollout.STRICT:
            read = partial(refuse_unbound, context, read)
        return rows.text_decryptor(self.key_ring, context, kind.value, bind_to, read)


def _plaintext_writer(context: str, kind: Plaintext, longest: int) -> _Function:
    # What could not be encrypted later is refused.
    def write_plaintext(value: Any) -> Any:
        data: Any = None
        try:
            if value is None:
                return None
            data = require_encodable(kind.value, value, context, longest)
            return StoredPlaintext(kind.stored.decode(data))
        finally:
            value = data = None  # this frame is in the traceback

    return write_plaintext


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


def _refuse_plaintext(context: str, _kind: Plaintext, _value: object) -> NoReturn:
    raise PlaintextFoundError(
        f"{context}: this column holds plaintext, and its rollout stage is strict; find out who wrote it. If it dates"
        " from before the migration, attach the key ring with rollout=Rollout.MIGRATE and encrypt the rows there (or"
        " with Rollout.PREPARE, while a release without sealchemy still runs)"
    )


def refuse_unbound(context: str, read: _Function, stored: Any) -> NoReturn:
    """Raise `DecryptionError` for a stored value that is not bound to its row, or the error of reading it."""
    read(stored)  # an error of its own names plaintext, a damaged value or an unknown key
    stored = hide(stored)
    raise DecryptionError(
        f"{context}: an encrypted value is not bound to its row, and its rollout stage is strict, in which such a value"
        " may have been copied from any row. If it dates from before bind_to, go back to stage bind_migrate and run"
        " `sealchemy bind` there",
        context=context,
    )


def _accept_plaintext(context: str, kind: Plaintext, stored: Any) -> Any:
    try:
        value = kind.value.decode(kind.stored.encode(stored))
    except (TypeError, ValueError, RecursionError):  # some of them hold the value
        problem = kind.stored.find_problem(stored)
    else:
        count_plaintext(context)
        return value
    stored = hide(stored)
    raise EnvelopeFormatError(f"{context}: the stored value is neither encrypted nor plaintext of this type: {problem}")
