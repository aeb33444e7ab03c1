"""`Key` and `KeyRing`: from the text of a key to encrypting and decrypting stored values."""

from __future__ import annotations

import hmac
import os
import re
from typing import TYPE_CHECKING, NoReturn

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from . import envelope, keytext, xaes
from .ciphers import DataKey, Slot, decrypting, encrypting, refuse_plaintext
from .errors import (
    ColumnDefinitionError,
    KeyFormatError,
    MissingKeyError,
    UnknownKeyError,
)
from .redaction import SecretString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .ciphers import Reading


class Key:
    """A 256-bit key; its id is 12 hex digits derived from it.

    A class without `__dict__`, so that no serialiser, copy or debugger display meets its bytes by chance.
    """

    __slots__ = ("_data_key", "_secret", "id")

    id: str

    def __init__(self, secret: bytes) -> None:
        """Make a key of exactly 32 uniformly random bytes; raises `KeyFormatError` if they cannot be."""
        problem = keytext.what_is_weak(secret) if isinstance(secret, bytes) else "a key is bytes here: see Key.parse"
        if problem is not None:
            del secret  # error trackers print the variables of a frame
            raise KeyFormatError(problem)
        self._secret = secret
        self.id = _derive(secret, b"sealchemy v1 key id", 6).hex()
        self._data_key = DataKey(self.id, _derive(secret, b"sealchemy v1 xaes-256-gcm", xaes.KEY_SIZE))

    @classmethod
    def generate(cls) -> Key:
        """Return a new random key."""
        return cls(os.urandom(xaes.KEY_SIZE))

    @classmethod
    def parse(cls, text: str) -> Key:
        """Return the key that `text` writes.

        Args:
            text: `sealchemy-key-v1.` and the base64url of 32 bytes, as `reveal()` gives it; or the base64
                of 32 bytes alone, in either alphabet, padded or not.

        Raises:
            KeyFormatError: anything else. The message says what is wrong and never shows the text.

        """
        try:
            secret = keytext.decode(text)
        finally:
            del text
        return cls(secret)

    def reveal(self) -> str:
        """Return the key as text. Whoever reads it can decrypt everything: print it to a secret store."""
        return keytext.encode(self._secret)

    def __repr__(self) -> str:
        """Return the id, never the key."""
        return f"Key(id={getattr(self, 'id', None)!r})"

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        return isinstance(other, Key) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        """Hash the id."""
        return hash(self.id)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse pickle, copy and deepcopy: each would leave the key where nobody looks for one."""
        message = "a Key is not copied or pickled; load it again, with KeyRing.from_env or Key.parse"
        raise TypeError(message)


class KeyRing:
    """The primary key, which encrypts, and the previous ones, which only decrypt.

    Roles go by name and never by order. Each stored value names its key, so exactly one key is tried.
    """

    __slots__ = ("_keys", "previous", "primary")

    def __init__(self, primary: Key, previous: Iterable[Key] = ()) -> None:
        """Make a ring; raises `KeyFormatError` if two of its keys have one id."""
        keys = (primary, *previous)
        if not all(isinstance(key, Key) for key in keys):
            del primary, previous, keys  # they may be the texts of keys
            message = "a KeyRing is made of Key objects: Key.parse(text) makes one, and KeyRing.from_env reads them"
            raise KeyFormatError(message)
        self.primary = primary
        self.previous = keys[1:]
        self._keys = {key.id: key for key in (primary, *self.previous)}
        if len(self._keys) != 1 + len(self.previous):
            message = f"a key is in the ring twice (primary {primary.id}); remove it from the previous keys"
            raise KeyFormatError(message)

    @classmethod
    def from_env(cls, prefix: str, environ: Mapping[str, str] | None = None) -> KeyRing:
        """Return the ring that the environment describes.

        Reads `<prefix>_KEY`, or the file that `<prefix>_KEY_FILE` names, and likewise
        `<prefix>_PREVIOUS_KEYS` or `<prefix>_PREVIOUS_KEYS_FILE`: further keys, separated by commas or
        newlines. An empty variable counts as absent. There is no fallback to storing plaintext.

        Args:
            prefix: for example `INTEGRATION_TOKEN_ENCRYPTION`.
            environ: another mapping in place of `os.environ`.

        Raises:
            MissingKeyError: no primary key.
            KeyFormatError: a key that cannot be used; the message names the variable, never the value.

        """
        if not isinstance(prefix, str) or re.fullmatch(r"[A-Z][A-Z0-9_]{0,99}", prefix) is None:
            del prefix  # it may be the key itself
            message = "the prefix is the start of variable names, such as INTEGRATION_TOKEN_ENCRYPTION: A-Z, 0-9 and _"
            raise KeyFormatError(message)
        environ = os.environ if environ is None else environ
        try:
            source, text = keytext.read_variable(environ, f"{prefix}_KEY")
            previous_source, previous_text = keytext.read_variable(environ, f"{prefix}_PREVIOUS_KEYS")
        finally:
            del environ  # error trackers print the variables of a frame
        if not text:
            also = f" ({previous_source} is set, but previous keys only decrypt)" if previous_text else ""
            message = f"no encryption key: set {prefix}_KEY or {prefix}_KEY_FILE{also}; {keytext.MAKE_ONE}"
            raise MissingKeyError(message)
        entries = [SecretString(entry.strip()) for entry in re.split(r"[,\n]", previous_text)]
        primary = _parse_variable(source, text)
        previous = [_parse_variable(previous_source, entry) for entry in entries if entry]
        _check_distinct(source, primary, previous_source, previous)
        return cls(primary=primary, previous=previous)

    def encrypt(self, plaintext: str, context: str) -> str:
        """Return the stored value of `plaintext`, under the primary key.

        Raises:
            PlaintextTypeError: not a `str`, or one with a lone surrogate.
            AlreadyEncryptedError: it starts with `sealchemy:`.
            ColumnDefinitionError: `context` is malformed.

        """
        try:
            if plaintext is None:
                refuse_plaintext(plaintext, envelope.check_context(context))
            return self.encryptor(context)(plaintext)
        finally:
            del plaintext, context  # in whatever order they were passed

    def decrypt(self, stored: str, context: str) -> SecretString:
        """Return the plaintext of a stored value.

        Raises:
            EnvelopeFormatError: it is no stored value, or a damaged one.
            UnsupportedVersionError: a later version wrote it.
            UnknownKeyError: it names a key that this ring does not hold.
            DecryptionError: it does not authenticate: tampered, other key bytes or another context.
            ColumnDefinitionError: `context` is malformed.

        """
        try:
            if stored is None:
                envelope.parse(stored, envelope.check_context(context))
            return self.decryptor(context)(stored)
        finally:
            del stored, context  # error trackers print the variables of a frame

    def is_current(self, stored: str) -> bool:
        """Tell whether a stored value names the primary key; its header is read, nothing authenticated.

        Raises:
            EnvelopeFormatError, UnsupportedVersionError: as `decrypt` does, for the header.

        """
        try:
            return envelope.parse_key_id(stored) == self.primary.id
        finally:
            del stored

    def encryptor(self, context: str) -> Callable[[str], str]:
        """Return `encrypt` for one context, with all work that is the same for every value done."""
        try:
            function: Callable[[str], str] = encrypting(self.writing(context), context)
            return function
        finally:
            del context  # it may be a plaintext, in the wrong place

    def decryptor(
        self, context: str, on_plaintext: Callable[[SecretString], SecretString] | None = None
    ) -> Callable[[str], SecretString]:
        """Return `decrypt` for one context, with all work that is the same for every value done.

        Args:
            context: the name that the values were encrypted for.
            on_plaintext: what to do with text that does not start with `sealchemy:`; by default it is an
                `EnvelopeFormatError`.

        """
        try:
            function: Callable[[str], SecretString] = decrypting(self.reading(context, on_plaintext))
            return function
        finally:
            del context

    def writing(self, context: str) -> Slot:
        """Return what `ciphers.encrypting` works with."""
        try:
            context = envelope.check_context(context)
        except ColumnDefinitionError:
            del context  # it may be a plaintext, in the wrong place
            raise
        current = self.primary._data_key.writing(context)  # noqa: SLF001 - one module
        # A thread that finds a slot without a key may call this when the slot has been replaced.
        return Slot(current, encrypting(Slot(current, _never), context))

    def reading(self, context: str, on_plaintext: Callable[[SecretString], SecretString] | None = None) -> Slot:
        """Return what `ciphers.decrypting` works with."""
        try:
            envelope.check_context(context)
        except ColumnDefinitionError:
            del context
            raise
        known = {envelope.header(key.id): key._data_key for key in self._keys.values()}  # noqa: SLF001 - one module
        ready: Reading = {}
        prefix, size = envelope.PREFIX, envelope.HEADER_SIZE

        def otherwise(stored: SecretString) -> SecretString:
            try:
                if isinstance(stored, str):
                    if key := known.get(str(stored[:size])):
                        return key.open(str(stored), context, ready)
                    if on_plaintext is not None and not stored.startswith(prefix):
                        return on_plaintext(stored)
                raise self._unknown(stored, context)
            finally:
                del stored  # error trackers print the variables of a frame

        return Slot(ready, otherwise)

    def _unknown(self, stored: str, context: str) -> UnknownKeyError:
        try:
            key_id = envelope.parse(stored, context).key_id
        finally:
            del stored
        message = (
            f"{context}: a stored value was encrypted with key {key_id}, which is not in the key ring"
            f" ({', '.join(self._keys)}); add that key to the previous keys"
        )
        return UnknownKeyError(message, key_id=key_id)

    def __repr__(self) -> str:
        """Return the ids, never a key."""
        ids = list(getattr(self, "_keys", {})) or [None]
        return f"KeyRing(primary={ids[0]!r}, previous={ids[1:]!r})"


def _never(_plaintext: object) -> NoReturn:
    raise AssertionError


def _derive(secret: bytes, info: bytes, length: int) -> bytes:
    # RFC 5869, no salt: the input is uniformly random already.
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


def _parse_variable(variable: str, text: SecretString) -> Key:
    try:
        return Key.parse(text)
    except KeyFormatError as error:
        problem = str(error)
    message = f"{variable} is not a usable key: {problem}; {keytext.MAKE_ONE}"
    raise KeyFormatError(message)


def _check_distinct(source: str, primary: Key, previous_source: str, previous: list[Key]) -> None:
    ids = [key.id for key in previous]
    if primary.id in ids:
        message = f"{previous_source} repeats the key of {source} ({primary.id}): remove it there"
        raise KeyFormatError(message)
    if len(set(ids)) != len(ids):
        message = f"{previous_source} has a key twice (ids: {', '.join(ids)}): keep it once"
        raise KeyFormatError(message)
