"""A value is read only where it was written, whatever the rows, the swaps and the stages are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Uuid, create_engine, insert, select, text
from sqlalchemy.pool import StaticPool

from sealchemy import (
    DecryptionError,
    EncryptedJSON,
    EncryptedString,
    Key,
    KeyRing,
    Rollout,
    UnsupportedOperationError,
    attach_key_ring,
)
from sealchemy._values import envelope, rows
from sealchemy._values.codecs import TEXT

RING = KeyRing(primary=Key.generate())
BOUND_STAGES = [Rollout.MIGRATE, Rollout.BIND_MIGRATE, Rollout.STRICT]
READING_STAGES = list(Rollout)

metadata = MetaData()
table = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("name", String, nullable=False),
    Column("device", Uuid, nullable=False),
    Column("token", EncryptedString("accounts.token", bind_to=("number", "name", "device"))),
    Column("other", EncryptedString("accounts.token", bind_to=("number", "name", "device"))),
    Column("document", EncryptedJSON("accounts.document", bind_to=("name", "number"))),
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), max_size=6)
row = st.tuples(
    st.integers(-(2**63), 2**63 - 1), names | st.sampled_from(["a", "A", "a ", "", "é", "e\u0301"]), st.uuids()
)
parts_of = {"token": (0, 1, 2), "other": (0, 1, 2), "document": (1, 0)}


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    found=st.lists(row, min_size=2, max_size=6),
    secrets=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=6, max_size=6),
    swaps=st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(sorted(parts_of)), st.integers(0, 5), st.sampled_from(sorted(parts_of))
        ),
        max_size=6,
    ),
    written=st.sampled_from(BOUND_STAGES),
    read=st.sampled_from(READING_STAGES),
)
def test_a_value_is_read_only_where_it_was_written(
    found: list[Any], secrets: list[str], swaps: list[tuple[int, str, int, str]], written: Rollout, read: Rollout
) -> None:
    secrets = [secret.replace("sealchemy:", "") for secret in secrets]
    engine = create_engine("sqlite://", poolclass=StaticPool)
    attach_key_ring(engine, RING, rollout=written)
    metadata.create_all(engine)
    with engine.begin() as connection:
        for number, (count, name, device) in enumerate(found):
            values = {"token": secrets[number], "other": secrets[-number], "document": {"x": secrets[number]}}
            connection.execute(insert(table).values(id=number, number=count, name=name, device=device, **values))
        origin = {(number, column): (number, column) for number in range(len(found)) for column in parts_of}
        stored = {
            (number, column): connection.scalar(text(f"SELECT {column} FROM accounts WHERE id = {number}"))
            for number, column in origin
        }
        for source, from_column, target, to_column in swaps:
            if source < len(found) and target < len(found):
                origin[target, to_column] = source, from_column
        for (number, column), place in origin.items():
            connection.execute(text(f"UPDATE accounts SET {column} = :v WHERE id = {number}"), {"v": stored[place]})
    attach_key_ring(engine, RING, rollout=read)
    with engine.connect() as connection:
        for (number, column), (source, from_column) in origin.items():
            query = select(table.c[column]).where(table.c.id == number)
            here = [found[number][part] for part in parts_of[column]]
            there = [found[source][part] for part in parts_of[from_column]]
            same_context = (column == "document") == (from_column == "document")
            if same_context and here == there:
                expected = {"token": secrets[source], "other": secrets[-source], "document": {"x": secrets[source]}}
                assert connection.scalar(query) == expected[from_column]
                continue
            try:
                value = connection.scalar(query)
            except DecryptionError:
                continue
            raise AssertionError(f"{value!r} was read in another place than it was written")
    engine.dispose()


texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=4)


@given(one=texts, other=texts)
def test_different_rows_have_different_associated_data(one: list[str], other: list[str]) -> None:
    assert (rows.associated_data(one) == rows.associated_data(other)) is (one == other)


def test_the_format_is_that_of_the_documentation() -> None:
    """Computed by hand: the header, the context, and for each part NUL, length and UTF-8."""
    assert rows.associated_data(["7", "gé"]) == b"\0\0\0\0\x017\0\0\0\0\x03g\xc3\xa9"
    key = RING.primary._data_key
    assert key.associated_data("a.b", bound=True) == f"sealchemy:v1:{RING.primary.id}:row:a.b".encode()
    assert envelope.header(RING.primary.id, bound=True) == f"sealchemy:v1:{RING.primary.id}:row:"


line = st.text(st.sampled_from("a7\n"), max_size=5)
part = st.text(st.sampled_from("a7"), max_size=2)


@given(read=st.lists(st.tuples(line, st.lists(part, min_size=1, max_size=3)), max_size=8))
def test_plaintext_keeps_its_newlines_whatever_was_read_before(read: list[tuple[str, list[str]]]) -> None:
    for plaintext, parts in read:
        decrypt = rows.text_decryptor(RING, "a.b", TEXT.value, parts, lambda stored: f"plaintext: {stored}")
        assert decrypt("\n".join([plaintext, *parts])) == f"plaintext: {plaintext}"
        bound = rows.encryptor(RING, "a.b", TEXT.value)(plaintext, rows.associated_data(parts))
        assert decrypt("\n".join([bound, *parts])) == plaintext


def test_a_newline_in_a_part_does_not_damage_a_value_that_is_not_bound() -> None:
    unbound = RING.encryptor("a.b")("plain\ntext")
    bound = rows.encryptor(RING, "a.b", TEXT.value)("text", rows.associated_data(["x", "z"]))
    decrypt = rows.text_decryptor(RING, "a.b", TEXT.value, ("u", "p"), RING.decryptor("a.b"))
    for row in ("x\ny\nz", "x\n", "\n\n", "x\nz"):
        assert decrypt(f"{unbound}\n{row}") == "plain\ntext"
    for row in ("x\ny\nz", "x", "\n\n", "x\nz\n", "\nx\nz"):
        with pytest.raises((DecryptionError, UnsupportedOperationError)):
            decrypt(f"{bound}\n{row}")
