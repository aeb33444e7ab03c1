"""strawberry publishes the fields that a type has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import strawberry
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from strawberry_sqlalchemy_mapper import StrawberrySQLAlchemyMapper

from sealchemy import EncryptedString, attach_key_ring

if TYPE_CHECKING:
    from sealchemy import KeyRing

TOKEN = "ya29.SENTINEL-token"


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str | None] = mapped_column(EncryptedString("accounts.token"), deferred=True)


def schema_of(session: Session, **attributes: Any) -> strawberry.Schema:
    """Return a schema with a type of the model, made by the mapper."""
    mapper: Any = StrawberrySQLAlchemyMapper(extra_sqlalchemy_type_to_strawberry_type_map={EncryptedString: str})
    type_ = mapper.type(Account)(type("AccountType", (), attributes))

    def account() -> Any:
        return session.get(Account, 1)

    account.__annotations__["return"] = type_  # which is made above
    query = strawberry.type(type("Query", (), {"account": strawberry.field(resolver=account)}))
    mapper.finalize()
    return strawberry.Schema(query=query)


def test_a_type_publishes_a_token_unless_it_is_excluded(url: str, ring: KeyRing) -> None:
    engine = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Account(token=TOKEN))
        session.commit()
        assert session.scalar(text("SELECT token FROM accounts")).startswith("sealchemy:v1:")
        session.expunge_all()
        answer = schema_of(session).execute_sync("{ account { id token } }")
        assert answer.data == {"account": {"id": 1, "token": TOKEN}}

        without = schema_of(session, __exclude__=["token"])
        assert without.execute_sync("{ account { id } }").data == {"account": {"id": 1}}
        refused = without.execute_sync("{ account { id token } }")
        assert "Cannot query field 'token'" in str(refused.errors)
        assert "token" not in without.as_str()
    engine.dispose()
