"""`EncryptedJSON` and `EncryptedBytes`: round trips, refusals and rollout stages, on every database."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import json
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretBytes as PydanticBytes
from pydantic import SecretStr
from sqlalchemy import (
    JSON,
    LargeBinary,
    MetaData,
    String,
    Uuid,
    bindparam,
    func,
    insert,
    literal,
    make_url,
    null,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.ext.mutable import MutableDict, MutableList
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy_json import mutable_json_type

from sealchemy import (
    AlreadyEncryptedError,
    DecryptionError,
    EncryptedBytes,
    EncryptedJSON,
    EncryptedString,
    EnvelopeFormatError,
    Key,
    KeyRing,
    PlaintextFoundError,
    PlaintextTypeError,
    Rollout,
    SecretBytes,
    SecretString,
    UnsupportedOperationError,
    attach_key_ring,
)
from sealchemy.testing import assert_encrypted
from tests.support.leaks import frames_of, said_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
TOKEN = {
    "access_token": "ya29.SENTINEL",
    "scope": ["email", "ключ"],
    "expires_in": 3599,
    "extra": {"a": None, "b": True},
}


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[Any] = mapped_column(EncryptedJSON("accounts.token"))
    data: Mapped[bytes | None] = mapped_column(EncryptedBytes("accounts.data"))
    tracked: Mapped[Any] = mapped_column(MutableDict.as_mutable(EncryptedJSON("accounts.tracked")), nullable=True)
    items: Mapped[Any] = mapped_column(MutableList.as_mutable(EncryptedJSON("accounts.items")), nullable=True)
    nested: Mapped[Any] = mapped_column(mutable_json_type(EncryptedJSON("accounts.nested"), nested=True), nullable=True)
    plain: Mapped[Any] = mapped_column(JSON, nullable=True)
    note: Mapped[str | None] = mapped_column(String(200))


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def engine(url: str, make_engine: Callable[..., Engine]) -> Engine:
    engine = make_engine(url, RING)
    Base.metadata.create_all(engine)
    return engine


def stored(engine: Engine, column: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.scalars(text(f"SELECT {column} FROM accounts ORDER BY id")))


def read(engine: Engine, column: Any) -> list[Any]:
    with Session(engine) as session:
        return list(session.scalars(select(column).order_by(Account.id)))


JSON_VALUES: list[Any] = [
    TOKEN,
    [],
    {},
    "text",
    0,
    1.5,
    True,
    False,
    ["a", ["b", {"c": "d"}]],
    {"": "\0"},
    "sealchemy:v1:x",
]
BYTES_VALUES = [b"", b"\0\xff\xfe", b"text", bytes(range(256)), b"a" * 65_536, b"\\x00", b"%s ' \\"]


@pytest.mark.parametrize("value", JSON_VALUES, ids=repr)
def test_json_round_trip(engine: Engine, value: Any) -> None:
    with Session(engine) as session:
        session.add(Account(id=1, token=value))
        session.commit()
        session.execute(insert(Account), [{"id": 2, "token": value}, {"id": 3, "token": value}])
        session.execute(insert(Account).values({"id": 4, "token": value}))
        session.execute(
            insert(Account).values(id=5, token=bindparam("b", type_=EncryptedJSON("accounts.token"))), {"b": value}
        )
        session.commit()
        assert_encrypted(session, Account.token)
    assert read(engine, Account.token) == [value] * 5
    assert all(item.startswith("sealchemy:v1:") for item in stored(engine, "token"))
    assert json.loads(RING.decrypt(stored(engine, "token")[0], "accounts.token")) == value


@pytest.mark.parametrize("value", BYTES_VALUES, ids=lambda value: repr(value[:9]))
def test_bytes_round_trip(engine: Engine, value: bytes) -> None:
    with Session(engine) as session:
        session.add(Account(id=1, token=1, data=value))
        session.commit()
        session.execute(insert(Account), [{"id": 2, "token": 1, "data": value}, {"id": 3, "token": 1, "data": None}])
        session.execute(insert(Account).values(id=4, token=1, data=value))
        session.execute(update(Account).where(Account.id == 3).values(data=value))
        session.commit()
        assert_encrypted(session, Account.data)
    found = read(engine, Account.data)
    assert found == [value] * 4
    assert {type(item) for item in found} == {SecretBytes}
    assert all(item.startswith("sealchemy:v1:") for item in stored(engine, "data"))


def async_url(driver: str, request: pytest.FixtureRequest, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the URL of an empty database for an asynchronous driver, and the arguments to connect with."""
    if driver == "sqlite+aiosqlite":
        return f"{driver}:///{folder / 'a.db'}", {}
    found = make_url(request.getfixturevalue("postgresql_url"))
    if driver == "postgresql+psycopg":
        return found.set(drivername=driver).render_as_string(hide_password=False), {}
    schema = str(found.query["options"]).removeprefix("-csearch_path=")
    url = found.set(drivername=driver, query={}).render_as_string(hide_password=False)
    return url, {"server_settings": {"search_path": schema}}


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg"])
def test_async_round_trip(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url, options = async_url(driver, request, tmp_path)

    async def run() -> tuple[Any, Any]:
        engine = attach_key_ring(create_async_engine(url, connect_args=options), RING)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add(Account(id=1, token=TOKEN, data=b"\0\xff"))
            await session.commit()
            token, data = (await session.execute(select(Account.token, Account.data))).one()
        await engine.dispose()
        return token, data

    assert asyncio.run(run()) == (TOKEN, b"\0\xff")


def test_null_is_null(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Account(id=1, token=[1], data=None, tracked=None))
        session.execute(insert(Account).values(id=2, token=[1], data=null(), tracked=null()))
        session.commit()
        assert session.scalars(select(func.count()).where(Account.tracked.is_(None), Account.data.is_(None))).one() == 2
    assert stored(engine, "tracked") == [None, None]


def test_strings_are_masked_where_they_are_read_and_assigned(engine: Engine) -> None:
    account = Account(id=1, token=dict(TOKEN), data=b"SENTINEL", nested={"a": ["SENTINEL"]})
    assert "SENTINEL" not in repr((account.token, account.data, account.nested))
    with Session(engine) as session:
        session.add(account)
        session.commit()
        session.refresh(account)
        assert "SENTINEL" not in f"{vars(account)!r}{account.data}{account.data!r}"
        assert "email" not in repr(account.token)
        assert type(account.token["access_token"]) is SecretString
        assert json.dumps(account.token) == json.dumps(TOKEN)
        assert bytes(account.data or b"") == b"SENTINEL"
        assert "SENTINEL" not in repr((account.data or b"")[1:])
        assert pickle.loads(pickle.dumps(account.data)) == b"SENTINEL"  # noqa: S301  # noqa: S301


def test_an_assigned_object_may_still_be_filled(engine: Engine) -> None:
    token: dict[str, Any] = {}
    with Session(engine) as session:
        session.add(Account(id=1, token=token))
        token["late"] = "value"
        session.commit()
    assert read(engine, Account.token) == [{"late": "value"}]


@pytest.mark.parametrize("column", ["tracked", "nested"])
def test_changes_inside_are_tracked(engine: Engine, column: str) -> None:
    with Session(engine) as session:
        account = Account(id=1, token=1, items=["a"], **{column: {"a": "b", "c": {"d": "e"}}})
        session.add(account)
        session.commit()
        getattr(account, column)["new"] = "value"
        account.items.append("b")
        session.commit()
        if column == "nested":
            account.nested["c"]["d"] = "f"
            session.commit()
    expected = {"a": "b", "c": {"d": "f" if column == "nested" else "e"}, "new": "value"}
    assert read(engine, getattr(Account, column)) == [expected]
    assert read(engine, Account.items) == [["a", "b"]]


def test_a_tracked_object_that_the_user_made_stays_tracked(engine: Engine) -> None:
    tracked = MutableDict(a="b")
    with Session(engine) as session:
        account = Account(id=1, token=1, tracked=tracked)
        session.add(account)
        session.flush()
        tracked["c"] = "d"
        session.commit()
    assert read(engine, Account.tracked) == [{"a": "b", "c": "d"}]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": {"SENTINEL"}}, r"\$.a"),
        ({1: "SENTINEL"}, r"\$"),
        ([dt.date(2026, 1, 1)], r"\$\[0\]"),
        ({"a": float("nan")}, r"\$.a"),
    ],
)
def test_what_is_not_json_is_refused_by_path(engine: Engine, value: Any, path: str) -> None:
    with Session(engine) as session:
        for write in (
            lambda: session.execute(insert(Account), {"id": 1, "token": value}),
            lambda: session.execute(insert(Account).values(id=1, token=value)),
            lambda: session.add(Account(id=1, token=value)) or session.flush(),
        ):
            with pytest.raises(
                PlaintextTypeError, match=rf"accounts\.token: takes JSON, and {path} (is|has)"
            ) as caught:
                write()
            assert "SENTINEL" not in str(caught.value)
            session.rollback()


@pytest.mark.parametrize("value", [object(), {1, 2}, dt.date(2026, 1, 1), b"x", JSON.NULL])
def test_json_attribute_refuses_what_cannot_become_json(value: Any) -> None:
    with pytest.raises(PlaintextTypeError, match=r"token: an encrypted attribute takes JSON, and \$ is"):
        Account(token=value)


@pytest.mark.parametrize("value", ["text", 1, bytearray(b"x"), ["a"]])
def test_bytes_refuse_what_is_not_bytes(engine: Engine, value: Any) -> None:
    with pytest.raises(PlaintextTypeError, match="data: an encrypted attribute takes bytes or None, not"):
        Account(data=value)
    with engine.connect() as connection, pytest.raises(PlaintextTypeError, match=r"accounts\.data: takes bytes"):
        connection.execute(insert(Account), {"id": 1, "token": 1, "data": value})


def test_bytes_that_are_an_encrypted_value_are_refused(engine: Engine) -> None:
    value = RING.encrypt("x", "a.b").encode()
    with engine.connect() as connection, pytest.raises(AlreadyEncryptedError, match=r"accounts\.data"):
        connection.execute(insert(Account), {"id": 1, "token": 1, "data": value})


def test_objects_with_get_secret_value_are_taken(engine: Engine) -> None:
    with Session(engine) as session:
        account = Account(id=1, token={"a": SecretStr("SENTINEL")}, data=PydanticBytes(b"SENTINEL"))
        session.add(account)
        session.execute(insert(Account), {"id": 2, "token": SecretStr("SENTINEL"), "data": PydanticBytes(b"SENTINEL")})
        session.commit()
    assert read(engine, Account.token) == [{"a": "SENTINEL"}, "SENTINEL"]
    assert read(engine, Account.data) == [b"SENTINEL"] * 2


@pytest.mark.parametrize(
    "statement",
    [
        lambda: select(Account.token["a"]),
        lambda: select(Account.id).where(Account.token == {"a": 1}),
        lambda: select(Account.id).where(Account.data == b"x"),
        lambda: select(Account.token).order_by(Account.token),
        lambda: select(func.length(Account.data)),
        lambda: insert(Account).values(id=1, token=func.json_object("a")),
        lambda: insert(Account).values(id=1, token=1, data=func.coalesce(b"x")),
        lambda: insert(Account).values(id=1, token=literal(1)),
        lambda: select(Account.data.op("||")(b"x")),
        lambda: select(Account.token.contains("a")),
    ],
)
def test_operators_are_refused(engine: Engine, statement: Callable[[], Any]) -> None:
    with engine.connect() as connection, pytest.raises(UnsupportedOperationError, match=r"accounts\.(token|data)"):
        connection.execute(statement())


@pytest.mark.parametrize("value", [SecretBytes(b"x"), [SecretBytes(b"x")]])
def test_secret_bytes_do_not_pass_to_another_column(engine: Engine, value: Any) -> None:
    with engine.connect() as connection, pytest.raises(UnsupportedOperationError, match="SecretBytes"):
        connection.exec_driver_sql("SELECT 1", (value,))


def test_literals_are_rendered_as_ciphertext(engine: Engine) -> None:
    statement = insert(Account).values(id=1, token={"a": "SENTINEL"}, data=b"SENTINEL")
    sql = str(statement.compile(engine, compile_kwargs={"literal_binds": True}))
    assert "SENTINEL" not in sql
    with engine.begin() as connection:
        connection.exec_driver_sql(sql.replace("%", "%%"))
    assert read(engine, Account.token) == [{"a": "SENTINEL"}]
    assert read(engine, Account.data) == [b"SENTINEL"]
    with pytest.raises(PlaintextTypeError) as caught:
        insert(Account).values(data="SENTINEL").compile(engine, compile_kwargs={"literal_binds": True})
    assert "SENTINEL" not in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "reads"), [(Rollout.PREPARE, True), (Rollout.MIGRATE, True), (Rollout.STRICT, False)]
)
def test_stages(engine: Engine, stage: Rollout, reads: bool) -> None:
    attach_key_ring(engine, RING, rollout=stage)
    with engine.begin() as connection:
        connection.execute(insert(Account), {"id": 1, "token": TOKEN, "data": b"\0\xff"})
    if stage is Rollout.PREPARE:
        assert json.loads(stored(engine, "token")[0]) == TOKEN
        assert stored(engine, "data") == [r"\x00ff"]
    else:
        assert stored(engine, "data")[0].startswith("sealchemy:")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO accounts (id, token, data) VALUES (2, :token, :data)"),
            {"token": ' {"a": "b"}', "data": r"\x00FF"},
        )
    if not reads:
        for column in (Account.token, Account.data):
            with pytest.raises(PlaintextFoundError):
                read(engine, column)
        return
    assert read(engine, Account.token) == [TOKEN, {"a": "b"}]
    assert read(engine, Account.data) == [b"\0\xff"] * 2
    with engine.begin() as connection:
        connection.execute(text("UPDATE accounts SET token = 'SENTINEL', data = 'SENTINEL'"))
    for column in (Account.token, Account.data):
        with pytest.raises(EnvelopeFormatError) as caught:
            read(engine, column)
        assert "SENTINEL" not in str(caught.value)


def test_values_of_other_types_under_one_context_are_refused(engine: Engine) -> None:
    encrypt = EncryptedBytes("accounts.token").bind_processor(engine.dialect)
    text_of = EncryptedString("accounts.data").bind_processor(engine.dialect)
    parameters = [{"token": encrypt(b"\xff"), "data": text_of("text")}, {"token": encrypt(b"not json"), "data": None}]
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO accounts (token, data) VALUES (:token, :data)"), parameters)
    with pytest.raises(DecryptionError, match="not JSON: a column"):
        read(engine, Account.token)
    with pytest.raises(DecryptionError, match="not text: a column"):
        EncryptedString("accounts.token").result_processor(engine.dialect, None)(parameters[0]["token"])


def test_two_types_may_share_an_engine_and_a_context(engine: Engine) -> None:
    one, two = EncryptedJSON("a.b"), EncryptedString("a.b")
    dialect = engine.dialect
    written = one.bind_processor(dialect)({"a": 1})
    assert two.result_processor(dialect, None)(written) == '{"a":1}'
    assert one.result_processor(dialect, None)(written) == {"a": 1}


def test_sqlite_values_of_other_types_are_read_in_stage_migrate(
    tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'old.db'}", RING, rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE accounts (id INTEGER PRIMARY KEY, token JSON, data BLOB)"))
        connection.execute(text("INSERT INTO accounts VALUES (1, '12', x'00FF'), (2, '1.5', x'')"))
    assert stored(engine, "token") == [12, 1.5]  # SQLite's column type JSON makes numbers of text
    assert read(engine, Account.token) == [12, 1.5]
    assert read(engine, Account.data) == [b"\0\xff", b""]
    with engine.begin() as connection:  # what starts as encrypted values do is never taken for plaintext
        value = RING.encrypt("x", "accounts.data").encode()
        connection.execute(text("UPDATE accounts SET data = :value"), {"value": value})
    with pytest.raises(EnvelopeFormatError):
        read(engine, Account.data)
    attach_key_ring(engine, RING)
    with pytest.raises(PlaintextFoundError):
        read(engine, Account.token)


class Plain(DeclarativeBase):
    metadata = MetaData()


class Other(Plain):
    __tablename__ = "others"

    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes | None] = mapped_column(LargeBinary)
    uuid: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    document: Mapped[Any] = mapped_column(JSON, nullable=True)


def test_a_secret_does_not_pass_where_a_plain_type_converts_it(engine: Engine) -> None:
    Plain.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Account(id=1, token="3e3e3e3e-0000-4000-8000-000000000000", data=b"SENTINEL"))
        session.add(Other(id=1))
        session.commit()
        token, data = session.execute(select(Account.token, Account.data)).one()
        for values in ({"data": data}, {"uuid": token}, {"document": token}):
            for write in (
                lambda values=values: session.execute(update(Other).values(**values)),
                lambda values=values: session.execute(insert(Other), [{"id": 7, **values}, {"id": 8, **values}]),
                lambda values=values: session.add(Other(id=9, **values)) or session.flush(),
            ):
                with pytest.raises(UnsupportedOperationError, match="SecretBytes"):
                    write()
                session.rollback()
        session.execute(update(Other).values(data=bytes(data), uuid=str(token), document=str(token)))


def test_parts_of_an_assigned_document_can_be_stored_elsewhere(engine: Engine) -> None:
    payload: dict[str, Any] = {"token": "SENTINEL", "name": "Bob", "scopes": ["a", "b"]}
    with Session(engine) as session:
        account = Account(id=1, token=payload, plain=payload["scopes"])
        assert "SENTINEL" not in repr(payload)
        account.note = payload["name"]
        session.add(account)
        session.commit()
        assert (account.note, account.plain) == ("Bob", ["a", "b"])
        session.execute(update(Account).values(note=payload["name"]))
        session.commit()
    copied = copy.deepcopy(payload)
    assert copied == payload
    assert "SENTINEL" not in repr(copied)
    restored = pickle.loads(pickle.dumps(payload))  # noqa: S301
    assert restored == payload
    assert type(restored["name"]) is SecretString


@pytest.mark.parametrize("stage", Rollout)
def test_a_core_statement_leaves_the_object_as_it_is(engine: Engine, stage: Rollout) -> None:
    attach_key_ring(engine, RING, rollout=stage)
    payload = {"token": "text"}
    with engine.begin() as connection:
        connection.execute(insert(Account).values(id=1, token=payload))
        connection.execute(insert(Account), [{"id": 2, "token": payload}, {"id": 3, "token": payload}])
    assert type(payload["token"]) is str


def nested(depth: int) -> Any:
    value: Any = "SENTINEL"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [3000, 100_000])
def test_a_document_that_is_too_deep_is_refused_and_not_shown(engine: Engine, depth: int) -> None:
    value = {"token": "SENTINEL", "deep": nested(depth)}
    with Session(engine) as session:
        for write in (
            lambda: session.execute(insert(Account), {"id": 1, "token": value}),
            lambda: session.add(Account(id=1, token=value)) or session.flush(),
        ):
            with pytest.raises(PlaintextTypeError, match="nested too deeply") as caught:
                write()
            assert "SENTINEL" not in said_by(caught.value)
            assert "SENTINEL" not in frames_of(caught.value, package="sealchemy")
            session.rollback()


def test_a_document_that_is_too_deep_for_the_stack_is_not_taken_for_another_type(engine: Engine) -> None:
    process = EncryptedJSON("a.b").result_processor(engine.dialect, None)
    written = EncryptedJSON("a.b").bind_processor(engine.dialect)(nested(700))

    def deep(calls: int) -> Any:
        return deep(calls - 1) if calls else process(written)

    assert process(written) == nested(700)
    with pytest.raises(DecryptionError, match="nested too deeply"):
        deep(sys.getrecursionlimit() - 400)


@pytest.mark.parametrize(("before", "after"), [(1, True), ({"a": 0}, {"a": False}), (1, 1.0), ([1], [True])])
def test_a_change_between_values_that_python_calls_equal_is_written(engine: Engine, before: Any, after: Any) -> None:
    with Session(engine) as session:
        account = Account(id=1, token=before)
        session.add(account)
        session.commit()
        assert account.token == before  # loaded, so SQLAlchemy compares it with the new value
        account.token = after
        session.commit()
        assert json.dumps(session.get_one(Account, 1).token) == json.dumps(after)
        written = stored(engine, "token")
        assert account.token == after
        account.token = copy.deepcopy(after)
        session.commit()
        assert stored(engine, "token") == written  # nothing to write


@pytest.mark.parametrize("stage", Rollout)
@pytest.mark.parametrize(
    "values", [{"token": {1, 2}}, {"token": {1: 2}}, {"token": 1, "data": "x"}, {"token": 1, "data": b"sealchemy:v1:"}]
)
def test_every_stage_refuses_what_could_not_be_encrypted(engine: Engine, stage: Rollout, values: Any) -> None:
    attach_key_ring(engine, RING, rollout=stage)
    with engine.connect() as connection, pytest.raises((PlaintextTypeError, AlreadyEncryptedError)):
        connection.execute(insert(Account), [{"id": 1, **values}])
