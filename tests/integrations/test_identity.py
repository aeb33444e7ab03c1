"""A user, a provider and an account name one row, on every database and in models of an application's own."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from sqlalchemy import CHAR, JSON, ForeignKey, String, TypeDecorator, create_engine, event, select, text
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sealchemy import IntegrationError, Key, KeyRing, attach_key_ring
from sealchemy.integrations import (
    IntegrationMixin,
    IntegrationPublic,
    TokenGrant,
    disconnect_integration,
    get_valid_token,
    get_valid_token_async,
    upsert_integration,
)
from sealchemy.integrations.models import UtcDateTime
from sealchemy.integrations.retry import retry
from tests.support.leaks import assert_silent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.support.provider import Provider


class Own(DeclarativeBase):
    pass


class User(Own):
    __tablename__ = "own_users"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


class Connection(IntegrationMixin, Own):
    __tablename__ = "own_connections"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)  # type: ignore[assignment]
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(User.id))  # type: ignore[assignment]


class Number(IntegrationMixin, Own):
    __tablename__ = "own_numbers"
    user_id: Mapped[int] = mapped_column()  # type: ignore[assignment]
    scope: Mapped[str | None] = mapped_column(String(5))
    token_type: Mapped[str] = mapped_column(String(6), server_default="Bearer")


class Text(IntegrationMixin, Own):
    __tablename__ = "own_texts"


class Base(IntegrationMixin, Own):
    __tablename__ = "own_family"
    kind: Mapped[str] = mapped_column(String(10), default="a")
    __mapper_args__: ClassVar[Any] = {"polymorphic_on": "kind", "polymorphic_identity": "a"}


USER = uuid.uuid4()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    kind = request.param
    url = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    engine: Engine = attach_key_ring(create_engine(url), KeyRing(primary=Key.generate()))
    Own.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(User(id=USER))
        session.commit()
    yield sessionmaker(engine)
    engine.dispose()


def connect(sessions: sessionmaker[Session], model: type[IntegrationMixin], user_id: Any, **grant: Any) -> None:
    with sessions.begin() as session:
        given = TokenGrant(**{"access_token": "ya29.SENTINEL", "expires_in": 60, **grant})
        upsert_integration(session, user_id=user_id, provider="google", grant=given, model=model)


@pytest.mark.parametrize(("model", "owner"), [(Connection, USER), (Number, 7), (Text, "u1")])
def test_keys_of_every_type(
    sessions: sessionmaker[Session], oauth_provider: Provider, model: type[IntegrationMixin], owner: Any
) -> None:
    token, client = oauth_provider.grant(), oauth_provider.client()
    whose: dict[str, Any] = {"user_id": owner, "provider": "google", "model": model}
    for _ in range(2):
        connect(
            sessions, model, owner, access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0
        )
    assert get_valid_token(sessions, **whose, client=client) == oauth_provider.tokens[-1].access_token
    with sessions() as session:
        shown = IntegrationPublic.model_validate(session.scalars(select(model)).one())
        assert shown.user_id == owner
    disconnect_integration(sessions, **whose, client=client)


@pytest.mark.parametrize(
    ("model", "owner", "others"),
    [
        (Text, "u1", ["u1 ", 0, False, 1, b"u1", "u1\0", "\ud800", uuid.uuid4()]),
        (Number, 5, ["5", "5abc", " 5", 5.0, True, USER]),
        (Connection, USER, [str(USER), USER.hex, USER.int, 0]),
    ],
)
def test_what_only_compares_as_equal_names_no_row(
    sessions: sessionmaker[Session],
    oauth_provider: Provider,
    model: type[IntegrationMixin],
    owner: Any,
    others: list[Any],
) -> None:
    connect(sessions, model, owner)
    client = oauth_provider.client()
    for other in others:
        whose = {"user_id": other, "provider": "google", "model": model, "client": client}
        with pytest.raises(IntegrationError, match="user_id does not name one row"):
            get_valid_token(sessions, **whose)
        with pytest.raises(IntegrationError, match="user_id does not name one row"):
            disconnect_integration(sessions, **whose)
        with pytest.raises(IntegrationError, match="user_id does not name one row"):
            connect(sessions, model, other)
    for name in ("provider", "account"):
        whose = {"user_id": owner, "provider": "google", "model": model, "client": client}
        with pytest.raises(IntegrationError, match=f"{name} does not name one row"):
            get_valid_token(sessions, **{**whose, name: "google "})
    with sessions() as session:
        assert len(session.scalars(select(model)).all()) == 1


def test_a_scope_that_is_too_long_costs_no_token(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    token = oauth_provider.grant()
    oauth_provider.make = lambda scope="": {**type(oauth_provider).make(oauth_provider), "scope": "x" * 50}  # type: ignore[method-assign]
    given = {"access_token": token.access_token, "refresh_token": token.refresh_token, "expires_in": 0}
    connect(sessions, Number, 7, **given, scope="y" * 50, token_type="z" * 7)
    for _ in range(2):
        got = get_valid_token(sessions, user_id=7, provider="google", client=oauth_provider.client(), model=Number)
    assert got == oauth_provider.tokens[-1].access_token
    with sessions() as session:
        found = session.scalars(select(Number)).one()
        assert (found.scope, found.token_type) == (None, "Bearer")


def test_inheritance_is_refused(sessions: sessionmaker[Session]) -> None:
    with pytest.raises(IntegrationError, match="part of an inheritance"):
        connect(sessions, Base, "u1")


class Guid(TypeDecorator[uuid.UUID]):
    """SQLAlchemy's recipe."""

    impl = CHAR(32)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value and value.hex

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return value and uuid.UUID(value)


class Json(TypeDecorator[str]):
    impl = JSON
    cache_ok = True


class Odd(IntegrationMixin, Own):
    __tablename__ = "own_odd"
    user_id: Mapped[uuid.UUID] = mapped_column(Guid)  # type: ignore[assignment]
    scope: Mapped[str | None] = mapped_column(Json)
    created_at: Mapped[int] = mapped_column(default=5)  # type: ignore[assignment]
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime(timezone=False))


class WithMethods(Text):
    """Another class for the same table."""


def test_models_of_ones_own_work(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    engine = sessions.kw["bind"]
    if engine.dialect.name == "postgresql":
        event.listen(engine, "connect", lambda driver, _: driver.execute("SET TIME ZONE 'Asia/Tokyo'"))
        engine.dispose()
    for model, owner in ((Odd, USER), (WithMethods, "u1")):
        token = oauth_provider.grant()
        given = {"access_token": token.access_token, "refresh_token": token.refresh_token, "expires_in": 0}
        connect(sessions, model, owner, **given, scope="calendar")
        whose: dict[str, Any] = {"user_id": owner, "provider": "google", "model": model}
        for _ in range(2):
            got = get_valid_token(sessions, **whose, client=oauth_provider.client())
            assert got == oauth_provider.tokens[-1].access_token
        with sessions() as session:
            updated = session.scalars(select(model.updated_at)).one()
            assert abs(updated - datetime.now(UTC)) < timedelta(minutes=1)
        disconnect_integration(sessions, **whose, client=oauth_provider.client())


def test_a_schema_for_each_tenant_works(postgresql_url: str, oauth_provider: Provider) -> None:
    engine = attach_key_ring(create_engine(postgresql_url), KeyRing(primary=Key.generate()))
    schema = f"tenant_{uuid.uuid4().hex[:8]}"
    mine = engine.execution_options(schema_translate_map={None: schema})
    with mine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
        Own.metadata.create_all(connection)
    sessions = sessionmaker(mine)
    connect(sessions, Text, "u1")
    disconnect_integration(sessions, user_id="u1", provider="google", client=oauth_provider.client(), model=Text)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


def test_a_dictionary_is_no_grant(sessions: sessionmaker[Session]) -> None:
    wrong: Any = {"access_token": "ya29.SENTINEL-token"}
    with sessions() as session, pytest.raises(IntegrationError, match="not a TokenGrant") as caught:
        upsert_integration(session, user_id="u1", provider="google", grant=wrong, model=Text)
    assert_silent(caught.value, "ya29.SENTINEL-token")


def test_marks_of_a_table_of_ones_own_can_be_cleared(sessions: sessionmaker[Session]) -> None:
    engine = sessions.kw["bind"]
    connect(sessions, Text, "u1")
    with engine.begin() as connection:
        connection.execute(text("UPDATE own_texts SET failures = 3, last_error = 'invalid_grant'"))
        if engine.dialect.name == "sqlite":
            connection.execute(text("ALTER TABLE own_texts RENAME COLUMN provider TO service"))
        elif engine.dialect.name == "postgresql":
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS elsewhere"))
            connection.execute(text("ALTER TABLE own_texts SET SCHEMA elsewhere"))
    name = "elsewhere.own_texts" if engine.dialect.name == "postgresql" else "own_texts"
    assert retry(engine, name, code="invalid_grant") == 1
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA elsewhere CASCADE"))


def test_sessions_of_the_other_kind_are_refused(sessions: sessionmaker[Session], oauth_provider: Provider) -> None:
    whose: dict[str, Any] = {"user_id": "u1", "provider": "google", "client": oauth_provider.client(), "model": Text}
    wrong: Any = async_sessionmaker()
    with pytest.raises(IntegrationError, match=r"this function needs sessionmaker\(engine\)"):
        get_valid_token(wrong, **whose)
    other: Any = sessions
    asked = get_valid_token_async(other, **whose)
    with pytest.raises(IntegrationError, match=r"this function needs async_sessionmaker\(engine\)"):
        asked.send(None)
