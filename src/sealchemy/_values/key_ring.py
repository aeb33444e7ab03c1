"""`KeyRing`: the keys of an application, and the functions that encrypt and decrypt with them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, NoReturn, Self

from sealchemy.errors import KeyFormatError, KeyRingError, PlaintextTypeError, UnknownKeyError

from . import batches, data_key, envelope
from .codecs import RESERVED, TEXT, Codec
from .environment import KeyIds, hidden, read_keys, read_size_limit
from .keys import Key
from .kms import services
from .secret import SecretString, hide


class KeyRing:
    """The primary key, which encrypts, and the previous keys, which only decrypt; and the key of blind indexes, if any.

    Roles have names; order never matters. Each encrypted value names its key, so exactly one key is tried. The index
    key stays when the others rotate: with another one, no row is found until all digests are made again.
    """

    __module__ = "sealchemy"
    __slots__ = ("_index_key", "_keys", "_primary", "size_limit")

    def __init__(
        self,
        primary: Key,
        previous: Iterable[Key] = (),
        index_key: Key | None = None,
        *,
        size_limit: int = envelope.SIZE_LIMIT,
    ) -> None:
        """Make a ring.

        Args:
            primary: the key that encrypts.
            previous: keys that only decrypt.
            index_key: the key of blind indexes.
            size_limit: the characters of the longest encrypted value, 16 MB. A longer one is neither written nor
                decoded: whoever can write to the database could otherwise fill the memory of its readers.

        Raises:
            KeyFormatError: two keys have one id.
            KeyRingError: the size limit is none.
        """
        if type(size_limit) is not int or size_limit < envelope.SMALLEST_LIMIT:
            raise KeyRingError(f"size_limit is a number of characters, {envelope.SMALLEST_LIMIT} or more")
        self.size_limit = size_limit
        # Hidden unless they are keys: they may be the texts of keys.
        index_key = index_key if isinstance(index_key, Key) else hide(index_key)
        primary, *previous = (key if isinstance(key, Key) else hide(key) for key in (primary, *previous))
        if not all(isinstance(key, Key) for key in (primary, *previous, index_key or primary)):
            raise KeyFormatError("a KeyRing takes Key objects: make one with Key.parse(text), or use KeyRing.from_env")
        self._primary = primary
        self._keys = {key.id: key for key in (primary, *previous)}
        if len(self._keys) != 1 + len(previous):
            raise KeyFormatError(f"a key is in the ring twice (primary {primary.id}); remove it from the previous keys")
        if index_key is not None and index_key.id in self._keys:
            raise KeyFormatError(f"the index key {index_key.id} is also a key that encrypts; make another one for it")
        self._index_key = index_key

    @classmethod
    def from_env(
        cls,
        prefix: str,
        environ: Mapping[str, str] | None = None,
        open_kms: services.OpenKms = services.open_kms,
        *,
        keep_secrets: bool = True,
        size_limit: int | None = None,
    ) -> Self:
        """Return the ring that the environment describes.

        Reads `<prefix>_KEY`, or the file named by `<prefix>_KEY_FILE`, and likewise `<prefix>_PREVIOUS_KEYS` or
        `<prefix>_PREVIOUS_KEYS_FILE`: further keys, separated by commas or newlines; and `<prefix>_INDEX_KEY` or
        `<prefix>_INDEX_KEY_FILE`, for columns with a `BlindIndex`. An empty variable counts as absent. There is no
        fallback to storing plaintext.

        Args:
            prefix: for example `INTEGRATION_TOKEN_ENCRYPTION`.
            environ: another mapping in place of `os.environ`.
            open_kms: returns the key management service (KMS) for a URI; it is called once for each.
            keep_secrets: False to drop the bytes of each key once everything is derived from them: nothing in the
                process can print or wrap it then. A memory dump still shows what encrypts and decrypts.
            size_limit: see `KeyRing`; by default `<prefix>_SIZE_LIMIT`, or 16 MB.

        Raises:
            MissingKeyError: no primary key.
            KeyFormatError: a key that cannot be used; the message names the variable, never the value.
            KmsError: a KMS did not open a wrapped key.
        """
        prefix = hide(prefix)
        environ = hidden(prefix, environ)  # the frame of an error would show its values
        if size_limit is None:
            size_limit = read_size_limit(prefix, environ) or envelope.SIZE_LIMIT
        key_ring = cls(*read_keys(prefix, environ, open_kms), size_limit=size_limit)
        if not keep_secrets:
            for key in filter(None, (*key_ring._keys.values(), key_ring._index_key)):
                key._forget_secret()  # noqa: SLF001 - for the ring
        return key_ring

    @property
    def primary(self) -> Key:
        """The key that encrypts."""
        return self._primary

    @property
    def previous(self) -> tuple[Key, ...]:
        """The keys that only decrypt."""
        return tuple(key for key in self._keys.values() if key is not self._primary)

    @property
    def index_key(self) -> Key | None:
        """The key of blind indexes."""
        return self._index_key

    @property
    def ids(self) -> KeyIds:
        """The ids of its keys."""
        index = self._index_key.id if self._index_key is not None else None
        return KeyIds(self._primary.id, tuple(key.id for key in self.previous), index)

    def encrypt(self, plaintext: str, context: str) -> str:
        """Return a plaintext encrypted under the primary key.

        Raises:
            PlaintextTypeError: not a `str`, or one with a lone surrogate.
            AlreadyEncryptedError: it starts with `sealchemy:`.
            ColumnDefinitionError: `context` is malformed.
        """
        plaintext, context = hide(plaintext), hide(context)
        encrypt = self.encryptor(context)
        if plaintext is None:
            raise PlaintextTypeError(f"{context}: takes str, not None; NULL needs no encryption")
        return encrypt(plaintext)

    def decrypt(self, stored: str, context: str) -> SecretString:
        """Return the plaintext of an encrypted value.

        Raises:
            EnvelopeFormatError: it is not an encrypted value, or a damaged one.
            UnsupportedVersionError: a later version wrote it.
            UnknownKeyError: it names a key that is not in this ring.
            DecryptionError: it does not authenticate: tampered with, other key bytes or another context.
            ColumnDefinitionError: `context` is malformed.
        """
        stored, context = hide(stored), hide(context)
        decrypt = self.decryptor(context)
        if stored is None:
            envelope.parse(stored, context)
        return decrypt(stored)

    def is_current(self, stored: str) -> bool:
        """Return whether an encrypted value names the primary key; reads its header, authenticates nothing.

        Raises:
            EnvelopeFormatError, UnsupportedVersionError: as `decrypt` does, for the header.
        """
        stored = hide(stored)
        return envelope.parse_key_id(stored) == self._primary.id

    def encryptor(self, context: str) -> Callable[[str], str]:
        """Return `encrypt` for one context, with the work that is the same for every value already done."""
        context = hide(context)
        return encryptor(self, context, TEXT.value)

    def decryptor(
        self, context: str, on_plaintext: Callable[[SecretString], SecretString] | None = None
    ) -> Callable[[str], SecretString]:
        """Return `decrypt` for one context, with the work that is the same for every value already done.

        Args:
            context: the name that the values were encrypted for.
            on_plaintext: called for text that does not start with `sealchemy:`; by default such text raises
                `EnvelopeFormatError`.
        """
        context = hide(context)
        return decryptor(self, context, TEXT.value, on_plaintext)

    def __repr__(self) -> str:
        """Return the ids, never a key."""
        ids = list(getattr(self, "_keys", {})) or [None]
        index_key = getattr(self, "_index_key", None)
        index = f", index_key={index_key.id!r}" if index_key is not None else ""
        return f"KeyRing(primary={ids[0]!r}, previous={ids[1:]!r}{index})"


def data_keys(key_ring: KeyRing) -> dict[str, data_key.DataKey]:
    """Return what the keys of a ring encrypt and decrypt with, by their ids; the primary is the first."""
    return {key.id: key._data_key for key in (key_ring.primary, *key_ring.previous)}  # noqa: SLF001 - for the ring


def encryptor(key_ring: KeyRing, context: str, codec: Codec) -> Callable[[Any], Any]:
    """Return the function that encrypts one form of plaintext for one context."""
    key, context = data_keys(key_ring)[key_ring.primary.id], envelope.require_context(context)
    return key.encryptor(context, codec, size_limit=key_ring.size_limit)


def batch_encryptor(
    key_ring: KeyRing, context: str, codec: Codec
) -> Callable[[Sequence[Any], Sequence[bytes] | None], list[str]]:
    """Return the function that encrypts many values of one context at once, without a row."""
    key, context = data_keys(key_ring)[key_ring.primary.id], envelope.require_context(context)
    encrypt = batches.encryptor(key, context, codec, size_limit=key_ring.size_limit)
    associated_data = key.associated_data(context)
    return lambda values, _rows: encrypt(values, repeat(associated_data, len(values)))


def batch_decryptor(
    key_ring: KeyRing, context: str, codec: Codec, decrypt: Callable[..., Any], *, bound: bool
) -> Callable[[Sequence[Any], Sequence[bytes] | None], list[Any]]:
    """Return the function that decrypts many values of one context at once; `decrypt` is the one for one value."""
    known = {envelope.header(key_id, bound=bound): key for key_id, key in data_keys(key_ring).items()}
    context, size_limit = envelope.require_context(context), key_ring.size_limit
    return batches.decryptor(known, context, codec, decrypt, bound=bound, size_limit=size_limit)


def decryptor(
    key_ring: KeyRing, context: str, codec: Codec, on_plaintext: Callable[[Any], Any] | None = None
) -> Callable[[Any], Any]:
    """Return the function that decrypts values into one form of plaintext.

    `on_plaintext` is called for what does not start with `sealchemy:`, which may be bytes or a number where the
    plaintext is not text; by default, that raises `EnvelopeFormatError`.
    """
    context = envelope.require_context(context)
    keys = data_keys(key_ring)
    known = {envelope.header(key_id): key for key_id, key in keys.items()}

    def on_other(stored: Any) -> Any:
        if isinstance(stored, str):
            is_plaintext = not stored.startswith(envelope.PREFIX)
        else:
            is_plaintext = codec is not TEXT.value and not (isinstance(stored, bytes) and stored.startswith(RESERVED))
        if on_plaintext is not None and is_plaintext:
            return on_plaintext(stored)
        refuse_key(key_ring, context, envelope.parse(stored, context).key_id)

    return data_key.decryptor(known, context, codec, on_other, size_limit=key_ring.size_limit)


def refuse_key(key_ring: KeyRing, context: str, key_id: str) -> NoReturn:
    """Raise `UnknownKeyError` for a value under a key that is not in the ring."""
    raise UnknownKeyError(
        f"{context}: a value was encrypted with key {key_id}, which is not in the key ring"
        f" ({', '.join(data_keys(key_ring))}); add that key to the previous keys",
        key_id=key_id,
    )
