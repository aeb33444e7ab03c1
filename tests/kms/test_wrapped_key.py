"""The text of a wrapped key: one spelling, bound to its key, and opened by nothing that a KMS sees alone."""

from __future__ import annotations

import base64
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from sealchemy import Key, KeyFormatError, KeyRing, KmsError, MissingKeyError
from sealchemy._values.kms.services import move
from sealchemy._values.kms.wrapped_key import parse
from sealchemy.kms import open_kms

if TYPE_CHECKING:
    from pathlib import Path

KEY = Key.generate()
URI = "test://region/key@1"


class LocalKms:
    """A KMS in this process, which counts what it is asked; it is what a user passes as `open_kms`."""

    def __init__(self) -> None:
        self.key, self.asked, self.saw = AESGCM(os.urandom(32)), Counter[str](), list[bytes]()

    def __call__(self, uri: str) -> LocalKms:
        self.asked[uri] += 1
        return self

    def wrap(self, secret: bytes, key_id: str) -> tuple[bytes, str]:
        self.saw.append(bytes(secret))
        nonce = os.urandom(12)
        return nonce + self.key.encrypt(nonce, secret, key_id.encode()), URI.partition("://")[2]

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        return self.key.decrypt(wrapped[:12], wrapped[12:], key_id.encode())


@pytest.fixture
def kms() -> LocalKms:
    return LocalKms()


def test_a_wrapped_key_is_the_same_key(kms: LocalKms) -> None:
    text = KEY.wrap(URI, open_kms=kms)
    assert text.startswith(f"sealchemy-wrapped-key-v1.{KEY.id}.{URI}.")
    assert Key.parse(text, open_kms=kms) == KEY


def test_the_format_is_that_of_the_specification(kms: LocalKms) -> None:
    start, wrapped, sealed = KEY.wrap(URI, open_kms=kms).rsplit(".", 2)
    (once,) = kms.saw
    raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    secret = AESGCM(once).decrypt(bytes(12), raw, f"sealchemy-wrapped-key-v1.{KEY.id}".encode())
    assert Key(secret) == KEY
    assert start == f"sealchemy-wrapped-key-v1.{KEY.id}.{URI}"
    assert len(once) == 32
    assert base64.urlsafe_b64decode(wrapped + "=" * (-len(wrapped) % 4))[12:] != once


def test_the_kms_never_sees_the_key_and_nothing_twice(kms: LocalKms) -> None:
    for _ in range(5):
        KEY.wrap(URI, open_kms=kms)
    assert len(set(kms.saw)) == 5
    secret = base64.urlsafe_b64decode(KEY.reveal().removeprefix("sealchemy-key-v1."))[:32]
    assert secret not in kms.saw


TEXT = KEY.wrap(URI, open_kms=LocalKms())
PARTS = TEXT.rsplit(".", 2)
MALFORMED = {
    "nothing behind it": "sealchemy-wrapped-key-v1.",
    "version": TEXT.replace("-v1", "-v2"),
    "key id": TEXT.replace(KEY.id, KEY.id.upper() if KEY.id.upper() != KEY.id else "ABCDEF012345"),
    "no URI": TEXT.replace(URI, ""),
    "no scheme": TEXT.replace(URI, "region/key"),
    "character of the URI": TEXT.replace("@", "%"),
    "newline": TEXT + "\n",
    "space": TEXT.replace(URI, "test://region/a key"),
    "cut": TEXT[:-1],
    "longer": TEXT + "A",
    "no KMS part": f"{PARTS[0]}.{PARTS[2]}",
    "padding": f"{PARTS[0]}.{PARTS[1]}=.{PARTS[2]}",
    "standard alphabet": f"{PARTS[0]}.+{PARTS[1][1:]}.{PARTS[2]}",
    "unused bits": f"{PARTS[0]}.AAB.{PARTS[2]}",
    "one symbol": f"{PARTS[0]}.A.{PARTS[2]}",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_texts_are_refused_without_asking(text: str, kms: LocalKms) -> None:
    with pytest.raises(KeyFormatError) as caught:
        Key.parse(text, open_kms=kms)
    assert PARTS[2] not in str(caught.value)
    assert not kms.asked


@given(at=st.integers(0, len(TEXT) - 1), symbol=st.characters(max_codepoint=255))
def test_no_other_text_is_the_same_wrapped_key(at: int, symbol: str) -> None:
    changed = TEXT[:at] + symbol + TEXT[at + 1 :]
    try:
        found = parse(changed)
    except KeyFormatError:
        return
    assert (found == parse(TEXT)) == (changed == TEXT)


def test_two_texts_put_together_do_not_open(kms: LocalKms) -> None:
    other = Key.generate()
    first, second = (parse(key.wrap(URI, open_kms=kms)) for key in (KEY, KEY))
    for mixed in (
        first._replace(sealed=second.sealed),
        first._replace(wrapped=second.wrapped),
        first._replace(sealed=parse(other.wrap(URI, open_kms=kms)).sealed),
    ):
        with pytest.raises(KmsError, match="put together"):
            Key.parse(str(mixed), open_kms=kms)
    with pytest.raises(KmsError, match="InvalidTag"):  # a KMS that authenticates the key id refuses it by itself
        Key.parse(str(first._replace(key_id=other.id)), open_kms=kms)


class WithoutBinding(LocalKms):
    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        del key_id
        return super().unwrap(wrapped, KEY.id)


def test_a_kms_that_binds_nothing_cannot_swap_keys() -> None:
    kms = WithoutBinding()
    found = parse(KEY.wrap(URI, open_kms=kms))
    with pytest.raises(KmsError, match="put together"):
        Key.parse(str(found._replace(key_id=Key.generate().id)), open_kms=kms)


def test_a_key_that_the_one_who_wrapped_misnamed_is_refused(kms: LocalKms) -> None:
    """Whoever makes a text may seal any key: the id in the text has to be its own."""
    once, wrong = os.urandom(32), "0" * 12
    secret = base64.urlsafe_b64decode(KEY.reveal().removeprefix("sealchemy-key-v1."))[:32]
    sealed = AESGCM(once).encrypt(bytes(12), secret, f"sealchemy-wrapped-key-v1.{wrong}".encode())
    text = str(parse(TEXT)._replace(key_id=wrong, sealed=sealed, wrapped=kms.wrap(once, wrong)[0]))
    with pytest.raises(KmsError, match=f"is key {KEY.id}"):
        Key.parse(text, open_kms=kms)


@pytest.mark.parametrize("answer", [b"", bytes(16), bytes(33), "text", None])
def test_what_is_no_key_is_refused(kms: LocalKms, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = KEY.wrap(URI, open_kms=kms)
    monkeypatch.setattr(kms, "unwrap", lambda *_: answer)
    with pytest.raises(KmsError, match=KEY.id):
        Key.parse(text, open_kms=kms)


def test_rings_unwrap_each_key_once_and_check_all_texts_before(kms: LocalKms, tmp_path: Path) -> None:
    old, older = Key.generate(), Key.generate()
    file = tmp_path / "previous"
    file.write_text(f"{old.wrap(URI, open_kms=kms)}\n{older.reveal()}\n")
    environ = {"T_KEY": KEY.wrap(URI, open_kms=kms), "T_PREVIOUS_KEYS_FILE": str(file)}
    kms.asked.clear()
    ring = KeyRing.from_env("T", environ, open_kms=kms)
    assert ring.primary == KEY
    assert ring.previous == (old, older)
    assert kms.asked == {URI: 1}  # one login for two keys
    assert ring.decrypt(ring.encrypt("x", "a.b"), "a.b") == "x"
    assert kms.asked == {URI: 1}
    file.write_text(f"{old.wrap(URI, open_kms=kms)}\n{TEXT[:-1]}\n")
    kms.asked.clear()
    with pytest.raises(KeyFormatError, match=r"T_PREVIOUS_KEYS_FILE is not a usable key: .* from where it is stored$"):
        KeyRing.from_env("T", environ, open_kms=kms)
    file.write_text(KEY.reveal())
    with pytest.raises(KeyFormatError, match=f"repeats the key of T_KEY \\({KEY.id}\\)"):
        KeyRing.from_env("T", environ, open_kms=kms)
    assert not kms.asked
    with pytest.raises(MissingKeyError):
        KeyRing.from_env("T", {}, open_kms=kms)


def test_errors_are_one_line_of_limited_length_without_the_client(kms: LocalKms) -> None:
    def fail(*_: object) -> Any:
        raise OSError("first\nsecond\x1b[31m " + "x" * 1000)

    text = KEY.wrap(URI, open_kms=kms)
    kms.unwrap = fail  # type: ignore[method-assign]
    with pytest.raises(KmsError) as caught:
        KeyRing.from_env("T", {"T_KEY": text}, open_kms=kms)
    assert caught.value.__context__ is None
    message = str(caught.value)
    assert message.startswith(f"T_KEY: key {KEY.id}: {URI}: OSError: first second[31m xxx")
    assert message.isprintable()
    assert len(message) < 300 + 100
    assert text not in message


def test_a_key_is_moved_without_being_opened(kms: LocalKms) -> None:
    other = LocalKms()
    found = parse(KEY.wrap(URI, open_kms=kms))
    moved = move(found, "other://key", lambda uri: kms if uri == URI else other)
    assert moved.sealed == found.sealed
    assert moved.wrapped != found.wrapped
    assert moved.uri.startswith("other://")
    assert Key.parse(str(moved), open_kms=other) == KEY


def test_unknown_schemes_and_missing_clients_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KmsError, match="no KMS has the scheme test; there are aws-kms, azure-kv, gcp-kms, vault-t"):
        Key.parse(TEXT)
    with pytest.raises(KeyFormatError, match="scheme://"):
        KEY.wrap("vault-transit:transit/key")
    monkeypatch.setitem(__import__("sys").modules, "hvac", None)
    monkeypatch.delitem(__import__("sys").modules, "sealchemy.kms.vault", raising=False)
    with pytest.raises(KmsError, match=r'not installed \(no module hvac\): pip install "sealchemy\[vault-transit\]"'):
        open_kms("vault-transit://transit/key")


def test_reading_ids_asks_nothing() -> None:
    from sealchemy._values.environment import read_ids

    began = time.monotonic()
    old = Key.generate()
    assert read_ids("T", {"T_KEY": TEXT, "T_PREVIOUS_KEYS": old.reveal()}) == (KEY.id, (old.id,), None)
    assert time.monotonic() - began < 1
