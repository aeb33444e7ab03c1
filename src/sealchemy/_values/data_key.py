"""`DataKey`: the functions that encrypt and decrypt the values of one context, with all repeated work done once."""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakSet

from sealchemy.errors import DecryptionError

from . import envelope, xaes
from .codecs import RESERVED, Codec, require_encodable
from .secret import hide_stored
from .xaes import AESGCM, InvalidTag

VALUES_PER_PREFIX = 4096
_PREFIXES_PER_READER = 1024

PREFIX_SIZE = 16
"""Characters of the nonce's prefix: 12 bytes are exactly 16 characters of base64."""

_Cipher: TypeAlias = Callable[[bytes, bytes, bytes], bytes]


class _Writer(NamedTuple):
    # One immutable tuple, replaced by one assignment: with separate fields, a thread would
    # combine the prefix of one cipher with another cipher.
    prefix: bytes
    encrypt: _Cipher
    next_count: Callable[[], int]


def _refuse(_nonce: bytes, _data: bytes, _associated_data: bytes) -> bytes:
    raise AssertionError


_USED_UP = _Writer(b"", _refuse, lambda: VALUES_PER_PREFIX)


class DataKey:
    """The 32 bytes that encrypt, and the id of the key that they were derived from.

    It is a class because it keeps something between values: the nonce prefix that this process writes with.
    """

    __slots__ = ("__weakref__", "_writer", "cipher", "id")

    def __init__(self, key_id: str, secret: bytes) -> None:
        self.id, self.cipher = key_id, xaes.ciphers(secret)
        self._writer = _USED_UP
        _live.add(self)

    def encryptor(
        self, context: str, codec: Codec, *, bound: bool = False, size_limit: int = envelope.SIZE_LIMIT
    ) -> Callable[..., Any]:
        """Return the function that encrypts the values of one context: a value to `str`, and None stays None.

        For values that are bound to their row, its second argument is all of the associated data.
        """
        header = envelope.header(self.id, bound=bound)
        of_context = self.associated_data(context, bound=bound)
        encode, to_base64, urandom, starts_with = codec.encode, envelope.encode, os.urandom, bytes.startswith
        longest = envelope.longest_plaintext(size_limit)

        def encrypt(plaintext: Any, associated_data: bytes = of_context) -> Any:
            if plaintext is None:
                return None
            data: Any
            try:
                data = encode(plaintext)
            except (TypeError, ValueError, RecursionError):  # some of them hold the value
                data = RESERVED
            if starts_with(data, RESERVED) or len(data) > longest:
                data = None
                try:
                    data = require_encodable(codec, plaintext, context, longest)
                finally:
                    plaintext = None  # this frame is in the traceback
            prefix, seal, next_count = self._writer
            if next_count() >= VALUES_PER_PREFIX:
                prefix, seal, _ = self._renew_writer()
            tail = urandom(12)  # never pooled: a fork would hand it out twice
            return header + to_base64(prefix + tail + seal(tail, data, associated_data))

        return encrypt

    def _renew_writer(self) -> _Writer:
        prefix = os.urandom(xaes.PREFIX_SIZE)
        self._writer = writer = _Writer(prefix, self.cipher(prefix).encrypt, count(1).__next__)
        return writer

    def forget_writer(self) -> None:
        """Draw another nonce prefix for the next value."""
        self._writer = _USED_UP

    def associated_data(self, context: str, *, bound: bool = False) -> bytes:
        """Return the associated data of the values of a context, before that of their row."""
        return (envelope.header(self.id, bound=bound) + context).encode("ascii")

    def decrypt(self, stored: str, context: str, codec: Codec, row: bytes | None) -> Any:
        """Decrypt a value that has the header of this key, strictly.

        Args:
            stored: the value.
            context: the name that it was encrypted for.
            codec: returns the value of the decrypted bytes.
            row: the associated data of its row; None if it is not bound to one.

        Raises:
            EnvelopeFormatError, UnsupportedVersionError: the part after the header is malformed.
            DecryptionError: the value does not authenticate, or is of another kind.
        """
        size = len(envelope.header(self.id, bound=row is not None))
        payload = envelope.decode(stored[size:], context)
        associated_data = self.associated_data(context, bound=row is not None)
        try:
            data = self.cipher(payload[:12]).decrypt(payload[12:24], payload[24:], associated_data + (row or b""))
        except InvalidTag:
            data = None
        if data is None:
            raise DecryptionError(
                f"{context}: an encrypted value does not authenticate under key {self.id}: it was changed, or written"
                f" for another {'column' if row is None else 'column or another row'}, or with another key of this id;"
                " restore it from a backup",
                context=context,
                key_id=self.id,
            )
        try:
            return codec.decode(data)
        except ValueError:  # it may hold the value
            problem = f"is not {codec.name}: a column of another type wrote it, under the same context"
        except RecursionError:
            problem = "is nested too deeply to be read here, where the stack has little room left"
        data = None
        raise DecryptionError(
            f"{context}: an encrypted value authenticates, but {problem}",
            context=context,
            key_id=self.id,
        )


def decryptor(
    keys: Mapping[str, DataKey],
    context: str,
    codec: Codec,
    on_other: Callable[[Any], Any],
    *,
    bound: bool = False,
    size_limit: int = envelope.SIZE_LIMIT,
) -> Callable[..., Any]:
    """Return the function that decrypts the values of one context: `str` to a value, and None stays None.

    For values that are bound to their row, its second argument is the associated data of the row.

    Args:
        keys: the keys by the header of their values.
        context: the name that the values were encrypted for.
        codec: returns the value of decrypted bytes.
        on_other: called with the hidden stored value if no key matches its header.
        bound: whether the values are bound to their row.
        size_limit: the characters that a stored value may have.
    """
    size, b64decode, decode = len(envelope.header("0" * 12, bound=bound)), envelope.b64decode, codec.decode
    start = size + PREFIX_SIZE
    one_padding, two_paddings = envelope.ONE_PADDING, envelope.TWO_PADDINGS
    ready: OrderedDict[str, tuple[_Cipher, bytes] | None] = OrderedDict()  # by their start
    ciphers = ciphers_by_header(keys, context, bound=bound)

    def decrypt(stored: Any, row: bytes = b"") -> Any:
        if stored is None:
            return None
        try:
            if len(stored) > size_limit:
                raise ValueError
            known = ready.get(stored[:start])
            text = stored[size:]
            payload = b64decode(text, None, True)  # noqa: FBT003 - positional is measurably faster here
            if known is not None:
                open_, associated_data = known
            else:
                cipher, associated_data = ciphers[stored[:size]]
                open_ = cipher(payload[:12]).decrypt
            if text[-1] != "=" or text[-2:] in one_padding or text[-3:] in two_paddings:
                data = open_(payload[12:24], payload[24:], associated_data + row)
                if known is None:
                    _keep(ready, stored[:start], (open_, associated_data))
                return decode(data)
        except NOT_READY:  # some of these hold plaintext
            data = None
        stored = hide_stored(stored)
        envelope.require_size(stored, context, size_limit)
        if isinstance(stored, str) and (key := keys.get(str(stored[:size]))):
            return key.decrypt(str(stored), context, codec, row if bound else None)
        return on_other(stored)

    return decrypt


def ciphers_by_header(
    keys: Mapping[str, DataKey], context: str, *, bound: bool
) -> dict[str, tuple[Callable[[bytes], AESGCM], bytes]]:
    """Return, for each header, the function that derives ciphers and the associated data."""
    return {header: (key.cipher, key.associated_data(context, bound=bound)) for header, key in keys.items()}


def _keep(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Keep a value in a small cache from its second use, in place of the one that has been there for longest."""
    if len(cache) >= _PREFIXES_PER_READER:
        try:  # noqa: SIM105 - `suppress` costs as much as deriving the key
            cache.popitem(last=False)
        except (LookupError, RuntimeError):  # another thread does the same
            pass
    cache[key] = value if key in cache else None


NOT_READY = (LookupError, TypeError, ValueError, RecursionError, BytesWarning, InvalidTag)


_live: WeakSet[DataKey] = WeakSet()


def _forget_writers() -> None:
    # A fork would go on with its parent's prefix.
    for key in tuple(_live):
        key.forget_writer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_writers)
