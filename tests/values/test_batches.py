"""Many values at once: the results, and the errors, of one by one."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealchemy import Key, KeyRing, SealchemyError, SecretString
from sealchemy._values import envelope, rows
from sealchemy._values.codecs import TEXT
from sealchemy._values.key_ring import batch_decryptor, batch_encryptor, decryptor
from sealchemy.errors import DecryptionError, EnvelopeFormatError

OLD, KEY = Key.generate(), Key.generate()
RING = KeyRing(primary=KEY, previous=[OLD])
CONTEXT = "batches.token"
PLAINTEXTS = [SecretString(f"token {number} é" * (number % 3)) for number in range(40)]
ROWS = [rows.associated_data([str(number)]) for number in range(40)]

_decrypt = decryptor(RING, CONTEXT, TEXT.stored)
_decrypt_all = batch_decryptor(RING, CONTEXT, TEXT.stored, _decrypt, bound=False)


def _refuse(stored: Any) -> Any:
    raise SealchemyError(CONTEXT)


_decrypt_bound = rows.decryptor(RING, CONTEXT, TEXT.stored, _refuse)
_decrypt_all_bound = batch_decryptor(RING, CONTEXT, TEXT.stored, _decrypt_bound, bound=True)


def encrypt_all(key: Key) -> list[str]:
    return batch_encryptor(KeyRing(primary=key), CONTEXT, TEXT.stored)(PLAINTEXTS, None)


BATCH, BATCH_OF_OLD = encrypt_all(KEY), encrypt_all(OLD)
BOUND = rows.batch_encryptor(RING, CONTEXT, TEXT.stored)(PLAINTEXTS, ROWS)
OWN_PREFIXES = [KeyRing(primary=key).encrypt("x", CONTEXT) for key in (KEY, OLD) for _ in range(20)]


def outcome(decrypt: Callable[[], Any]) -> Any:
    try:
        return decrypt()
    except SealchemyError as error:
        return type(error), str(error)


def one_by_one(values: list[Any]) -> Any:
    return outcome(lambda: [_decrypt(value) for value in values])


@pytest.mark.parametrize(
    "values",
    [
        [],
        BATCH,
        BATCH_OF_OLD + BATCH,
        OWN_PREFIXES,
        [*BATCH, *OWN_PREFIXES],
        [None, *BATCH, None],
        [*BATCH, "plaintext"],
        [*BATCH, b"bytes"],
        [*BATCH, BATCH[0].replace("v1", "v2")],
        [*BATCH, BATCH[0][:42]],
        BOUND,
    ],
    ids=["none", "one", "two", "own", "both", "nulls", "plaintext", "bytes", "version", "cut", "bound"],
)
def test_results_and_errors_are_those_of_one_by_one(values: list[Any]) -> None:
    assert outcome(lambda: _decrypt_all(values, None)) == one_by_one(values)


def test_values_are_masked() -> None:
    assert {type(value) for value in _decrypt_all(BATCH, None)} == {SecretString}


@given(place=st.integers(0, 39), at=st.integers(0, 200), symbol=st.sampled_from("AQgw=+/ab\n é"))
def test_no_other_spelling_is_read(place: int, at: int, symbol: str) -> None:
    value = BATCH[place]
    at %= len(value)
    changed = value[:at] + symbol + value[at + 1 :]
    values = [*BATCH[:place], changed, *BATCH[place + 1 :]]
    found = outcome(lambda: _decrypt_all(values, None))
    assert found == one_by_one(values)
    assert (found == PLAINTEXTS) == (changed == value)


@pytest.mark.parametrize("padding", ["=", "=="])
def test_unused_bits_are_no_second_spelling(padding: str) -> None:
    place = next(place for place, value in enumerate(BATCH) if value.rstrip("=") + padding == value)
    last = -1 - len(padding)
    other = BATCH[place][:last] + chr(ord(BATCH[place][last]) + 1) + padding
    assert base64.b64decode(other[26:]) == base64.b64decode(BATCH[place][26:])
    with pytest.raises(EnvelopeFormatError):
        _decrypt_all([*BATCH[:place], other, *BATCH[place + 1 :]], None)


@given(place=st.integers(0, 39), size=st.integers(0, 120))
def test_cut_values_are_refused(place: int, size: int) -> None:
    values = [*BATCH[:place], BATCH[place][:size], *BATCH[place + 1 :]]
    assert outcome(lambda: _decrypt_all(values, None)) == one_by_one(values)


def test_a_prefix_with_padding_is_not_a_second_spelling() -> None:
    """Twelve bytes that start with two zeros and the ten bytes after these are the same number."""
    prefix, tail = bytes(2) + bytes(range(10)), bytes(12)
    key, header = KEY._data_key, envelope.header(KEY.id)
    sealed = key.cipher(prefix).encrypt(tail, b"x", key.associated_data(CONTEXT))
    good = header + envelope.encode(prefix + tail + sealed)
    assert _decrypt_all([good] * 8, None) == ["x"] * 8
    other = header + envelope.encode(prefix[2:]) + good[len(header) + 16 :]
    with pytest.raises(SealchemyError):
        _decrypt_all([other] * 8, None)


def test_values_bound_to_their_rows() -> None:
    assert _decrypt_all_bound(BOUND, ROWS) == PLAINTEXTS
    others = [rows.associated_data([f"other {number}"]) for number in range(40)]
    batches = BOUND + rows.batch_encryptor(RING, CONTEXT, TEXT.stored)(PLAINTEXTS, others)
    one_by_one: Any = None
    decrypt_all = batch_decryptor(RING, CONTEXT, TEXT.stored, one_by_one, bound=True)
    assert decrypt_all(batches, ROWS + others) == PLAINTEXTS * 2
    with pytest.raises(DecryptionError):
        _decrypt_all_bound(BOUND, [*ROWS[:20], ROWS[0], *ROWS[21:]])
    with pytest.raises(DecryptionError):
        _decrypt_all_bound([*BOUND[:5], BOUND[6], *BOUND[6:]], ROWS)
    with pytest.raises(ValueError, match="zip"):
        _decrypt_all_bound(BOUND, ROWS[:-1])


def test_more_values_than_one_prefix_may_have() -> None:
    plaintexts = [SecretString("x")] * 5000
    stored = batch_encryptor(RING, CONTEXT, TEXT.stored)(plaintexts, None)
    assert len({value[26:58] for value in stored}) == 5000
    assert _decrypt_all(stored, None) == plaintexts
