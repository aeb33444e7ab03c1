"""A value over the size limit is neither written nor decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert, select, text

from sealchemy import (
    EncryptedBytes,
    EncryptedString,
    EnvelopeFormatError,
    Key,
    KeyFormatError,
    KeyRing,
    KeyRingError,
    PlaintextTypeError,
    RewriteError,
    Rollout,
    attach_key_ring,
)
from sealchemy._values import rows
from sealchemy._values.codecs import TEXT
from sealchemy._values.envelope import longest_plaintext
from sealchemy.rewrite import ENCRYPT, VERIFY, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = Key.generate()
SMALL = KeyRing(primary=KEY, size_limit=1000)
LARGE = KeyRing(primary=KEY, size_limit=10_000)
LONGEST = longest_plaintext(1000)


def test_the_limit_is_16_mb_by_default() -> None:
    assert KeyRing(primary=KEY).size_limit == 16 * 2**20
    assert KeyRing.from_env("X", {"X_KEY": KEY.reveal()}, size_limit=5000).size_limit == 5000


def test_the_limit_is_read_from_the_environment() -> None:
    environ = {"X_KEY": KEY.reveal(), "X_SIZE_LIMIT": "5000"}
    assert KeyRing.from_env("X", environ).size_limit == 5000
    assert KeyRing.from_env("X", environ, size_limit=6000).size_limit == 6000
    with pytest.raises(KeyFormatError, match="X_SIZE_LIMIT is a number"):
        KeyRing.from_env("X", environ | {"X_SIZE_LIMIT": "16 MB"})


@pytest.mark.parametrize("limit", [0, -5, 999, True, None, "x", float("inf")])
def test_a_limit_that_is_none_is_refused(limit: Any) -> None:
    with pytest.raises(KeyRingError, match="size_limit is a number of characters, 1000 or more"):
        KeyRing(primary=KEY, size_limit=limit)


@pytest.mark.parametrize("bound", [False, True])
def test_what_can_be_written_can_be_read(*, bound: bool) -> None:
    if bound:
        stored = rows.encryptor(SMALL, "a.b", TEXT.value)("x" * LONGEST, b"row")
        read = rows.decryptor(SMALL, "a.b", TEXT.value, lambda _: None)
        assert read(stored, b"row") == "x" * LONGEST
    else:
        stored = SMALL.encrypt("x" * LONGEST, "a.b")
        assert SMALL.decrypt(stored, "a.b") == "x" * LONGEST
    assert 990 < len(stored) <= 1000


@pytest.mark.parametrize("plaintext", ["S" * (LONGEST + 1), "ü" * (LONGEST // 2 + 1)], ids=["ASCII", "two bytes each"])
def test_a_longer_plaintext_is_refused_without_being_shown(plaintext: str) -> None:
    with pytest.raises(
        PlaintextTypeError, match=rf"a\.b: the text has {len(plaintext.encode())} bytes.*allows {LONGEST}"
    ) as caught:
        SMALL.encrypt(plaintext, "a.b")
    assert plaintext[:20] not in str(caught.value)


def test_a_longer_value_is_refused_before_it_is_decoded() -> None:
    stored = LARGE.encrypt("x" * 5000, "a.b")
    with pytest.raises(
        EnvelopeFormatError, match=rf"a\.b: the stored value has {len(stored)} characters.*limit of 1000"
    ):
        SMALL.decrypt(stored, "a.b")
    other = KeyRing(primary=Key.generate(), size_limit=1000)
    with pytest.raises(EnvelopeFormatError, match="size_limit of 1000"):
        other.decrypt(stored, "a.b")
    with pytest.raises(EnvelopeFormatError, match="size_limit of 1000"):
        SMALL.decrypt(f"sealchemy:v1:{KEY.id}:{'!' * 2000}", "a.b")


@pytest.mark.parametrize("rollout", [Rollout.PREPARE, Rollout.MIGRATE, Rollout.STRICT])
@pytest.mark.parametrize("type_", [EncryptedString("t.value"), EncryptedBytes("t.value")], ids=["text", "bytes"])
def test_a_column_refuses_it_in_every_stage(rollout: Rollout, type_: Any) -> None:
    engine = attach_key_ring(create_engine("sqlite://"), SMALL, rollout=rollout)
    table = Table("t", MetaData(), Column("id", Integer, primary_key=True), Column("value", type_))
    table.metadata.create_all(engine)
    plaintext: Any = "S" * (LONGEST + 1)
    plaintext = plaintext if isinstance(type_, EncryptedString) else plaintext.encode()
    with pytest.raises(PlaintextTypeError, match="size_limit"), engine.begin() as connection:
        connection.execute(insert(table), {"value": plaintext})
    with engine.connect() as connection:
        assert connection.execute(select(table)).all() == []
    engine.dispose()


def test_rewriting_reports_rows_over_the_limit_and_does_the_others(make_engine: Callable[..., Any]) -> None:
    engine = make_engine("sqlite://", SMALL, rollout=Rollout.MIGRATE)
    values = ["a", "S" * 2000, "b", LARGE.encrypt("x" * 2000, "t.value")]
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT)"))
        for number, value in enumerate(values, 1):
            connection.execute(text("INSERT INTO t VALUES (:id, :value)"), {"id": number, "value": value})
    for conversion in (ENCRYPT, VERIFY):
        with pytest.raises(RewriteError) as caught:
            rewrite(conversion, engine, "t", {"value": "t.value"})
        assert caught.value.report is not None
        assert {failure.key for failure in caught.value.report.failures} == {(2,), (4,)}
        assert "SSS" not in str(caught.value)
    with engine.connect() as connection:
        stored = connection.scalars(text("SELECT value FROM t ORDER BY id")).all()
    assert [SMALL.decrypt(stored[at], "t.value") for at in (0, 2)] == ["a", "b"]
    assert [stored[at] for at in (1, 3)] == [values[at] for at in (1, 3)]
