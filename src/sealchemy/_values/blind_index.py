"""The digest of a secret, by which rows are found without decrypting them, and the comparison that follows.

    sealchemy-index:v1:<22 characters of base64url>

These are the first 128 bits of HMAC-SHA256 (RFC 2104) of the secret's UTF-8, under a key that is derived from the index
key for one context.
"""

import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from pybase64 import b64encode_as_string

from sealchemy.errors import MissingKeyError

from .envelope import require_context
from .key_ring import KeyRing
from .secret import hide, reveal

PREFIX = "sealchemy-index:v1:"
"""How every digest starts, so that a CHECK and `status` tell it from plaintext."""

_SIZE, _CHARACTERS = 16, 22


def digester(key: bytes) -> Callable[[bytes], str]:
    """Return the function that makes the digest of data under a key of 32 bytes."""
    keyed = HMAC(key, SHA256())  # a copy takes half the time of a new one

    def make(data: bytes) -> str:
        mac = keyed.copy()
        mac.update(data)
        return PREFIX + b64encode_as_string(mac.finalize()[:_SIZE], b"-_")[:_CHARACTERS]

    return make


def matches(secret: str | None, presented: str | None) -> bool:
    """Return whether a presented text is a secret, in constant time for texts of one length.

    A row that was found by its index is only a candidate: whoever can write to the database can copy the digest of a
    secret of his own into any row. So compare what was presented with the decrypted value:
    `if row is None or not matches(row.token, presented): refuse`. None, on either side, matches nothing.
    """
    secret, presented = hide(secret), hide(presented)
    if not isinstance(secret, str) or not isinstance(presented, str):
        return False
    return hmac.compare_digest(secret.encode("utf-8", "surrogatepass"), presented.encode("utf-8", "surrogatepass"))


matches.__module__ = "sealchemy"


def normalize_email(address: str) -> str:
    """Return an e-mail address without surrounding blanks, and with its ASCII letters in lower case.

    Other letters stay as they are: under Unicode's rules, different mailboxes could become equal.
    """
    return str(reveal(address)).strip().encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


normalize_email.__module__ = "sealchemy"


def digester_of(key_ring: KeyRing, context: str) -> Callable[[bytes], str]:
    """Return the function that makes the digests of one context; raises `MissingKeyError` without an index key."""
    if key_ring.index_key is None:
        raise MissingKeyError(
            f"{context}: a blind index needs a key of its own, and the key ring has none: set <prefix>_INDEX_KEY (or"
            " pass index_key= to KeyRing); `sealchemy generate-key` prints a new one. It is never rotated with the"
            " others: if there are digests already, it must be the key that made them"
        )
    return digester(key_ring.index_key.index_secret(require_context(context)))
