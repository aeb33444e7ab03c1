"""Checked by mypy and pyright, never run: what a user's type checker sees."""

from __future__ import annotations

from typing import Any, assert_type

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sealchemy import EncryptedString, Key, KeyRing, Rollout, SecretString, attach_key_ring


class Base(DeclarativeBase):
    pass


class Integration(Base):
    __tablename__ = "integrations"

    id: Mapped[int] = mapped_column(primary_key=True)
    access_token: Mapped[str] = mapped_column(EncryptedString("integrations.access_token"))
    refresh_token: Mapped[str | None] = mapped_column(EncryptedString("integrations.refresh_token"))


def use(integration: Integration, stored: Any) -> None:
    assert_type(integration.access_token, str)
    assert_type(integration.refresh_token, str | None)

    ring = KeyRing(primary=Key.generate(), previous=[Key.generate()])
    assert_type(ring.encrypt("token", "a.b"), str)
    assert_type(ring.decrypt(stored, "a.b"), SecretString)
    KeyRing(primary="key")  # type: ignore[arg-type]
    ring.encrypt(b"token", "a.b")  # type: ignore[arg-type]
    EncryptedString()  # type: ignore[call-arg]

    assert_type(attach_key_ring(create_engine("sqlite://"), ring), Engine)
    assert_type(attach_key_ring(create_async_engine("sqlite+aiosqlite://"), ring, rollout=Rollout.MIGRATE), AsyncEngine)
    attach_key_ring(create_engine("sqlite://"), ring, rollout={"a.b": Rollout.PREPARE})
    attach_key_ring(create_engine("sqlite://"), ring, rollout="lax")  # type: ignore[arg-type]
