"""The `Integration` model: the grant of a provider to a user, with its tokens encrypted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, FunctionElement, String, UniqueConstraint, false, func
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedSQLExpression,
    column_property,
    declared_attr,
    mapped_column,
)
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from sealchemy import EncryptedJSON, EncryptedString

TOKEN_CONTEXTS = {
    "access_token": "integrations.access_token",
    "refresh_token": "integrations.refresh_token",
}
"""The context of each token column, by column name."""

BIND_TO = ("user_id", "provider", "account")
"""What names a row, and decides where its tokens are sent: they are read in this row alone."""


def _exact_text(length: int) -> String:
    """Return a type for text that is compared as it is; MariaDB takes `a` and `A` for equal otherwise."""
    return String(length).with_variant(String(length, collation="utf8mb4_bin"), "mysql", "mariadb")


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, aware and in UTC in Python, even where the database has no time zones (SQLite, MariaDB).

    `UtcDateTime(timezone=False)` is for a column of PostgreSQL that has none, with times in UTC.
    """

    impl = DateTime
    cache_ok = True

    def __init__(self, timezone: bool = True) -> None:  # noqa: FBT001, FBT002 - as `DateTime` takes it
        """Name the type of the column."""
        super().__init__(timezone=timezone)
        self.timezone = timezone

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive value, which would mean another time on another machine."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a datetime without a time zone; use datetime.now(UTC)")
        value = value and value.astimezone(UTC)
        return value if value is None or self.timezone else value.replace(tzinfo=None)

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value in UTC."""
        return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


class utc_now(FunctionElement[datetime]):  # noqa: N801 - named as SQL's functions are
    """The current time, in UTC, by the clock of the database, which all processes share."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(utc_now)
def _utc_now(_element: utc_now, _compiler: Any, **_: Any) -> str:
    return "clock_timestamp()"  # now() is the start of the transaction


@compiles(utc_now, "sqlite")
def _utc_now_on_sqlite(_element: utc_now, _compiler: Any, **_: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"  # CURRENT_TIMESTAMP has no fractions of a second


@compiles(utc_now, "mysql")
@compiles(utc_now, "mariadb")
def _utc_now_on_mysql(_element: utc_now, _compiler: Any, **_: Any) -> str:
    return "utc_timestamp(6)"


class IntegrationMixin:
    """The columns of `Integration`, for an application with its own declarative base.

    The token columns are deferred: listing integrations neither fetches nor decrypts them. In async code, where
    attributes cannot load themselves, use `undefer_group("tokens")`.

    The tokens and `details`, which may say where a token is sent, are bound to user, provider and account: a writer of
    the database cannot move them to a row of another one. `account` tells several accounts of one user apart, by
    whatever name the provider has for them; `""` is the only one.

    While the provider issues no new tokens, `failing_since`, `failures` (in a row, of one kind) and `last_error` (a
    code that is no secret) say so, and no caller asks it before `next_attempt_at`.

    A subclass may declare `id` and `user_id` again, as integers, UUIDs or text, with a foreign key.
    """

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(_exact_text(255))
    provider: Mapped[str] = mapped_column(_exact_text(64))
    account: Mapped[str] = mapped_column(_exact_text(255), default="", server_default="")
    access_token: Mapped[str | None] = mapped_column(
        EncryptedString(TOKEN_CONTEXTS["access_token"], bind_to=BIND_TO), deferred=True, deferred_group="tokens"
    )
    refresh_token: Mapped[str | None] = mapped_column(
        EncryptedString(TOKEN_CONTEXTS["refresh_token"], bind_to=BIND_TO), deferred=True, deferred_group="tokens"
    )
    details: Mapped[Any] = mapped_column(
        EncryptedJSON("integrations.details", bind_to=BIND_TO), nullable=True, deferred=True
    )
    token_type: Mapped[str] = mapped_column(String(32), default="Bearer", server_default="Bearer")
    scope: Mapped[str | None] = mapped_column(String(4096))
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    reauthorization_required: Mapped[bool] = mapped_column(default=False, server_default=false())
    refreshed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    failing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    failures: Mapped[int] = mapped_column(default=0, server_default="0")
    last_error: Mapped[str | None] = mapped_column(String(64))
    next_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    refresh_lease: Mapped[str | None] = mapped_column(String(36))
    refresh_lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now(), onupdate=utc_now())

    @declared_attr
    def has_access_token(cls) -> MappedSQLExpression[bool]:  # noqa: N805 - SQLAlchemy passes the class
        """Whether an access token is stored, without fetching it."""
        return column_property(cls.access_token.is_not(None))  # type: ignore[union-attr] # a column, on the class

    @declared_attr
    def has_refresh_token(cls) -> MappedSQLExpression[bool]:  # noqa: N805 - SQLAlchemy passes the class
        """Whether a refresh token is stored, without fetching it."""
        return column_property(cls.refresh_token.is_not(None))  # type: ignore[union-attr] # a column, on the class

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:  # noqa: N805 - SQLAlchemy passes the class
        """Allow one row for a user, a provider and an account there."""
        return (UniqueConstraint("user_id", "provider", "account"),)

    def __repr__(self) -> str:
        """Return the columns that identify the row, as far as they are loaded: a repr must not run a query."""
        loaded = self.__dict__
        shown = ", ".join(f"{name}={loaded.get(name)!r}" for name in ("id", "user_id", "provider"))
        return f"{type(self).__name__}({shown})"


class Base(DeclarativeBase):
    """The declarative base of the ready-made table."""


class Integration(IntegrationMixin, Base):
    """The grant of a provider to a user."""

    __tablename__ = "integrations"
