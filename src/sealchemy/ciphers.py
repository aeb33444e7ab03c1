"""`DataKey`: encrypting and decrypting under one key, with all work done before that is the same for every value."""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias
from weakref import WeakSet

from . import envelope, xaes
from .errors import AlreadyEncryptedError, DecryptionError, PlaintextTypeError
from .redaction import SecretString, hide
from .xaes import InvalidTag

if TYPE_CHECKING:
    from collections.abc import Callable

_VALUES_PER_PREFIX = 4096
_PREFIXES_PER_READER = 1024

START_SIZE = envelope.HEADER_SIZE + 16
"""Characters up to the end of the half nonce, whose 12 bytes are exactly 16 characters of base64."""


class _Writer(NamedTuple):
    # One immutable tuple, replaced by one assignment: with separate fields a thread would
    # combine the prefix of one cipher with the other's.
    prefix: bytes
    encrypt: Callable[[bytes, bytes, bytes], bytes]
    next_count: Callable[[], int]


def _refuse(_nonce: bytes, _data: bytes, _associated_data: bytes) -> bytes:
    raise AssertionError


Writing: TypeAlias = "tuple[str, bytes, DataKey]"  # header, associated data, key
Reading: TypeAlias = "dict[str, tuple[Callable[[bytes, bytes, bytes], bytes], bytes]]"
"""What decrypts a value, and its associated data, by what the value starts with: see `START_SIZE`."""
_USED_UP = _Writer(b"", _refuse, lambda: _VALUES_PER_PREFIX)


class DataKey:
    """The 32 bytes that encrypt, under the id of the key that they were derived from.

    A class because it keeps two things between values: the half nonce that this process writes with, and ciphers for
    half nonces that it has read.
    """

    __slots__ = ("__weakref__", "_secret", "id", "readers", "writer")

    def __init__(self, key_id: str, secret: bytes) -> None:
        self.id, self._secret = key_id, secret
        self.writer = _USED_UP
        self.readers: dict[bytes, Callable[[bytes, bytes, bytes], bytes]] = {}
        """By half nonce; only such as a value was authenticated with."""
        _live.add(self)

    def writing(self, context: str) -> Writing:
        """Return what `encrypting` needs to encrypt for a context under this key."""
        header = envelope.header(self.id)
        return header, (header + context).encode("ascii"), self

    def renew_writer(self) -> _Writer:
        """Begin another half nonce."""
        prefix = os.urandom(xaes.PREFIX_SIZE)
        self.writer = writer = _Writer(prefix, xaes.cipher(self._secret, prefix).encrypt, count(1).__next__)
        return writer

    def open(self, stored: str, context: str, ready: Reading) -> SecretString:
        """Decrypt a value that has the header of this key, strictly, and keep in `ready` what others like it need.

        Raises:
            EnvelopeFormatError, UnsupportedVersionError: what follows the header is malformed.
            DecryptionError: it does not authenticate.

        """
        payload = envelope.decode(stored[envelope.HEADER_SIZE :], context)
        prefix, associated_data = payload[:12], (envelope.header(self.id) + context).encode("ascii")
        reader = self.readers.get(prefix) or xaes.cipher(self._secret, prefix).decrypt
        try:
            plaintext = SecretString(reader(payload[12:24], payload[24:], associated_data).decode())
        except (InvalidTag, UnicodeDecodeError):
            plaintext = None
        if plaintext is None:
            message = (
                f"{context}: a stored value does not authenticate under key {self.id}: it was changed, or written"
                " for another column, or with another key of this id; restore it from a backup"
            )
            raise DecryptionError(message, context=context, key_id=self.id)
        # Only now: values that do not authenticate must not push out the ones that do.
        if len(self.readers) >= _PREFIXES_PER_READER:
            self.readers.clear()
        self.readers[prefix] = reader
        if len(ready) >= _PREFIXES_PER_READER:
            ready.clear()
        ready[stored[:START_SIZE]] = reader, associated_data
        return plaintext


class Slot:
    """What a function for one context works with at this moment; replaced when a ring is.

    Attributes:
        current: for `encrypting` a `Writing`, or None; for `decrypting` a `Reading`.
        otherwise: what is done with a text where `current` does not serve.

    """

    __slots__ = ("current", "otherwise")

    def __init__(self, current: Any, otherwise: Callable[[Any], Any]) -> None:
        self.current, self.otherwise = current, otherwise


def encrypting(slot: Slot, context: str) -> Any:
    """Return the function that encrypts the values of one context: `str` to `str`, and None stays None."""
    encode, urandom, reserved = envelope.encode, os.urandom, envelope.PREFIX
    # Of `str` itself: a class of its own may mask what it shows.
    starts_with, to_bytes = str.startswith, str.encode

    def encrypt(plaintext: Any) -> Any:
        if plaintext is None:
            return None
        data = None
        if isinstance(plaintext, str) and not starts_with(plaintext, reserved):
            try:
                data = to_bytes(plaintext)
            except UnicodeEncodeError:  # it holds the text, and ends here
                data = None
        current = slot.current
        if data is None or current is None:
            hidden = hide(plaintext) if isinstance(plaintext, str) else plaintext
            del plaintext, data  # error trackers print the variables of a frame
            try:
                return slot.otherwise(hidden) if current is None else refuse_plaintext(hidden, context)
            finally:
                del hidden  # it may be bytes
        header, associated_data, key = current
        prefix, seal, next_count = key.writer
        if next_count() >= _VALUES_PER_PREFIX:
            prefix, seal, _ = key.renew_writer()
        tail = urandom(12)
        return header + encode(prefix + tail + seal(tail, data, associated_data))

    return encrypt


def decrypting(slot: Slot) -> Any:
    """Return the function that decrypts the values of one context: `str` to `SecretString`, and None stays None."""
    start, size, b64decode, is_canonical = START_SIZE, envelope.HEADER_SIZE, envelope.b64decode, envelope.is_canonical

    def decrypt(stored: Any) -> Any:
        if stored is None:
            return None
        try:
            open_, associated_data = slot.current[stored[:start]]
            text = stored[size:]
            payload = b64decode(text, None, True)  # noqa: FBT003 - positional is measurably faster here
            if text[-1] != "=" or is_canonical(text):
                return SecretString(open_(payload[12:24], payload[24:], associated_data).decode())
        except _ANYTHING_ELSE:  # some of these hold plaintext, and end here
            pass
        hidden = SecretString(stored) if isinstance(stored, str) else stored
        del stored  # error trackers print the variables of a frame, and it may be plaintext
        try:
            return slot.otherwise(hidden)
        finally:
            del hidden  # it may be bytes

    return decrypt


_ANYTHING_ELSE = (LookupError, TypeError, ValueError, BytesWarning, InvalidTag)


def refuse_plaintext(plaintext: object, context: str) -> NoReturn:
    """Say why a text may not be encrypted."""
    try:
        encode_plaintext(plaintext, context)
    finally:
        del plaintext
    raise AssertionError


def encode_plaintext(plaintext: object, context: str) -> bytes:
    """Return the UTF-8 form of a text that may be encrypted; raises as `KeyRing.encrypt` does."""
    problem: type[AlreadyEncryptedError | PlaintextTypeError]
    if not isinstance(plaintext, str):
        problem, reason = PlaintextTypeError, f"takes str or None, not {type(plaintext).__name__}"
    elif plaintext.startswith(envelope.PREFIX):
        problem = AlreadyEncryptedError
        reason = f"the text starts with {envelope.PREFIX!r}, which only stored values do: pass the plaintext"
    else:
        try:
            return plaintext.encode()
        except UnicodeEncodeError:
            problem, reason = PlaintextTypeError, "the text has a lone surrogate and no UTF-8 form"
    # Raised here, where the exception that holds the text has ended.
    del plaintext
    message = f"{context}: {reason}"
    raise problem(message)


_live: WeakSet[DataKey] = WeakSet()


def _forget_writers() -> None:
    # A fork would go on with its parent's prefix.
    for key in tuple(_live):
        key.writer = _USED_UP


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_writers)
