"""Values round-trip through every SQLAlchemy code path, and the database only sees ciphertext."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    bindparam,
    delete,
    event,
    func,
    insert,
    inspect,
    literal,
    make_url,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    aliased,
    mapped_column,
    registry,
)

from sealchemy import DecryptionError, EncryptedString, Key, KeyRing, SecretString, attach_key_ring
from tests.support.models import Account, create

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

VALUES = ["token", "", "🔑 ключ", "a" * 65_536, "line\nbreak\0nul", "'quoted' %s \\ \" ;--"]


@pytest.fixture
def accounts(engine: Engine) -> Engine:
    return create(engine)


def stored(engine: Engine, column: str = "token") -> list[Any]:
    with engine.connect() as connection:
        return list(connection.scalars(text(f"SELECT {column} FROM accounts ORDER BY id")))


def assert_encrypted(engine: Engine, column: str = "token") -> None:
    values = stored(engine, column)
    assert values
    assert all(value is None or value.startswith("sealchemy:v1:") for value in values)


@pytest.mark.parametrize("value", VALUES, ids=["plain", "empty", "emoji", "64 KiB", "control", "quotes"])
def test_orm_insert_and_load(accounts: Engine, value: str) -> None:
    with Session(accounts) as session:
        session.add(Account(id=1, token=value, refresh=None))
        session.commit()
        assert session.get_one(Account, 1).token == value
    with Session(accounts) as session:
        loaded = session.scalars(select(Account)).one()
        assert (loaded.token, loaded.refresh) == (value, None)
        assert isinstance(loaded.token, SecretString)
    assert_encrypted(accounts)
    assert stored(accounts, "refresh") == [None]


def test_core_insert_many_returning(accounts: Engine) -> None:
    rows = [{"name": str(number), "token": f"t{number}", "refresh": None} for number in range(2500)]
    with accounts.begin() as connection:
        returned = connection.execute(insert(Account).returning(Account.name, Account.token), rows).all()
        assert sorted(returned) == sorted((row["name"], row["token"]) for row in rows)
        connection.execute(insert(Account), [{"token": "x"}, {"token": "y"}])
    assert_encrypted(accounts)


def test_orm_bulk_insert_and_update(accounts: Engine) -> None:
    with Session(accounts) as session:
        session.execute(insert(Account), [{"token": f"t{number}"} for number in range(1, 1200)])
        returned = session.scalars(
            insert(Account).returning(Account, sort_by_parameter_order=True), [{"token": "r1"}, {"token": "r2"}]
        ).all()
        assert [item.token for item in returned] == ["r1", "r2"]
        session.execute(update(Account), [{"id": 1, "token": "changed"}, {"id": 2, "token": "too"}])
        session.commit()
        assert [session.get_one(Account, number).token for number in (1, 2, 3)] == ["changed", "too", "t3"]
    assert_encrypted(accounts)


@pytest.mark.parametrize("synchronize", ["auto", "evaluate", "fetch", False])
def test_orm_update_values(accounts: Engine, synchronize: str | bool) -> None:
    with Session(accounts) as session:
        account = Account(id=1, name="n", token="old", refresh="r")
        session.add(account)
        session.commit()
        session.refresh(account)
        statement = update(Account).where(Account.name == "n").values(token="new")
        session.execute(statement, execution_options={"synchronize_session": synchronize})
        if synchronize is not False:
            assert account.token == "new"
        session.commit()
        session.query(Account).filter(Account.id == 1).update({"refresh": "newer"}, synchronize_session=synchronize)  # type: ignore[arg-type]
        session.query(Account).filter(Account.id == 1).update({Account.token: "newest"})
        session.commit()
        assert (account.token, account.refresh) == ("newest", "newer")
    assert_encrypted(accounts)


def test_upsert_with_excluded_and_returning(accounts: Engine) -> None:
    dialect = postgresql if accounts.dialect.name == "postgresql" else sqlite
    base = dialect.insert(Account)
    statement = base.on_conflict_do_update(
        index_elements=[Account.name], set_={"token": base.excluded.token, "refresh": "again"}
    )
    with Session(accounts) as session:
        for token in ("first", "second"):
            returned = session.scalars(
                statement.returning(Account),
                [{"name": "n", "token": token}],
                execution_options={"populate_existing": True},
            ).all()
            assert [item.token for item in returned] == [token]
        session.commit()
        assert session.execute(select(Account.token, Account.refresh)).all() == [("second", "again")]
    assert_encrypted(accounts, "refresh")


def test_update_returning_and_column_to_column(accounts: Engine) -> None:
    with accounts.begin() as connection:
        connection.execute(insert(Account), [{"id": 1, "token": "a"}, {"id": 2, "token": "b"}])
        changed = connection.execute(update(Account).values(token="c").returning(Account.id, Account.token)).all()
        assert sorted(changed) == [(1, "c"), (2, "c")]
        one, two = Account.__table__.c, Account.__table__.alias().c
        assert connection.scalar(select(func.count()).where(one.token == two.token, one.id == two.id)) == 2
        assert connection.execute(delete(Account).returning(Account.token)).all() == [("c",), ("c",)]


def test_merge_refresh_expire_and_from_statement(accounts: Engine) -> None:
    with Session(accounts) as session:
        session.merge(Account(id=1, token="one"))
        session.commit()
        merged = session.merge(Account(id=1, token="two", refresh="r"))
        session.commit()
        session.expire(merged)
        assert merged.token == "two"
        statement = select(Account).from_statement(select(Account.__table__))
        assert [item.refresh for item in session.scalars(statement)] == ["r"]
        textual = text("SELECT id, name, token, refresh FROM accounts").columns(*Account.__table__.c)
        assert [item.token for item in session.scalars(select(Account).from_statement(textual))] == ["two"]


def test_unchanged_value_is_not_written_again(accounts: Engine) -> None:
    with Session(accounts) as session:
        session.add(Account(id=1, token="same", refresh="r"))
        session.commit()
        before = stored(accounts)
        account = session.get_one(Account, 1)
        assert account.token == "same"
        account.token = "same"
        session.commit()
    assert stored(accounts) == before


def test_aliases_subqueries_ctes_and_unions(accounts: Engine) -> None:
    with Session(accounts) as session:
        session.add_all([Account(id=1, token="a", refresh="x"), Account(id=2, token="b")])
        session.commit()
        alias = aliased(Account)
        inner = select(Account.id, Account.token.label("secret")).subquery()
        cte = select(Account.token, Account.id).cte()
        for query in (
            select(alias.token).order_by(alias.id),
            select(inner.c.secret).order_by(inner.c.id),
            select(cte.c.token).order_by(cte.c.id),
            select(Account.token.label("other")).order_by(Account.id),
            select(select(Account.token).where(Account.id == alias.id).scalar_subquery())
            .select_from(alias)
            .order_by(alias.id),
        ):
            assert session.scalars(query).all() == ["a", "b"]
        both = union_all(select(Account.token).where(Account.id == 1), select(Account.token).where(Account.id == 2))
        assert sorted(session.scalars(both)) == ["a", "b"]
        assert session.scalar(select(func.count(Account.refresh))) == 1
        assert session.scalars(select(Account.id).where(Account.refresh.is_(None))).all() == [2]


def test_value_pasted_from_another_column_does_not_decrypt(accounts: Engine) -> None:
    with accounts.begin() as connection:
        connection.execute(insert(Account), {"token": "a", "refresh": "b"})
        connection.execute(text("UPDATE accounts SET token = refresh"))
        with pytest.raises(DecryptionError, match=r"accounts\.token"):
            connection.execute(select(Account.token)).all()
        assert connection.scalars(select(Account.refresh)).all() == ["b"]


def test_contexts_are_not_shared_through_the_statement_cache(engine: Engine) -> None:
    types = [EncryptedString("a.token"), EncryptedString("b.token")]
    ring = KeyRing(primary=Key.generate())
    attach_key_ring(engine, ring)
    with engine.connect() as connection:
        for _ in range(3):
            for type_ in types:
                assert connection.scalar(select(literal("x", type_))) == "x"
                query = select(bindparam("p", type_=type_))
                assert connection.scalar(query, {"p": "y"}) == "y"
        sent: list[Any] = []
        event.listen(engine, "before_cursor_execute", lambda _c, _s, _t, parameters, *_: sent.append(parameters))
        for type_ in types:
            connection.scalar(select(literal("x", type_)))
    values = [next(iter(item.values() if isinstance(item, dict) else item)) for item in sent]
    assert [ring.decrypt(value, type_.context) for value, type_ in zip(values, types, strict=True)] == ["x", "x"]


AnnotatedToken = Annotated[str, mapped_column(EncryptedString("annotated.token"))]


def declare_with_mixin() -> type[Any]:
    class Base(DeclarativeBase):
        pass

    class Mixin:
        token: Mapped[str] = mapped_column(EncryptedString("mixin.token"))

    class Model(Mixin, Base):
        __tablename__ = "models"
        id: Mapped[int] = mapped_column(primary_key=True)

    return Model


def declare_with_annotated() -> type[Any]:
    class Base(DeclarativeBase):
        pass

    class Model(Base):
        __tablename__ = "models"
        id: Mapped[int] = mapped_column(primary_key=True)
        token: Mapped[AnnotatedToken]

    return Model


def declare_with_type_map() -> type[Any]:
    class Token(str):
        __slots__ = ()

    class Base(DeclarativeBase):
        type_annotation_map = {Token: EncryptedString("map.token")}  # noqa: RUF012 - as SQLAlchemy requires

    annotations = {"id": Mapped[int], "token": Mapped[Token]}
    body = {"__tablename__": "models", "__annotations__": annotations, "id": mapped_column(primary_key=True)}
    return type("Model", (Base,), body)


def declare_as_dataclass() -> type[Any]:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Model(Base):
        __tablename__ = "models"
        id: Mapped[int] = mapped_column(primary_key=True, default=None)
        token: Mapped[str] = mapped_column(EncryptedString("dataclass.token"), default="")

    return Model


def declare_imperatively() -> type[Any]:
    class Model:
        def __init__(self, **values: object) -> None:
            for name, value in values.items():
                setattr(self, name, value)

    mappers = registry()
    table = Table(
        "models",
        mappers.metadata,
        Column("id", Integer, primary_key=True),
        Column("token", EncryptedString("imperative.token")),
    )
    mappers.map_imperatively(Model, table)
    Model.metadata = mappers.metadata  # type: ignore[attr-defined]
    return Model


def declare_with_single_table_inheritance() -> type[Any]:
    class Base(DeclarativeBase):
        pass

    class Parent(Base):
        __tablename__ = "models"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        token: Mapped[str] = mapped_column(EncryptedString("parent.token"))
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "parent"}  # noqa: RUF012

    class Child(Parent):
        own: Mapped[str | None] = mapped_column(EncryptedString("child.own"))
        __mapper_args__ = {"polymorphic_identity": "child"}  # noqa: RUF012

    return Child


@pytest.mark.parametrize(
    "declare",
    [
        declare_with_mixin,
        declare_with_annotated,
        declare_with_type_map,
        declare_as_dataclass,
        declare_imperatively,
        declare_with_single_table_inheritance,
    ],
)
def test_every_declaration_style_round_trips(
    make_engine: Callable[..., Engine], declare: Callable[[], type[Any]]
) -> None:
    model = declare()
    engine = make_engine()
    model.metadata.create_all(engine)
    item = model(token="secret")
    assert isinstance(item.token, SecretString)
    with Session(engine) as session:
        session.add(item)
        session.commit()
        assert session.scalars(select(model)).one().token == "secret"
        assert session.scalar(text("SELECT token FROM models")).startswith("sealchemy:v1:")


def test_mapped_subquery_is_decrypted(make_engine: Callable[..., Engine]) -> None:
    class View:
        pass

    engine = create(make_engine())
    subquery = select(Account.__table__).subquery()
    mappers = registry()
    mappers.map_imperatively(View, subquery, primary_key=[subquery.c.id])
    with Session(engine) as session:
        session.add(Account(token="x"))
        session.commit()
        assert session.scalars(select(View)).one().token == "x"  # type: ignore[attr-defined]


def test_to_metadata_keeps_the_context(make_engine: Callable[..., Engine]) -> None:
    engine, metadata = make_engine(), MetaData()
    table = Account.__table__.to_metadata(metadata, name="copies")
    metadata.create_all(engine)
    assert table.c.token.type.context == "accounts.token"
    with engine.begin() as connection:
        connection.execute(insert(table), {"id": 1, "token": "x"})
        assert connection.scalars(select(table.c.token)).all() == ["x"]


def test_column_is_text_in_every_database(accounts: Engine) -> None:
    types = {column["name"]: column["type"] for column in inspect(accounts).get_columns("accounts")}
    assert str(types["token"]) == "TEXT"


@pytest.mark.parametrize(
    ("url", "expected"),
    [("mysql+pymysql://", "MEDIUMTEXT"), ("mariadb+pymysql://", "MEDIUMTEXT"), ("oracle+oracledb://", "CLOB")],
)
def test_column_is_a_large_text_type_in_other_databases(url: str, expected: str) -> None:
    dialect = make_url(url).get_dialect()()
    assert EncryptedString("a.b").compile(dialect=dialect) == expected


class Masked(str):
    """A `str` whose `str()` differs from its content, as with a `str` enum."""

    __slots__ = ()

    def __str__(self) -> str:
        return "***"


class Provider(str, Enum):  # noqa: UP042 - as applications write it
    """`str()` of a member returns its name."""

    TOKEN = "ya29.token"


@pytest.mark.parametrize("value", [Masked("ya29.token"), Provider.TOKEN], ids=["masked", "enum"])
def test_str_subclass_is_stored_by_content_not_by_its_str_method(engine: Engine, value: str) -> None:
    create(engine)
    with Session(engine) as session:
        session.add(Account(id=1, token=value))
        session.commit()
        session.execute(insert(Account), [{"id": 2, "token": value}])
        assert session.scalars(select(Account.token)).all() == ["ya29.token"] * 2
