"""strawberry publishes the fields that a type has."""

from __future__ import annotations

from typing import Any

import pytest
import strawberry
from sqlalchemy import ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from strawberry_sqlalchemy_mapper import StrawberrySQLAlchemyMapper
from strawberry_sqlalchemy_mapper.exc import UnsupportedColumnType

from sealchemy import EncryptedString, KeyRing, attach_key_ring

# A tracker's test in the same process leaves sentry-sdk's extension in every schema, which warns that it guesses.
pytestmark = pytest.mark.filterwarnings("ignore:Assuming strawberry is running sync")

TOKEN = "ya29.SENTINEL-token"


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    token: Mapped[str | None] = mapped_column(EncryptedString("accounts.token"), deferred=True)
    user: Mapped[User] = relationship(back_populates="accounts")


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    accounts: Mapped[list[Account]] = relationship(back_populates="user")


def schema_of(model: type, *, knows_the_type: bool = False, **attributes: Any) -> strawberry.Schema:
    """Return a schema with a type of the model, made by the mapper."""
    types = {EncryptedString: str} if knows_the_type else None
    mapper: Any = StrawberrySQLAlchemyMapper(extra_sqlalchemy_type_to_strawberry_type_map=types)
    type_ = mapper.type(model)(type(f"{model.__name__}Type", (), attributes))

    def one(info: strawberry.Info) -> Any:
        return info.context["session"].get(model, 1)

    one.__annotations__["return"] = type_  # which is made above
    query = strawberry.type(type("Query", (), {"one": strawberry.field(resolver=one)}))
    mapper.finalize()
    return strawberry.Schema(query=query)


def test_a_token_is_excluded_or_there_is_no_schema(url: str, ring: KeyRing) -> None:
    engine = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(User(accounts=[Account(token=TOKEN)]))
        session.commit()
        with pytest.raises(UnsupportedColumnType):
            schema_of(Account)
        schema = schema_of(Account, __exclude__=["token", "user"])
        assert schema.execute_sync("{ one { id } }", context_value={"session": session}).data == {"one": {"id": 1}}
        refused = schema.execute_sync("{ one { id token } }", context_value={"session": session})
        assert "Cannot query field 'token'" in str(refused.errors)
        assert "token" not in schema.as_str()
    engine.dispose()


def test_a_mapper_that_knows_the_type_publishes_it_through_relationships() -> None:
    with pytest.raises(UnsupportedColumnType):
        schema_of(User)
    assert "token" in schema_of(User, knows_the_type=True).as_str()
