"""XAES-256-GCM, the 192-bit-nonce AEAD of C2SP, over `cryptography`.

Specification and vectors: https://c2sp.org/XAES-256-GCM (v1). It derives a key with SP 800-108r1 in counter mode over
CMAC-AES-256, whose input is one block, and encrypts with plain AES-256-GCM under that key.
"""

import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

__all__ = ["AESGCM", "KEY_SIZE", "NONCE_SIZE", "PREFIX_SIZE", "TAG_SIZE", "InvalidTag", "ciphers", "expand", "extract"]

KEY_SIZE = 32
NONCE_SIZE = 24
PREFIX_SIZE = 12
TAG_SIZE = 16


def ciphers(key: bytes) -> Callable[[bytes], AESGCM]:
    """Return the function that derives the AES-256-GCM object for all nonces that start with a prefix of 12 bytes.

    With a 24-byte `nonce`, `ciphers(key)(nonce[:12]).encrypt(nonce[12:], plaintext, aad)` is the ciphertext followed by
    a 16-byte tag. The derived key is the encryption of two blocks, M1 and M2 of the specification combined with K1.

    Args:
        key: 32 bytes.
    """
    aes = Cipher(AES(key), ECB())  # noqa: S305 - single blocks, of which CMAC is made
    encrypt = aes.encryptor().update
    k1 = _double(int.from_bytes(encrypt(bytes(16)), "big"))
    one, two = (int.from_bytes(b"\x00" + bytes([count]) + b"X\x00" + bytes(12), "big") ^ k1 for count in (1, 2))
    both, twice = one << 128 | two, 1 << 128 | 1

    def cipher(prefix: bytes) -> AESGCM:
        blocks = (int.from_bytes(prefix, "big") * twice ^ both).to_bytes(32, "big")
        try:
            return AESGCM(encrypt(blocks))
        except RuntimeError:  # another thread is using it
            return AESGCM(aes.encryptor().update(blocks))

    return cipher


def _double(block: int) -> int:
    """Multiply by x in GF(2^128), as NIST SP 800-38B (section 6.1) makes K1."""
    return block << 1 & ((1 << 128) - 1) ^ (0x87 if block >> 127 else 0)


def extract(secret: bytes) -> bytes:
    """Return the pseudorandom key of HKDF-SHA256 (RFC 5869, 2.2) without a salt: the input is random already."""
    return hmac.digest(bytes(KEY_SIZE), secret, "sha256")


def expand(pseudorandom_key: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes of HKDF-SHA256 for one purpose (RFC 5869, 2.3)."""
    return HKDFExpand(algorithm=SHA256(), length=length, info=info).derive(pseudorandom_key)
