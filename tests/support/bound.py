"""Models whose secrets are bound to their row."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import ForeignKey, String, UniqueConstraint, Uuid
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column, relationship

from sealchemy import EncryptedBytes, EncryptedJSON, EncryptedString

if TYPE_CHECKING:
    from sqlalchemy import Engine

PROVIDER = String(64).with_variant(String(64, collation="utf8mb4_bin"), "mysql", "mariadb")
BOUND = ("user_id", "provider")


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    accounts: Mapped[list[Account]] = relationship(back_populates="user", order_by="Account.id")


class Account(Base):
    __tablename__ = "accounts"
    __table_args__ = (UniqueConstraint("user_id", "provider_name", name="uq_accounts"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    provider: Mapped[str] = mapped_column("provider_name", PROVIDER)
    kind: Mapped[str] = mapped_column(String(16), default="account")
    token: Mapped[str | None] = mapped_column(EncryptedString("bound.token", bind_to=BOUND))
    data: Mapped[bytes | None] = mapped_column(EncryptedBytes("bound.data", bind_to=["user_id"]))
    profile: Mapped[Any] = deferred(
        mapped_column(EncryptedJSON("bound.profile", bind_to=BOUND), nullable=True), group="late"
    )
    free: Mapped[str | None] = mapped_column(EncryptedString("bound.free"))
    user: Mapped[User] = relationship(back_populates="accounts")

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "account"}  # noqa: RUF012 - as documented


class Company(Account):
    """Joined inheritance, with a secret in the table of its own."""

    __tablename__ = "companies"

    id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    seal: Mapped[str | None] = mapped_column(EncryptedString("bound.seal", bind_to=("id",)))

    __mapper_args__ = {"polymorphic_identity": "company"}  # noqa: RUF012 - as documented


class Device(Base):
    """A key that is made in Python when a row is inserted."""

    __tablename__ = "devices"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    secret: Mapped[str | None] = mapped_column(EncryptedString("bound.secret", bind_to=("id",)))


def connect(engine: Engine) -> Engine:
    Base.metadata.create_all(engine)
    return engine
