"""Values stored by version 1 stay readable forever. `v1.json` and `v1-row.json` are never regenerated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sealchemy import DecryptionError, Key, KeyRing, UnsupportedVersionError
from sealchemy._values import envelope, rows
from sealchemy._values.codecs import TEXT

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/v1.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_frozen_value_is_decrypted(vector: dict[str, str]) -> None:
    key = Key.parse(vector["key"])
    assert key.id == vector["key_id"]
    assert KeyRing(primary=key).decrypt(vector["stored"], vector["context"]) == vector["plaintext"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_encrypting_with_the_same_nonce_reproduces_the_frozen_value(
    vector: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nonce = envelope.parse(vector["stored"]).payload[:24]
    halves = iter([nonce[:12], nonce[12:]])
    monkeypatch.setattr("os.urandom", lambda _size: next(halves))
    ring = KeyRing(primary=Key.parse(vector["key"]))
    assert ring.encrypt(vector["plaintext"], vector["context"]) == vector["stored"]


BOUND = json.loads((Path(__file__).parents[1] / "vectors/v1-row.json").read_text())


@pytest.mark.parametrize("vector", BOUND, ids=lambda vector: vector["name"])
def test_frozen_value_of_a_row_is_decrypted(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ring, stored, context = KeyRing(primary=Key.parse(vector["key"])), vector["stored"], vector["context"]
    decrypt = rows.decryptor(ring, context, TEXT.value, ring.decryptor(context))
    assert decrypt(stored, rows.associated_data(vector["parts"])) == vector["plaintext"]
    for parts in ([], vector["parts"][:-1], [*vector["parts"], ""], [*reversed(vector["parts"]), "x"], ["other"]):
        with pytest.raises(DecryptionError):
            decrypt(stored, rows.associated_data(parts))
    with pytest.raises(UnsupportedVersionError):
        ring.decrypt(stored, context)
    with pytest.raises(DecryptionError):
        ring.decrypt(stored.replace("row:", ""), context)
    nonce = envelope.parse(stored, bound=True).payload[:24]
    halves = iter([nonce[:12], nonce[12:]])
    monkeypatch.setattr("os.urandom", lambda _size: next(halves))
    ring = KeyRing(primary=Key.parse(vector["key"]))
    assert (
        rows.encryptor(ring, context, TEXT.value)(vector["plaintext"], rows.associated_data(vector["parts"])) == stored
    )
