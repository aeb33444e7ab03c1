"""`Key`: 256 random bytes with a name derived from them."""

import hmac
import os
from typing import NoReturn, Self

from sealchemy.errors import KeyFormatError, KeyRingError, KmsError

from . import key_text, xaes
from .data_key import DataKey
from .kms import services, wrapped_key
from .secret import SecretBytes, hide


class Key:
    """A 256-bit key; its id is 12 hex digits derived from it.

    It is a class without `__dict__`, so that no serializer, copy or debugger display shows its bytes by chance.
    """

    __module__ = "sealchemy"
    __slots__ = ("_data_key", "_has_checksum", "_pseudorandom_key", "_secret")

    def __init__(self, secret: bytes) -> None:
        """Make a key of exactly 32 uniformly random bytes; raises `KeyFormatError` if they visibly are not."""
        is_bytes = isinstance(secret, bytes)
        problem = key_text.find_weakness(secret) if is_bytes else "Key() takes bytes; for text, see Key.parse"
        if problem is not None:
            secret = hide(secret)
            raise KeyFormatError(problem)
        self._secret: bytes | None = secret
        self._has_checksum = True
        self._pseudorandom_key = xaes.extract(secret)
        key_id = xaes.expand(self._pseudorandom_key, b"sealchemy v1 key id", 6).hex()
        data_key = xaes.expand(self._pseudorandom_key, b"sealchemy v1 xaes-256-gcm", xaes.KEY_SIZE)
        self._data_key = DataKey(key_id, data_key)

    @classmethod
    def generate(cls) -> Self:
        """Return a new random key."""
        return cls(os.urandom(xaes.KEY_SIZE))

    @classmethod
    def parse(cls, text: str, *, open_kms: services.OpenKms = services.open_kms) -> Self:
        """Return the key in its text form.

        Args:
            text: `sealchemy-key-v1.` and the base64url of 32 bytes and 4 bytes of their SHA-256, or of the 32 bytes
                alone; or the base64 of 32 bytes without a prefix, in either alphabet, padded or not; or a wrapped
                key, which its KMS then opens.
            open_kms: returns the KMS for a URI.

        Raises:
            KeyFormatError: anything else. The message says what is wrong and never shows the text.
            KmsError: the KMS did not open a wrapped key.
        """
        text = hide(text)
        if wrapped_key.is_wrapped(text):
            return cls._unwrap(wrapped_key.parse(text), open_kms)
        problem = key_text.find_problem(text)
        if problem is not None:
            raise KeyFormatError(problem)
        key = cls(key_text.decode(text))
        key._has_checksum = key_text.has_checksum(text)
        return key

    @classmethod
    def _unwrap(cls, found: wrapped_key.WrappedKey, open_kms: services.OpenKms) -> Self:
        key = cls(services.unwrap(found, open_kms))
        if key.id != found.key_id:
            raise KmsError(f"key {found.key_id}: what {found.uri} opened is key {key.id}; wrap the key again")
        return key

    def wrap(self, uri: str, *, open_kms: services.OpenKms = services.open_kms) -> str:
        """Return the key as text that only the KMS with this URI can open.

        Raises:
            KeyFormatError: the URI is malformed.
            KeyRingError: the ring did not keep it.
            KmsError: the KMS did not wrap it.
        """
        return str(services.wrap(SecretBytes(self._require_secret()), self.id, hide(uri), open_kms))

    def index_secret(self, context: str) -> bytes:
        """Return the 32 bytes under which an index key makes the digests of one context."""
        return xaes.expand(self._pseudorandom_key, f"sealchemy v1 blind index:{context}".encode(), xaes.KEY_SIZE)

    @property
    def id(self) -> str:
        """The 12 hex digits that every value encrypted with this key names."""
        return self._data_key.id

    def reveal(self) -> str:
        """Return the key as text. It decrypts every value: give it to a secret store only.

        A key that was parsed without a checksum has none here either, so that releases before can read it.

        Raises:
            KeyRingError: the ring did not keep it (`keep_secrets=False`).
        """
        return key_text.encode(self._require_secret(), checksum=self._has_checksum)

    def _require_secret(self) -> bytes:
        if self._secret is None:
            raise KeyRingError(f"key {self.id} cannot be shown or wrapped: its ring was made with keep_secrets=False")
        return self._secret

    def _forget_secret(self) -> None:
        self._secret = None

    def __repr__(self) -> str:
        """Return the id, never the key."""
        return f"Key(id={self.id if hasattr(self, '_data_key') else None!r})"

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        return isinstance(other, Key) and hmac.compare_digest(self._pseudorandom_key, other._pseudorandom_key)

    def __hash__(self) -> int:
        """Hash the id."""
        return hash(self.id)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse pickle, copy and deepcopy: each would leave the key in an unexpected place."""
        raise TypeError("a Key cannot be copied or pickled; load it again with KeyRing.from_env or Key.parse")
