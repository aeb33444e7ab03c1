"""Code that mypy and pyright check as a user's type checker would. It never runs."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
# mypy's strict mode also reports ignores that are not needed.

from __future__ import annotations

from typing import Any, assert_type

from sqlalchemy import Engine, create_engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from sealchemy import EncryptedString, Key, KeyRing, Rollout, SecretString, attach_key_ring
from sealchemy.rewrite import ENCRYPT, Report, rewrite
from sealchemy.testing import assert_encrypted


class Base(DeclarativeBase):
    pass


class Integration(Base):
    __tablename__ = "integrations"

    id: Mapped[int] = mapped_column(primary_key=True)
    access_token: Mapped[str] = mapped_column(EncryptedString("integrations.access_token"))
    refresh_token: Mapped[str | None] = mapped_column(EncryptedString("integrations.refresh_token"))


class DataBase(MappedAsDataclass, DeclarativeBase):
    pass


class DataIntegration(DataBase):
    __tablename__ = "integrations"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    token: Mapped[str] = mapped_column(EncryptedString("integrations.token"))
    refresh: Mapped[str | None] = mapped_column(EncryptedString("integrations.refresh"), default=None)


def use_columns(integration: Integration, session: Session) -> None:
    integration.access_token = "token"
    integration.access_token = SecretString("token")
    integration.refresh_token = None
    integration.access_token = None  # type: ignore[assignment]
    integration.access_token = b"token"  # type: ignore[assignment]

    assert_type(session.scalars(select(Integration.access_token)).one(), str)
    assert_type(session.scalars(select(Integration.refresh_token)).one(), str | None)
    assert_type(DataIntegration(token="token").token, str)
    DataIntegration(token=None)  # type: ignore[arg-type]
    assert_encrypted(session, Integration.access_token)
    assert_encrypted(session, "access_token")  # type: ignore[call-overload]


def use_rewrite(engine: Engine, columns: dict[str, str]) -> None:
    assert_type(rewrite(ENCRYPT, engine, "t", columns, legacy_reader=lambda stored: stored[1:]), Report)
    rewrite(ENCRYPT, engine, "t", columns, legacy_reader=str.split)  # type: ignore[arg-type]
    rewrite("encrypt", engine, "t", columns)  # type: ignore[arg-type]


def use(integration: Integration, stored: Any) -> None:
    assert_type(integration.access_token, str)
    assert_type(integration.refresh_token, str | None)

    ring = KeyRing(primary=Key.generate(), previous=[Key.generate()])
    assert_type(ring.encrypt("token", "a.b"), str)
    assert_type(ring.decrypt(stored, "a.b"), SecretString)
    KeyRing(primary="key")  # type: ignore[arg-type]
    ring.encrypt(b"token", "a.b")  # type: ignore[arg-type]
    EncryptedString()  # type: ignore[call-arg]
    EncryptedString(key="secret")  # type: ignore[call-arg]
    EncryptedString(255)  # type: ignore[arg-type]
    attach_key_ring("sqlite://", ring)  # type: ignore[type-var]

    assert_type(attach_key_ring(create_engine("sqlite://"), ring), Engine)
    assert_type(attach_key_ring(create_async_engine("sqlite+aiosqlite://"), ring, rollout=Rollout.MIGRATE), AsyncEngine)
    attach_key_ring(create_engine("sqlite://"), ring, rollout={"a.b": Rollout.PREPARE})
    attach_key_ring(create_engine("sqlite://"), ring, rollout="lax")  # type: ignore[arg-type]
