"""`attach_key_ring` and `Rollout`."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, insert, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from sealchemy import (
    ColumnDefinitionError,
    DecryptionError,
    EncryptedString,
    EnvelopeFormatError,
    Key,
    KeyRing,
    PlaintextFoundError,
    Rollout,
    RolloutError,
    SecretString,
    UnknownKeyError,
    UnsupportedOperationError,
    UnsupportedVersionError,
    attach_key_ring,
)
from sealchemy._column import engine_keys as engine_module
from sealchemy._values.codecs import TEXT
from sealchemy.engine import plaintext_reads
from tests.support.leaks import SENTINEL, assert_silent
from tests.support.models import Account, create

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())


def read(engine: Engine, column: Any = Account.token) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.scalars(select(column).order_by(Account.id)))


def write(engine: Engine, value: str) -> str:
    """Write through the column type, and return the stored value."""
    with engine.begin() as connection:
        connection.execute(insert(Account), {"token": value})
        return str(connection.scalar(text("SELECT token FROM accounts ORDER BY id DESC LIMIT 1")))


def store(engine: Engine, value: str) -> None:
    """Store a value without the column type."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO accounts (token) VALUES (:value)"), {"value": value})


@pytest.mark.parametrize("kind", ["encryptor", "decryptor"])
def test_replacing_the_ring_during_first_use_of_a_column_takes_effect(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    removed, kept = Key.generate(), Key.generate()
    engine = attach_key_ring(create_engine("sqlite://"), KeyRing(primary=removed))
    make, entered = getattr(engine_module.key_ring, kind), threading.Event()

    def make_slowly(*arguments: Any) -> Any:
        entered.set()
        time.sleep(0.3)
        return make(*arguments)

    monkeypatch.setattr(engine_module.key_ring, kind, make_slowly)
    with ThreadPoolExecutor(1) as pool:
        function = pool.submit(getattr(engine_module.engine_keys(engine.dialect), kind), "a.b", TEXT)
        entered.wait(10)
        attach_key_ring(engine, KeyRing(primary=kept))
        if kind == "encryptor":
            assert KeyRing(primary=kept).decrypt(function.result()("x"), "a.b") == "x"
        else:
            with pytest.raises(UnknownKeyError):
                function.result()(KeyRing(primary=removed).encrypt("x", "a.b"))
    engine.dispose()


def test_returns_the_engine_it_was_given() -> None:
    engine = create_engine("sqlite://")
    assert attach_key_ring(engine, RING) is engine


def test_accepts_an_async_engine() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    assert attach_key_ring(engine, RING) is engine


@pytest.mark.parametrize(("engine", "ring"), [("sqlite://", RING), (None, RING), (create_engine("sqlite://"), None)])
def test_anything_but_an_engine_and_a_ring_is_refused(engine: Any, ring: Any) -> None:
    with pytest.raises(UnsupportedOperationError, match="takes an Engine"):
        attach_key_ring(engine, ring)


def test_key_ids_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sealchemy")
    old = Key.generate()
    attach_key_ring(create_engine("sqlite://"), KeyRing(RING.primary, [old]), rollout={"a.b": Rollout.MIGRATE})
    assert RING.primary.id in caplog.text
    assert old.id in caplog.text
    assert "a.b=migrate" in caplog.text
    assert RING.primary.reveal()[20:] not in caplog.text


def test_each_engine_has_its_own_ring(make_engine: Callable[..., Engine]) -> None:
    one, two = (create(make_engine()) for _ in range(2))
    stored = write(one, "x")
    store(two, stored)
    with pytest.raises(UnknownKeyError):
        read(two)
    assert read(one) == ["x"]


def test_replacing_the_ring_affects_already_compiled_statements(make_engine: Callable[..., Engine]) -> None:
    engine = create(make_engine(ring=RING))
    first, new = write(engine, "x"), Key.generate()
    assert read(engine) == ["x"]
    attach_key_ring(engine, KeyRing(primary=new, previous=[RING.primary]))
    second = write(engine, "y")
    assert (first.split(":")[2], second.split(":")[2]) == (RING.primary.id, new.id)
    assert read(engine) == ["x", "y"]
    attach_key_ring(engine, KeyRing(primary=new))
    with pytest.raises(UnknownKeyError, match=RING.primary.id):
        read(engine)


def test_derived_engine_shares_the_ring(make_engine: Callable[..., Engine]) -> None:
    engine = create(make_engine())
    assert write(engine.execution_options(logging_token="x"), "x").startswith("sealchemy:v1:")


@pytest.mark.parametrize(
    ("stage", "encrypts", "reads_plaintext"),
    [(Rollout.PREPARE, False, True), (Rollout.MIGRATE, True, True), (Rollout.STRICT, True, False)],
)
def test_stage_controls_encryption_and_plaintext_reads(
    make_engine: Callable[..., Engine], stage: Rollout, encrypts: bool, reads_plaintext: bool
) -> None:
    engine = create(make_engine(ring=RING, rollout=stage))
    assert write(engine, "written").startswith("sealchemy:v1:") is encrypts
    store(engine, RING.encrypt("stored", "accounts.token"))
    if reads_plaintext:
        store(engine, "plain")
        assert read(engine) == ["written", "stored", "plain"]
        assert all(isinstance(value, SecretString) for value in read(engine))
    else:
        assert read(engine) == ["written", "stored"]
        store(engine, SENTINEL)
        with pytest.raises(PlaintextFoundError, match=r"accounts\.token.*MIGRATE") as caught:
            read(engine)
        assert_silent(caught.value)


@pytest.mark.parametrize("stage", Rollout)
@pytest.mark.parametrize(
    ("stored", "error"),
    [
        ("sealchemy:", EnvelopeFormatError),
        ("sealchemy:my-own-scheme", EnvelopeFormatError),
        ("sealchemy:v2:abc", UnsupportedVersionError),
        ("sealchemy:v1:0123456789ab:AAAA", EnvelopeFormatError),
        (KeyRing(primary=Key.generate()).encrypt("x", "accounts.token"), UnknownKeyError),
        (RING.encrypt("x", "accounts.refresh"), DecryptionError),
        (RING.encrypt("x", "accounts.token")[:-8] + "AAAAAAA=", DecryptionError),
        (b"bytes", EnvelopeFormatError),
    ],
    ids=["prefix only", "other scheme", "version", "malformed", "unknown key", "wrong context", "tampered", "bytes"],
)
def test_invalid_stored_value_is_never_read_as_plaintext(
    make_engine: Callable[..., Engine], stage: Rollout, stored: Any, error: type[Exception]
) -> None:
    engine = create(make_engine(ring=RING, rollout=stage))
    store(engine, stored)
    with pytest.raises(error, match=r"accounts\.token"):
        read(engine)


@pytest.mark.parametrize("value", ["sealchemy:x", 7, "\ud800"])
@pytest.mark.parametrize("stage", Rollout)
def test_invalid_value_is_refused_in_every_stage(
    make_engine: Callable[..., Engine], stage: Rollout, value: Any
) -> None:
    from sealchemy import SealchemyError

    engine = create(make_engine(ring=RING, rollout=stage))
    with pytest.raises(SealchemyError):
        write(engine, value)


def test_stage_is_set_per_context_and_defaults_to_strict(make_engine: Callable[..., Engine]) -> None:
    engine = create(make_engine(ring=RING, rollout={"accounts.token": Rollout.PREPARE}))
    with engine.begin() as connection:
        connection.execute(insert(Account), {"token": "plain", "refresh": "secret"})
        token, refresh = connection.execute(text("SELECT token, refresh FROM accounts")).one()
        assert token == "plain"
        assert refresh.startswith("sealchemy:v1:")
        connection.execute(text("UPDATE accounts SET refresh = 'plain'"))
    assert read(engine) == ["plain"]
    with pytest.raises(PlaintextFoundError):
        read(engine, Account.refresh)


@pytest.mark.parametrize("rollout", ["", "Strict", "none", None, False, 1, {"a.b": ""}, {"a.b": None}, {"a.b": "lax"}])
def test_an_unknown_stage_is_an_error(rollout: Any) -> None:
    with pytest.raises(RolloutError, match="prepare, migrate, strict"):
        attach_key_ring(create_engine("sqlite://"), RING, rollout=rollout)


def test_a_malformed_context_is_an_error() -> None:
    with pytest.raises(ColumnDefinitionError):
        attach_key_ring(create_engine("sqlite://"), RING, rollout={"a b": Rollout.STRICT})


def test_plaintext_reads_are_all_counted_but_logged_once(
    make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    plaintext_reads.clear()
    engine = create(make_engine(ring=RING, rollout=Rollout.MIGRATE))
    for _ in range(3):
        store(engine, SENTINEL)
    assert read(engine) == [SENTINEL] * 3
    assert read(engine) == [SENTINEL] * 3
    assert plaintext_reads == {"accounts.token": 6}
    assert caplog.text.count("read plaintext") == 1
    assert SENTINEL not in caplog.text


def test_stage_change_during_a_write_does_not_break_the_write(make_engine: Callable[..., Engine]) -> None:
    ring = KeyRing(primary=Key.generate())
    engine = make_engine(ring=ring, rollout=Rollout.PREPARE)
    write = EncryptedString("a.b").bind_processor(engine.dialect)

    class Meanwhile:
        def get_secret_value(self) -> str:  # called while the value is being written
            attach_key_ring(engine, ring, rollout=Rollout.MIGRATE)
            return "token"

    assert write(Meanwhile()) == "token"  # the whole write uses one stage
    assert ring.decrypt(write("token"), "a.b") == "token"


def test_a_child_that_is_forked_while_a_ring_is_replaced_can_encrypt() -> None:
    ring = KeyRing(primary=Key.generate())
    engine = attach_key_ring(create_engine("sqlite://"), ring)
    type_ = EncryptedString("a.b")
    type_.bind_processor(engine.dialect)
    with engine_module._lock:  # as another thread holds it
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            EncryptedString("first.use").bind_processor(engine.dialect)
            attach_key_ring(engine, ring)
            stored = type_.bind_processor(engine.dialect)("x")
            os._exit(0 if ring.decrypt(stored, "a.b") == "x" else 1)
    assert os.waitpid(child, 0)[1] == 0
    engine.dispose()
