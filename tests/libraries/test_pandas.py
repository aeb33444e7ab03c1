"""pandas reads through the type, and writes through it only where it is told to."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, delete, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sealchemy import BlindIndex, EncryptedString, Key, KeyRing, UnsupportedOperationError, attach_key_ring


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str | None] = mapped_column(EncryptedString("accounts.token"))


class Indexed(Base):
    __tablename__ = "indexed"

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str | None] = mapped_column(EncryptedString("indexed.token"))
    token_index: Mapped[str | None] = mapped_column(BlindIndex("indexed.token"))


TOKENS = ["ya29.SENTINEL-1", "ya29.SENTINEL-2"]
NEW = {"id": [1, 2], "token": TOKENS}


def test_to_sql_needs_the_type_and_reads_are_decrypted(url: str, ring: KeyRing) -> None:
    engine = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(engine)

    def stored() -> list[str]:
        with engine.connect() as connection:
            return list(connection.scalars(text("SELECT token FROM accounts ORDER BY id")))

    frame = pd.DataFrame(NEW)
    dtype = {"token": EncryptedString("accounts.token")}
    frame.to_sql("accounts", engine, if_exists="append", index=False, dtype=dtype)
    assert all(value.startswith("sealchemy:v1:") for value in stored())

    read = pd.read_sql(select(Account.id, Account.token).order_by(Account.id), engine)
    assert list(read["token"]) == TOKENS
    assert "SENTINEL" in read.to_csv()  # a frame is in plaintext, however it is printed
    raw = pd.read_sql(text("SELECT token FROM accounts"), engine)
    assert "SENTINEL" not in raw.to_csv()  # text() knows no types

    with engine.begin() as connection:
        connection.execute(text("DELETE FROM accounts"))
    read.to_sql("accounts", engine, if_exists="append", index=False, dtype=dtype)
    assert all(value.startswith("sealchemy:v1:") for value in stored())
    engine.dispose()


def test_without_the_type_it_stores_plaintext(url: str, ring: KeyRing) -> None:
    """It makes a table of its own from the names of the columns, and never sees the model."""
    engine = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(engine)
    pd.DataFrame(NEW).to_sql("accounts", engine, if_exists="append", index=False)
    with engine.connect() as connection:
        assert list(connection.scalars(text("SELECT token FROM accounts ORDER BY id"))) == TOKENS
    engine.dispose()


def test_what_was_read_is_not_written_without_the_type(url: str, ring: KeyRing) -> None:
    engine = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(engine)
    dtype = {"token": EncryptedString("accounts.token")}
    pd.DataFrame(NEW).to_sql("accounts", engine, if_exists="append", index=False, dtype=dtype)
    read = pd.read_sql(select(Account.id + 10, Account.token), engine).astype({"token": object})
    with pytest.raises(UnsupportedOperationError, match="is a parameter for a column that is not"):
        read.to_sql("copies", engine, index=False)
    engine.dispose()


def test_an_insert_of_the_model_encrypts_and_fills_the_index(url: str) -> None:
    ring = KeyRing(primary=Key.generate(), index_key=Key.generate())
    engine = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.execute(insert(Indexed), pd.DataFrame(NEW).to_dict("records"))
        session.commit()
        assert session.scalars(select(Indexed.id).filter_by(token=TOKENS[1])).one() == 2
        assert all(value.startswith("sealchemy:v1:") for value in session.scalars(text("SELECT token FROM indexed")))
        session.execute(delete(Indexed))
        session.commit()
    dtype = {"token": EncryptedString("indexed.token")}
    pd.DataFrame(NEW).to_sql("indexed", engine, if_exists="append", index=False, dtype=dtype)
    with Session(engine) as session:  # encrypted, and not found
        assert session.scalars(select(Indexed.id).filter_by(token=TOKENS[1])).all() == []
    assert "SENTINEL" not in pd.read_sql_table("indexed", engine).to_csv()
    engine.dispose()


def test_the_check_refuses_what_pandas_would_store_as_plaintext(url: str, ring: KeyRing) -> None:
    engine = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        operations: Any = Operations(MigrationContext.configure(connection))
        operations.require_encryption("accounts", {"token": "accounts.token"}, own_transaction=False)
    with pytest.raises((IntegrityError, pd.errors.DatabaseError), match="ck_accounts_token_encrypted"):
        pd.DataFrame(NEW).to_sql("accounts", engine, if_exists="append", index=False)
    engine.dispose()
