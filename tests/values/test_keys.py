"""`Key` and `KeyRing`."""

from __future__ import annotations

import base64
import copy
import hashlib
import inspect
import itertools
import os
import pickle
import re
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealchemy import (
    AlreadyEncryptedError,
    ColumnDefinitionError,
    DecryptionError,
    EnvelopeError,
    EnvelopeFormatError,
    Key,
    KeyFormatError,
    KeyRing,
    PlaintextTypeError,
    SealchemyError,
    SecretString,
    UnknownKeyError,
    UnsupportedVersionError,
)
from sealchemy._values import envelope
from tests.support.leaks import SENTINEL, assert_silent

RAW = bytes(range(32))
RING = KeyRing(primary=Key(RAW))


class TestKey:
    def test_text_form_round_trips(self) -> None:
        key = Key.generate()
        assert key.reveal().startswith("sealchemy-key-v1.")
        assert Key.parse(key.reveal()) == key

    def test_a_new_key_ends_with_the_first_four_bytes_of_its_sha256(self) -> None:
        text = Key(RAW).reveal()
        content = base64.urlsafe_b64decode(text.removeprefix("sealchemy-key-v1."))
        assert content == RAW + hashlib.sha256(RAW).digest()[:4]

    def test_any_mistyped_or_swapped_character_of_a_new_key_is_noticed(self) -> None:
        text = Key.generate().reveal()
        for at in range(len("sealchemy-key-v1."), len(text)):
            other = "A" if text[at] != "A" else "B"
            swapped = text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :]
            for wrong in {text[:at] + other + text[at + 1 :], text[:at] + text[at + 1 :], swapped} - {text}:
                with pytest.raises(KeyFormatError) as caught:
                    Key.parse(wrong)
                assert_silent(caught.value, wrong)

    def test_36_bytes_without_the_prefix_are_no_key(self) -> None:
        with pytest.raises(KeyFormatError, match="48 characters"):
            Key.parse(Key.generate().reveal().removeprefix("sealchemy-key-v1."))

    def test_reveal_returns_the_form_that_was_parsed(self) -> None:
        old = "sealchemy-key-v1." + base64.urlsafe_b64encode(RAW).decode().rstrip("=")
        assert Key.parse(old).reveal() == old
        assert Key.parse(old) == Key(RAW)
        assert Key.parse(Key(RAW).reveal()).reveal() == Key(RAW).reveal() != old

    @pytest.mark.parametrize(
        "text",
        [
            base64.b64encode(bytes(range(224, 256))).decode(),
            base64.urlsafe_b64encode(bytes(range(224, 256))).decode(),
            base64.b64encode(bytes(range(224, 256))).decode().rstrip("="),
            "sealchemy-key-v1." + base64.urlsafe_b64encode(bytes(range(224, 256))).decode(),
        ],
    )
    def test_base64_of_32_bytes_is_a_key_in_either_alphabet(self, text: str) -> None:
        assert Key.parse(text) == Key(bytes(range(224, 256)))

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "not 0 characters"),
            ("replace-me-with-the-output-of-sealchemy-generate-key", "placeholder"),
            (base64.b64encode(RAW[:31]).decode(), "last character|43 characters"),
            (base64.b64encode(bytes(range(33))).decode(), "44 characters"),
            (RAW.hex(), "64 characters"),
            (base64.b64encode(RAW).decode() + "\n", "characters that are not base64"),
            ('"' + base64.b64encode(RAW).decode() + '"', "characters that are not base64"),
            (" " + base64.b64encode(RAW).decode(), "characters that are not base64"),
            (base64.b64encode(RAW).decode().replace("A", "é"), "characters that are not base64"),
            ("+-" + base64.b64encode(RAW).decode()[2:], "mixes"),
            (base64.b64encode(RAW).decode()[:42] + "9=", "last character"),
            (base64.b64encode(RAW).decode() + "=", "45 characters"),
            (base64.b64encode(b"correct horse battery staple 123").decode(), "printable text"),
            (base64.b64encode(bytes(32)).decode(), "repeat"),
            (base64.b64encode(bytes(range(11)) + bytes(21)).decode(), "repeat"),
            ("sealchemy-key-v2." + base64.urlsafe_b64encode(RAW).decode(), "characters|alphabets|before its dot"),
        ],
    )
    def test_malformed_key_text_is_refused_and_not_shown(self, text: str, reason: str) -> None:
        with pytest.raises(KeyFormatError, match=reason) as caught:
            Key.parse(text)
        if len(text) > 30:
            assert_silent(caught.value, text)

    def test_raw_key_bytes_are_validated(self) -> None:
        for secret in (RAW[:31], RAW + b"x", b"", bytes(32)):
            with pytest.raises(KeyFormatError):
                Key(secret)

    def test_repr_shows_only_the_id(self) -> None:
        key = Key.generate()
        assert repr(key) == f"Key(id={key.id!r})"
        assert not hasattr(key, "__dict__")

    @pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, pickle.dumps, lambda key: pickle.dumps(key, 0)])
    def test_copying_and_pickling_are_refused(self, copier: object) -> None:
        with pytest.raises(TypeError):
            copier(Key.generate())  # type: ignore[operator]
        with pytest.raises(TypeError):
            pickle.dumps(RING)

    def test_equality_compares_key_bytes(self) -> None:
        key = Key.generate()
        assert key == Key.parse(key.reveal())
        assert hash(key) == hash(Key.parse(key.reveal()))
        assert key != Key.generate()
        assert key != key.reveal()

    def test_id_is_derived_from_the_key_bytes(self) -> None:
        assert re.fullmatch("[0-9a-f]{12}", Key(RAW).id)
        assert Key(RAW).id == Key(RAW).id != Key(RAW[::-1]).id


class TestKeyRing:
    def test_roles_cannot_be_assigned(self) -> None:
        ring, other = KeyRing(primary=Key.generate(), previous=[Key.generate()]), Key.generate()
        for name, value in (("primary", other), ("previous", ())):
            with pytest.raises(AttributeError):
                setattr(ring, name, value)
        with pytest.raises(AttributeError):
            ring.primary.id = other.id  # type: ignore[misc]
        assert ring.decrypt(ring.encrypt("x", "a.b"), "a.b") == "x"

    @given(st.text(st.characters(codec="utf-8")).filter(lambda text: not text.startswith("sealchemy:")))
    def test_round_trip(self, plaintext: str) -> None:
        stored = RING.encrypt(plaintext, "a.b")
        assert RING.decrypt(stored, "a.b") == plaintext
        assert isinstance(RING.decrypt(stored, "a.b"), SecretString)

    def test_context_binds_ciphertext_to_its_column(self) -> None:
        stored = RING.encrypt(SENTINEL, "a.access")
        with pytest.raises(DecryptionError) as caught:
            RING.decrypt(stored, "a.refresh")
        assert (caught.value.context, caught.value.key_id) == ("a.refresh", RING.primary.id)
        assert_silent(caught.value, SENTINEL)

    def test_every_changed_character_is_detected(self) -> None:
        stored = RING.encrypt("x" * 10, "a.b")
        alphabet = [*map(chr, range(128)), "é", "\uff10", "\ud800"]
        for position, character in itertools.product(range(len(stored)), alphabet):
            changed = stored[:position] + character + stored[position + 1 :]
            if changed != stored:
                with pytest.raises((EnvelopeError, UnknownKeyError, DecryptionError)):
                    RING.decrypt(changed, "a.b")

    def test_every_truncation_is_detected(self) -> None:
        stored = RING.encrypt("x" * 10, "a.b")
        for length in range(len(stored)):
            with pytest.raises((EnvelopeError, DecryptionError)):
                RING.decrypt(stored[:length], "a.b")

    def test_each_failure_raises_its_own_error(self) -> None:
        other = KeyRing(primary=Key.generate())
        with pytest.raises(UnknownKeyError) as unknown:
            RING.decrypt(other.encrypt("x", "a.b"), "a.b")
        assert unknown.value.key_id == other.primary.id
        assert other.primary.id in str(unknown.value)
        with pytest.raises(EnvelopeFormatError):
            RING.decrypt("plaintext", "a.b")
        with pytest.raises(UnsupportedVersionError):
            RING.decrypt("sealchemy:v2:x", "a.b")
        with pytest.raises(UnsupportedVersionError):
            RING.decrypt(f"sealchemy:v1:{RING.primary.id}:row:AAAA", "a.b")

    def test_same_id_with_other_key_bytes_does_not_decrypt(self) -> None:
        stored = KeyRing(primary=Key.generate()).encrypt("x", "a.b")
        with pytest.raises(DecryptionError):
            RING.decrypt(envelope.header(RING.primary.id) + stored[26:], "a.b")

    def test_bytes_that_are_not_utf8_are_a_decryption_error(self) -> None:
        key = RING.primary
        header = envelope.header(key.id)
        nonce = os.urandom(24)
        sealed = xaes_encrypt(key, nonce, b"\xffSENTINEL", (header + "a.b").encode())
        with pytest.raises(DecryptionError) as caught:
            RING.decrypt(header + envelope.encode(nonce + sealed), "a.b")
        assert_silent(caught.value, "SENTINEL-is-short")
        assert "SENTINEL" not in repr([vars(item) for item in [caught.value, caught.value.__context__] if item])

    def test_previous_keys_decrypt_and_primary_encrypts(self) -> None:
        old, new = Key.generate(), Key.generate()
        stored = KeyRing(primary=old).encrypt("x", "a.b")
        ring = KeyRing(primary=new, previous=[old])
        assert ring.decrypt(stored, "a.b") == "x"
        assert not ring.is_current(stored)
        assert ring.is_current(ring.encrypt("x", "a.b"))

    def test_is_current_reads_the_header_only(self) -> None:
        assert RING.is_current(f"sealchemy:v1:{RING.primary.id}:whatever")
        for malformed in ("plaintext", "sealchemy:v2:x", b"x"):
            with pytest.raises(EnvelopeError):
                RING.is_current(malformed)  # type: ignore[arg-type]

    def test_duplicate_keys_are_refused(self) -> None:
        key = Key.generate()
        for ring in ({"primary": key, "previous": [key]}, {"primary": Key.generate(), "previous": [key, key]}):
            with pytest.raises(KeyFormatError, match="twice"):
                KeyRing(**ring)  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [b"bytes", 7, None, ["x"]])
    def test_non_text_is_refused(self, value: object) -> None:
        with pytest.raises(PlaintextTypeError, match="not None" if value is None else type(value).__name__):
            RING.encrypt(value, "a.b")  # type: ignore[arg-type]

    def test_lone_surrogate_is_refused_without_showing_the_text(self) -> None:
        with pytest.raises(PlaintextTypeError, match="surrogate") as caught:
            RING.encrypt(f"{SENTINEL}\ud800", "a.b")
        assert_silent(caught.value)

    def test_plaintext_with_the_reserved_prefix_is_refused(self) -> None:
        for text in ("sealchemy:", "sealchemy:v1:x", RING.encrypt("x", "a.b")):
            with pytest.raises(AlreadyEncryptedError):
                RING.encrypt(text, "a.b")

    def test_malformed_context_is_refused(self) -> None:
        for call in (lambda: RING.encrypt("x", "a b"), lambda: RING.decrypt("x", "")):
            with pytest.raises(ColumnDefinitionError):
                call()

    @pytest.mark.parametrize("make", [KeyRing, lambda text: KeyRing(Key.generate(), [text])])
    def test_key_text_is_not_accepted_as_a_key(self, make: Any) -> None:
        text = Key.generate().reveal()
        with pytest.raises(KeyFormatError, match="Key objects") as caught:
            make(text)
        assert_silent(caught.value, text)

    @pytest.mark.parametrize("value", [Key(RAW).reveal().encode(), None, 7], ids=["bytes", "None", "int"])
    def test_parsing_non_text_is_refused(self, value: Any) -> None:
        with pytest.raises(KeyFormatError) as caught:
            Key.parse(value)
        if isinstance(value, bytes):
            assert_silent(caught.value, value.decode())

    def test_refused_input_does_not_show_in_frames(self) -> None:
        for call in (
            lambda: RING.decrypt(SENTINEL, "a.b"),
            lambda: RING.decrypt(SENTINEL.encode(), "a.b"),  # type: ignore[arg-type]
            lambda: RING.encrypt("a.b", SENTINEL + " "),
            lambda: RING.is_current(SENTINEL.encode()),  # type: ignore[arg-type]
        ):
            with pytest.raises(SealchemyError) as caught:
                call()
            assert_silent(caught.value)

    def test_repr_shows_only_ids(self) -> None:
        old = Key.generate()
        assert repr(KeyRing(RING.primary, [old])) == f"KeyRing(primary={RING.primary.id!r}, previous=[{old.id!r}])"

    @given(
        st.one_of(st.text(), st.binary(), st.integers(), st.from_regex(r"sealchemy:v1:[0-9a-f]{12}:[A-Za-z0-9+/=]*"))
    )
    def test_any_input_raises_only_sealchemy_errors(self, value: object) -> None:
        with pytest.raises(SealchemyError):
            RING.decrypt(value, "a.b")  # type: ignore[arg-type]


def xaes_encrypt(key: Key, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    return key._data_key.cipher(nonce[:12]).encrypt(nonce[12:], plaintext, aad)


def nonce_of(stored: str) -> bytes:
    return envelope.parse(stored).payload[:24]


class TestNonces:
    def test_nonces_are_unique_and_prefixes_are_renewed_after_4096_uses(self) -> None:
        encrypt = KeyRing(primary=Key.generate()).encryptor("a.b")
        nonces = [nonce_of(encrypt("x")) for _ in range(100_000)]
        assert len(set(nonces)) == len(nonces)
        uses = Counter(nonce[:12] for nonce in nonces)
        assert max(uses.values()) == 4096
        assert len(uses) == 25

    def test_threads_share_a_writer_safely(self) -> None:
        ring = KeyRing(primary=Key.generate())
        encrypt, decrypt = ring.encryptor("a.b"), ring.decryptor("a.b")
        results: list[list[str]] = [[] for _ in range(8)]

        def work(index: int) -> None:
            results[index] = [encrypt(f"{index}:{number}") for number in range(12_000)]

        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        uses = Counter(nonce_of(stored)[:12] for result in results for stored in result)
        assert max(uses.values()) <= 4096
        for index, result in enumerate(results):
            assert [str(decrypt(stored)) for stored in result] == [f"{index}:{number}" for number in range(12_000)]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    def test_fork_drops_the_nonce_prefix_of_its_parent(self) -> None:
        text = Key.generate().reveal()
        ring = KeyRing(primary=Key.parse(text))
        equal = Key.parse(text)  # as with two engines that read one environment
        assert equal == ring.primary
        before = ring.encrypt("x", "a.b")
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, ring.encrypt("x", "a.b").encode())
            os._exit(0)
        os.waitpid(pid, 0)
        in_child = os.read(reader, 1000).decode()
        os.close(reader)
        os.close(writer)
        assert nonce_of(ring.encrypt("x", "a.b"))[:12] == nonce_of(before)[:12]
        assert nonce_of(in_child)[:12] != nonce_of(before)[:12]
        assert ring.decrypt(in_child, "a.b") == "x"

    def test_column_cache_is_bounded_and_only_authentic_values_enter_it(self) -> None:
        key = Key.generate()
        ring = KeyRing(primary=key)
        decrypt = ring.decryptor("a.b")
        ready = inspect.getclosurevars(decrypt).nonlocals["ready"]
        for _ in range(1500):
            key._data_key.forget_writer()
            assert decrypt(ring.encrypt("x", "a.b")) == "x"
        size = len(ready)
        assert size == 1024  # the oldest of them were replaced, one by one
        for _ in range(50):
            with pytest.raises(DecryptionError):
                decrypt(envelope.header(key.id) + envelope.encode(os.urandom(60)))
        with pytest.raises(DecryptionError):
            decrypt(ring.encrypt("x", "another.context"))
        assert len(ready) == size
