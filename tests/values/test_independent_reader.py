"""Google's Tink decrypts values from this library, and this library those from Tink.

Keys are derived with the standard library.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealchemy import Key, KeyRing

tink = pytest.importorskip("tink", reason="Tink has no wheel for this machine")
aead = pytest.importorskip("tink.aead")
secret_key_access = pytest.importorskip("tink.secret_key_access")
tink_pb2 = pytest.importorskip("tink.proto.tink_pb2")
x_aes_gcm_pb2 = pytest.importorskip("tink.proto.x_aes_gcm_pb2")

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/v1.json").read_text())
KEY = Key.generate()


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256 and no salt, for one block."""
    extracted = hmac.digest(bytes(32), secret, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)[:length]


def read(stored: str, key_text: str, context: str) -> bytes:
    """Decrypt a stored value according to its specification."""
    encoded = key_text.removeprefix("sealchemy-key-v1.")
    secret = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))[:32]
    name, version, key_id, payload = stored.split(":")
    assert (name, version, key_id) == ("sealchemy", "v1", hkdf(secret, b"sealchemy v1 key id", 6).hex())
    associated = f"sealchemy:v1:{key_id}:{context}".encode()
    return tink_reader(hkdf(secret, b"sealchemy v1 xaes-256-gcm", 32)).decrypt(base64.b64decode(payload), associated)


def tink_reader(key: bytes) -> Any:
    aead.register()
    template = aead.aead_key_templates.XAES_256_GCM_192_BIT_NONCE_NO_PREFIX
    params = x_aes_gcm_pb2.XAesGcmKeyFormat.FromString(template.value).params
    material = x_aes_gcm_pb2.XAesGcmKey(params=params, key_value=key).SerializeToString()
    data = tink_pb2.KeyData(type_url=template.type_url, value=material, key_material_type=tink_pb2.KeyData.SYMMETRIC)
    entry = tink_pb2.Keyset.Key(key_data=data, status=tink_pb2.ENABLED, key_id=1, output_prefix_type=tink_pb2.RAW)
    keyset = tink_pb2.Keyset(primary_key_id=1, key=[entry]).SerializeToString()
    return tink.proto_keyset_format.parse(keyset, secret_key_access.TOKEN).primitive(aead.Aead)


@given(st.text(max_size=3000).filter(lambda text: not text.startswith("sealchemy:") and text.isprintable()))
def test_tink_decrypts_values_from_this_library(plaintext: str) -> None:
    stored = KeyRing(primary=KEY).encrypt(plaintext, "a.b")
    assert read(stored, KEY.reveal(), "a.b") == plaintext.encode()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_tink_decrypts_the_frozen_values(vector: dict[str, str]) -> None:
    assert read(vector["stored"], vector["key"], vector["context"]) == vector["plaintext"].encode()


def test_tink_refuses_another_context() -> None:
    stored = KeyRing(primary=KEY).encrypt("x", "a.b")
    with pytest.raises(tink.TinkError):
        read(stored, KEY.reveal(), "a.c")


def test_values_encrypted_by_tink_are_decrypted() -> None:
    encoded = KEY.reveal().removeprefix("sealchemy-key-v1.")
    data_key = hkdf(base64.urlsafe_b64decode(encoded)[:32], b"sealchemy v1 xaes-256-gcm", 32)
    header = f"sealchemy:v1:{KEY.id}:"
    payload = tink_reader(data_key).encrypt("ключ".encode(), f"{header}a.b".encode())
    assert KeyRing(primary=KEY).decrypt(header + base64.b64encode(payload).decode(), "a.b") == "ключ"
