"""A model with two encrypted columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sealchemy import EncryptedString

if TYPE_CHECKING:
    from sqlalchemy import Engine


class Base(DeclarativeBase):
    """The declarative base of this module."""


class Account(Base):
    """A row with two encrypted tokens."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(50), unique=True)
    token: Mapped[str] = mapped_column(EncryptedString("accounts.token"))
    refresh: Mapped[str | None] = mapped_column(EncryptedString("accounts.refresh"))


def create(engine: Engine) -> Engine:
    """Create the tables, and return the engine."""
    Base.metadata.create_all(engine)
    return engine
