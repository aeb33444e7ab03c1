"""Values stored by version 1 stay readable forever. `tests/vectors/v1.json` is never regenerated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sealchemy import Key, KeyRing
from sealchemy._values import envelope

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
