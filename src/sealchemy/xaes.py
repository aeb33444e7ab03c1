"""XAES-256-GCM, the 192-bit-nonce AEAD of C2SP, over `cryptography`.

Specification and vectors: https://c2sp.org/XAES-256-GCM (v1). The key derivation is one SP 800-108r1
counter-mode block with CMAC-AES-256; what is encrypted with the derived key is plain AES-256-GCM.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode

__all__ = ["KEY_SIZE", "NONCE_SIZE", "PREFIX_SIZE", "TAG_SIZE", "InvalidTag", "cipher"]

KEY_SIZE = 32
NONCE_SIZE = 24
PREFIX_SIZE = 12
TAG_SIZE = 16


def cipher(key: bytes, prefix: bytes) -> AESGCM:
    """Return the AES-256-GCM object for all nonces that start with `prefix`.

    A value under the 24-byte `nonce` is `cipher(key, nonce[:12]).encrypt(nonce[12:], plaintext, aad)`,
    and is ciphertext followed by a 16-byte tag.

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
