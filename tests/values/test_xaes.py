"""XAES-256-GCM matches the vectors of its specification, https://c2sp.org/XAES-256-GCM."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidTag

from sealchemy._values import xaes

NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"


def encrypt(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    return xaes.ciphers(key)(nonce[:12]).encrypt(nonce[12:], plaintext, aad)


@pytest.mark.parametrize(
    ("key", "aad", "expected"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (b"\x03" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_published_vector_matches(key: bytes, aad: bytes, expected: str) -> None:
    ciphertext = encrypt(key, NONCE, b"XAES-256-GCM", aad)
    assert ciphertext.hex() == expected
    assert xaes.ciphers(key)(NONCE[:12]).decrypt(NONCE[12:], ciphertext, aad) == b"XAES-256-GCM"


def accumulated(cases: int) -> str:
    """Return the hash of the ciphertexts of this many pseudorandom cases."""
    source = _Shake()
    sink = hashlib.shake_128()
    for _ in range(cases):
        key, nonce = source.read(32), source.read(24)
        plaintext = source.read(source.read(1)[0])
        aad = source.read(source.read(1)[0])
        ciphertext = encrypt(key, nonce, plaintext, aad)
        assert xaes.ciphers(key)(nonce[:12]).decrypt(nonce[12:], ciphertext, aad) == plaintext
        sink.update(ciphertext)
    return sink.hexdigest(32)


class _Shake:
    """The SHAKE-128 stream of an empty input, read in pieces; hashlib always starts from the beginning."""

    def __init__(self) -> None:
        self._size, self._position = 1 << 16, 0
        self._stream = hashlib.shake_128().digest(self._size)

    def read(self, count: int) -> bytes:
        while self._position + count > self._size:
            self._size *= 4
            self._stream = hashlib.shake_128().digest(self._size)
        self._position += count
        return self._stream[self._position - count : self._position]


def test_accumulated_hash_of_10000_cases_matches() -> None:
    assert accumulated(10_000) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


@pytest.mark.soak
def test_accumulated_hash_of_1000000_cases_matches() -> None:
    assert accumulated(1_000_000) == "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15"


def test_another_nonce_prefix_does_not_decrypt() -> None:
    ciphertext = encrypt(b"\x01" * 32, NONCE, b"text", b"")
    with pytest.raises(InvalidTag):
        xaes.ciphers(b"\x01" * 32)(b"another one!").decrypt(NONCE[12:], ciphertext, b"")
