"""XAES-256-GCM, the 192-bit-nonce AEAD of C2SP, over `cryptography`.

Specification and vectors: https://c2sp.org/XAES-256-GCM (v1). It derives a key with one SP 800-108r1 counter-mode
block of CMAC-AES-256, and encrypts with plain AES-256-GCM under that key.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode

__all__ = ["KEY_SIZE", "NONCE_SIZE", "PREFIX_SIZE", "TAG_SIZE", "InvalidTag", "cipher", "derive"]

KEY_SIZE = 32
NONCE_SIZE = 24
PREFIX_SIZE = 12
TAG_SIZE = 16


def cipher(key: bytes, prefix: bytes) -> AESGCM:
    """Return the AES-256-GCM object for all nonces that start with `prefix`.

    With a 24-byte `nonce`, `cipher(key, nonce[:12]).encrypt(nonce[12:], plaintext, aad)` is the ciphertext followed
    by a 16-byte tag.

    Args:
        key: 32 bytes.
        prefix: the first 12 bytes of the nonce.
    """
    kdf = KBKDFCMAC(
        algorithm=AES,
        mode=Mode.CounterMode,
        length=KEY_SIZE,
        rlen=2,
        llen=None,
        location=CounterLocation.BeforeFixed,
        label=None,
        context=None,
        fixed=b"X\x00" + prefix,
    )
    return AESGCM(kdf.derive(key))


def derive(secret: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes of HKDF-SHA256 (RFC 5869) without a salt: the input is uniformly random already."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)
