"""Secrets in pydantic and SQLModel: fields, serialization, reprs, and objects with `get_secret_value()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, TypeAdapter, ValidationError
from sqlalchemy import Column, select
from sqlmodel import Field, Session, SQLModel

import sealchemy
from sealchemy import (
    AlreadyEncryptedError,
    EncryptedJSON,
    EncryptedString,
    Key,
    KeyFormatError,
    KeyRing,
    PlaintextTypeError,
    SecretString,
)
from tests.support.leaks import SENTINEL
from tests.support.models import Account, create

if TYPE_CHECKING:
    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())


class Payload(BaseModel):
    token: SecretString
    tokens: list[SecretString] = []
    maybe: SecretString | None = None


@pytest.mark.parametrize("given", [SENTINEL, SecretStr(SENTINEL), SecretString(SENTINEL)])
def test_field_takes_text_and_secrets(given: Any) -> None:
    payload = Payload(token=given, tokens=[given])
    assert payload.token == SENTINEL
    assert type(payload.token) is type(payload.tokens[0]) is SecretString
    assert SENTINEL not in repr(payload)
    assert SENTINEL not in str(payload)
    assert SENTINEL not in repr(payload.model_dump())


def test_json_has_three_stars_unless_asked() -> None:
    payload = Payload(token=SecretString(SENTINEL), tokens=[SecretString(SENTINEL)])
    assert payload.model_dump_json() == '{"token":"***","tokens":["***"],"maybe":null}'
    assert payload.model_dump(mode="json") == {"token": "***", "tokens": ["***"], "maybe": None}
    for context in ({}, {"reveal_secrets": 1}, {"other": True}):
        assert SENTINEL not in payload.model_dump_json(context=context)
    revealed = payload.model_dump_json(context={"reveal_secrets": True})
    assert revealed.count(SENTINEL) == 2
    assert Payload.model_validate_json(revealed) == payload


def test_python_dump_keeps_the_secret() -> None:
    payload = Payload(token=SecretString(SENTINEL))
    assert Payload(**payload.model_dump()) == payload  # and not three stars in place of the token
    assert type(payload.model_dump()["token"]) is SecretString


@pytest.mark.parametrize("given", [5, None, SecretStr, ["x"], {"x": 1}])
def test_field_refuses_anything_else(given: Any) -> None:
    with pytest.raises(ValidationError):
        Payload(token=given)


def test_three_stars_that_come_back_do_not_replace_a_secret() -> None:
    sent = Payload(token=SecretString(SENTINEL)).model_dump_json()
    with pytest.raises(ValidationError, match="three stars"):
        Payload.model_validate_json(sent)
    with pytest.raises(ValidationError, match="three stars"):
        Payload(token="***")


def test_other_members_of_a_union_are_serialized_as_they_are() -> None:
    class Model(BaseModel):
        token: SecretString | int

    assert Model(token=5).model_dump_json() == '{"token":5}'
    assert Model(token=SENTINEL).model_dump_json() == '{"token":"***"}'


def test_bytes_are_a_field_type_as_well() -> None:
    class Model(BaseModel):
        data: sealchemy.SecretBytes

    for given in (SENTINEL.encode(), SecretBytes(SENTINEL.encode())):
        model = Model(data=given)
        assert (type(model.data), model.data) == (sealchemy.SecretBytes, SENTINEL.encode())
        assert SENTINEL not in repr(model)
        assert model.model_dump_json() == '{"data":"***"}'
        assert SENTINEL in model.model_dump_json(context={"reveal_secrets": True})
    with pytest.raises(ValidationError):
        Model(data=5)


def test_schema_is_that_of_a_password() -> None:
    schema = TypeAdapter(SecretString).json_schema()
    assert schema == {"type": "string", "format": "password", "writeOnly": True}
    assert Payload.model_json_schema(mode="serialization")["properties"]["token"]["format"] == "password"


def test_objects_with_get_secret_value_are_taken_wherever_text_is(engine: Engine) -> None:
    key = Key.generate()
    assert Key.parse(SecretStr(key.reveal())) == key  # type: ignore[arg-type]
    stored = RING.encrypt(SecretStr("token"), "a.b")  # type: ignore[arg-type]
    assert RING.decrypt(SecretStr(stored), SecretStr("a.b")) == "token"  # type: ignore[arg-type]
    environment = {"P_KEY": SecretStr(key.reveal())}
    assert KeyRing.from_env("P", environment).primary == key  # type: ignore[arg-type]
    create(engine)
    with Session(engine) as session:
        account = Account(id=1, token=SecretStr("one"))
        session.add(account)
        assert account.token == "one"
        session.flush()
        session.execute(Account.__table__.insert(), [{"id": 2, "token": SecretStr("two")}])
        session.execute(Account.__table__.insert().values(id=3, token=SecretStr("three")))
        session.execute(Account.__table__.update().where(Account.id == 3).values(refresh=SecretStr("four")))
        assert list(session.scalars(select(Account.token).order_by(Account.id))) == ["one", "two", "three"]
        with pytest.raises(AlreadyEncryptedError):
            Account.token.type.bind_processor(engine.dialect)(SecretStr(stored))


@pytest.mark.parametrize("given", [SecretStr("token\ud800"), SecretBytes(b"SENTINEL"), Payload])
def test_what_is_inside_is_checked(given: Any) -> None:
    with pytest.raises(PlaintextTypeError) as caught:
        RING.encrypt(given, "a.b")
    assert "SENTINEL" not in str(caught.value)
    with pytest.raises(KeyFormatError):
        Key.parse(given)


class Hero(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    token: str = Field(sa_column=Column(EncryptedString("hero.token")))
    secret: SecretString | None = Field(default=None, sa_type=EncryptedString("hero.secret"))  # type: ignore[call-overload]
    grant: Any = Field(default=None, sa_column=Column(EncryptedJSON("hero.grant")))
    name: str = "name"


class Validating(SQLModel, table=True):
    model_config = ConfigDict(validate_assignment=True)
    id: int | None = Field(default=None, primary_key=True)
    token: str = Field(sa_column=Column(EncryptedString("validating.token")))


def test_sqlmodel_prints_no_token(engine: Engine) -> None:
    SQLModel.metadata.create_all(engine)
    hero = Hero(token=SENTINEL, secret=SENTINEL, grant={"token": SENTINEL})
    for show in (repr, str, lambda item: repr(item.__repr_args__())):
        assert SENTINEL not in show(hero)
        assert "name" in show(hero)
    hero.token, hero.secret, hero.grant = SENTINEL + "2", SecretString(SENTINEL + "2"), [SENTINEL]
    assert SENTINEL not in repr(hero)
    with Session(engine) as session:
        session.add(hero)
        session.commit()
        session.refresh(hero)
        assert SENTINEL not in repr(hero)
        assert (hero.token, hero.secret, hero.grant) == (SENTINEL + "2", SENTINEL + "2", [SENTINEL])
    other = Validating(token=SENTINEL)
    other.token = SENTINEL
    assert SENTINEL not in repr(other)


def test_sqlmodel_validates_from_a_request_model(engine: Engine) -> None:
    SQLModel.metadata.create_all(engine)

    class HeroCreate(SQLModel):
        token: SecretString
        secret: SecretString | None = None

    hero = Hero.model_validate(HeroCreate(token=SENTINEL, secret=SecretStr(SENTINEL)))
    hero.sqlmodel_update(HeroCreate(token=SENTINEL + "new").model_dump(exclude_unset=True))
    with Session(engine) as session:
        session.add(hero)
        session.commit()
        session.refresh(hero)
        assert (hero.token, hero.secret) == (SENTINEL + "new", SENTINEL)
    assert HeroCreate(token=SENTINEL).model_dump_json() == '{"token":"***","secret":null}'
