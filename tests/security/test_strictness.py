"""How each rollout stage reads, writes and rewrites each kind of value.

`python -m tests.evidence` generates the table in the documentation from this module, and a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Column, MetaData, String, Table, create_engine, insert, select, text

from sealchemy import EncryptedString, Key, KeyRing, RewriteError, Rollout, SealchemyError, attach_key_ring
from sealchemy._values import envelope
from sealchemy._values import rows as bound_rows
from sealchemy._values.codecs import TEXT
from sealchemy.rewrite import DECRYPT, ENCRYPT, REKEY, VERIFY, rewrite

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

CONTEXT = "integrations.access_token"
COLUMNS = {"access_token": CONTEXT}
KEY, PREVIOUS, UNKNOWN = Key.generate(), Key.generate(), Key.generate()
RING = KeyRing(primary=KEY, previous=[PREVIOUS])
CURRENT = RING.encrypt("token", CONTEXT)
UNKNOWN_VALUE = KeyRing(primary=UNKNOWN).encrypt("token", CONTEXT)

metadata = MetaData()
tokens = Table(
    "tokens", metadata, Column("user_id", String(8), primary_key=True), Column("access_token", EncryptedString(CONTEXT))
)

KINDS: dict[str, str] = {
    "plaintext": "ya29.token",
    "empty text": "",
    "another prefix": "vault:v1:abc",
    "encrypted": CURRENT,
    "encrypted, previous key": KeyRing(primary=PREVIOUS).encrypt("token", CONTEXT),
    "unknown version": "sealchemy:v2:" + CURRENT[13:],
    "encrypted, bound to its row": bound_rows.encryptor(RING, CONTEXT, TEXT.value)(
        "token", bound_rows.associated_data(["u"])
    ),
    "encrypted, truncated": CURRENT[:-4],
    "encrypted, wrong context": RING.encrypt("token", "integrations.refresh_token"),
    "encrypted, wrong key bytes": envelope.header(KEY.id) + UNKNOWN_VALUE[26:],
    "encrypted, unknown key": UNKNOWN_VALUE,
    "encrypted, copied from another row": RING.encrypt("token of another row", CONTEXT),
    "`sealchemy:` only": "sealchemy:",
    "encrypted, in uppercase": CURRENT.upper(),
}


def database(stored: str, stage: Rollout) -> Engine:
    engine = attach_key_ring(create_engine("sqlite://"), RING, rollout=stage)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO tokens VALUES ('u', :stored)"), {"stored": stored})
    return engine


def outcome(action: Callable[[], object]) -> str:
    """Return the result of an action, or the name of its error."""
    try:
        return str(action())
    except SealchemyError as error:
        failures = getattr(getattr(error, "report", None), "failures", None)
        if failures:
            return "reported, left unchanged"
        return f"`{type(error).__name__}`"


def reading(stored: str, stage: Rollout) -> str:
    """Return the outcome of reading a stored value."""
    engine = database(stored, stage)

    def read() -> str:
        with engine.connect() as connection:
            value = connection.scalar(select(tokens.c.access_token))
        return "returned unchanged" if value == stored else "decrypted"

    try:
        return outcome(read)
    finally:
        engine.dispose()


def writing(given: str, stage: Rollout) -> str:
    """Return the outcome of writing a text through the column."""
    engine = database("x", stage)

    def write() -> str:
        with engine.begin() as connection:
            connection.execute(insert(tokens), {"user_id": "w", "access_token": given})
            stored = connection.scalar(text("SELECT access_token FROM tokens WHERE user_id = 'w'"))
        return "stored unchanged" if stored == given else "encrypted"

    try:
        return outcome(write)
    finally:
        engine.dispose()


def rewriting(stored: str, operation: Any, stage: Rollout) -> str:
    """Return the outcome of a rewrite of the stored value."""
    engine = database(stored, stage)

    def work() -> str:
        rewrite(operation, engine, "tokens", COLUMNS)
        with engine.connect() as connection:
            now = connection.scalar(text("SELECT access_token FROM tokens"))
        if now == stored:
            return "left unchanged"
        return "encrypted (primary key)" if now.startswith(envelope.header(KEY.id)) else "decrypted"

    try:
        result = outcome(work)
        if result not in {"left unchanged", "encrypted (primary key)", "decrypted"}:
            with engine.connect() as connection:
                assert connection.scalar(text("SELECT access_token FROM tokens")) == stored
        return result
    finally:
        engine.dispose()


COLUMNS_OF_TABLE: dict[str, Callable[[str], str]] = {
    "read: prepare": lambda value: reading(value, Rollout.PREPARE),
    "read: migrate": lambda value: reading(value, Rollout.MIGRATE),
    "read: strict": lambda value: reading(value, Rollout.STRICT),
    "write: prepare": lambda value: writing(value, Rollout.PREPARE),
    "write: migrate, strict": lambda value: _same(writing(value, Rollout.MIGRATE), writing(value, Rollout.STRICT)),
    **{
        f"`{operation.name}`": lambda value, operation=operation: _same(
            rewriting(value, operation, Rollout.MIGRATE), rewriting(value, operation, Rollout.STRICT)
        )
        for operation in (VERIFY, ENCRYPT, REKEY, DECRYPT)
    },
}


def _same(first: str, second: str) -> str:
    assert first == second
    return first


def rows() -> list[list[str]]:
    """Return the rows of the table, header first."""
    head = ["value", *COLUMNS_OF_TABLE]
    return [head, *([kind, *(make(value) for make in COLUMNS_OF_TABLE.values())] for kind, value in KINDS.items())]


PLAIN = {"plaintext", "empty text", "another prefix", "encrypted, in uppercase"}
READABLE = {"encrypted", "encrypted, previous key", "encrypted, copied from another row"}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_value_follows_the_rules(kind: str) -> None:
    """Assert the rules behind the table."""
    cells = {name: make(KINDS[kind]) for name, make in COLUMNS_OF_TABLE.items()}
    reads = [cells[f"read: {stage}"] for stage in ("prepare", "migrate", "strict")]
    writes = [cell for name, cell in cells.items() if name.startswith("write")]
    if kind in PLAIN:
        assert reads == ["returned unchanged", "returned unchanged", "`PlaintextFoundError`"]
        assert writes == ["stored unchanged", "encrypted"]
        assert [cells[f"`{name}`"] for name in ("verify", "encrypt", "rekey", "decrypt")] == [
            "reported, left unchanged",
            "encrypted (primary key)",
            "reported, left unchanged",
            "left unchanged",
        ]
        return
    assert writes == ["`AlreadyEncryptedError`"] * 2
    assert len(set(reads)) == 1  # the stage does not affect values with the reserved prefix
    if kind in READABLE:
        assert reads[0] == "decrypted"
        assert cells["`verify`"] == cells["`encrypt`"] == "left unchanged"
        assert cells["`rekey`"] == ("encrypted (primary key)" if "previous" in kind else "left unchanged")
        assert cells["`decrypt`"] == "decrypted"
        return
    assert reads[0].startswith("`")
    assert reads[0].endswith("Error`")
    assert {cells[f"`{name}`"] for name in ("verify", "encrypt", "rekey", "decrypt")} == {"reported, left unchanged"}


@pytest.mark.parametrize("stage", list(Rollout))
def test_value_truncated_at_any_length_is_refused(stage: Rollout) -> None:
    engine = attach_key_ring(create_engine("sqlite://"), RING, rollout=stage)
    read = EncryptedString(CONTEXT).result_processor(engine.dialect, None)
    write = EncryptedString(CONTEXT).bind_processor(engine.dialect)
    for length in range(len(envelope.PREFIX), len(CURRENT)):
        with pytest.raises(SealchemyError):
            read(CURRENT[:length])
        with pytest.raises(SealchemyError):
            write(CURRENT[:length])
    engine.dispose()


@pytest.mark.parametrize("stage", [Rollout.MIGRATE, Rollout.STRICT])
@pytest.mark.parametrize("operation", [VERIFY, ENCRYPT, REKEY, DECRYPT], ids=lambda item: item.name)
def test_rewrite_reports_truncated_values_and_leaves_them(operation: Any, stage: Rollout) -> None:
    engine = database("", stage)
    cut = [CURRENT[:length] for length in range(len(envelope.PREFIX), len(CURRENT))]
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM tokens"))
        statement = text("INSERT INTO tokens VALUES (:n, :stored)")
        connection.execute(statement, [{"n": f"{number:04}", "stored": stored} for number, stored in enumerate(cut)])
    with pytest.raises(RewriteError) as caught:
        rewrite(operation, engine, "tokens", COLUMNS)
    assert len(caught.value.report.failures) == len(cut)
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT access_token FROM tokens ORDER BY user_id")).all() == cut
    engine.dispose()
