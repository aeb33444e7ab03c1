"""What `bind_to` may name, and what is refused when it is declared."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    Computed,
    Date,
    Enum,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Uuid,
    create_engine,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.ext.declarative import AbstractConcreteBase
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, declared_attr, mapped_column, registry
from sqlalchemy.types import TypeDecorator

from sealchemy import (
    ColumnDefinitionError,
    EncryptedBytes,
    EncryptedJSON,
    EncryptedString,
    Key,
    KeyRing,
    UnsupportedOperationError,
    attach_key_ring,
)
from sealchemy._column.encrypted_type import encrypted_type

if TYPE_CHECKING:
    from collections.abc import Callable

RING = KeyRing(primary=Key.generate())


class Color(enum.Enum):
    RED = 1


class Lowering(String):
    def bind_expression(self, bindvalue: Any) -> Any:
        return func.lower(bindvalue)


class Padding(String):
    def bind_processor(self, _dialect: Any) -> Any:
        return lambda value: value + "x"


class Expressing(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.lower(bindvalue)


def table(part: Column[Any], secret: Any = None) -> Table:
    secret = secret if secret is not None else EncryptedString("t.s", bind_to=("part",))
    return Table("t", MetaData(), Column("id", Integer, primary_key=True), part, Column("s", secret))


REFUSED: dict[str, Callable[[], object]] = {
    "a nullable part": lambda: table(Column("part", Integer)),
    "a date": lambda: table(Column("part", Date, nullable=False)),
    "an enum": lambda: table(Column("part", Enum(Color), nullable=False)),
    "a decimal": lambda: table(Column("part", Numeric, nullable=False)),
    "a boolean": lambda: table(Column("part", Boolean, nullable=False)),
    "citext": lambda: table(Column("part", postgresql.CITEXT, nullable=False)),
    "another secret": lambda: table(Column("part", EncryptedString("t.p"), nullable=False)),
    "a collation that ignores case": lambda: table(Column("part", String(9, collation="NOCASE"), nullable=False)),
    "a collation of MySQL": lambda: table(Column("part", String(9, collation="utf8mb4_0900_ai_ci"), nullable=False)),
    "zerofill": lambda: table(Column("part", mysql.INTEGER(5, zerofill=True), nullable=False)),
    "a bind expression": lambda: table(Column("part", Lowering, nullable=False)),
    "a wrapper with one": lambda: table(Column("part", Expressing, nullable=False)),
    "a class that converts": lambda: table(Column("part", Padding, nullable=False)),
    "onupdate": lambda: table(Column("part", Integer, nullable=False, onupdate=1)),
    "server_onupdate": lambda: table(Column("part", Integer, nullable=False, server_onupdate="1")),
    "computed": lambda: table(Column("part", Integer, Computed("id"), nullable=False)),
    "ON UPDATE CASCADE": lambda: table(Column("part", Integer, ForeignKey("u.id", onupdate="CASCADE"), nullable=False)),
    "ON DELETE SET DEFAULT": lambda: table(
        Column("part", Integer, ForeignKey("u.id", ondelete="SET DEFAULT"), nullable=False)
    ),
    "a default of the secret": lambda: Table(
        "t",
        MetaData(),
        Column("part", Integer, primary_key=True),
        Column("s", EncryptedString("t.s", bind_to=["part"]), default="x"),
    ),
    "onupdate of the secret": lambda: Table(
        "t",
        MetaData(),
        Column("part", Integer, primary_key=True),
        Column("s", EncryptedString("t.s", bind_to=["part"]), onupdate=lambda: "x"),
    ),
    "a text as bind_to": lambda: EncryptedString("t.s", bind_to="part"),
    "a name twice": lambda: EncryptedJSON("t.s", bind_to=("part", "part")),
    "no names": lambda: EncryptedBytes("t.s", bind_to=("part", 5)),  # type: ignore[arg-type]
    "an empty name": lambda: EncryptedBytes("t.s", bind_to=("",)),
    "a set": lambda: EncryptedString("t.s", bind_to={"part"}),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_declaration_that_would_lose_data_is_refused(name: str) -> None:
    with pytest.raises(ColumnDefinitionError) as caught:
        REFUSED[name]()
    assert "t.s" in str(caught.value) or "EncryptedString" in str(caught.value)


def test_what_may_be_named() -> None:
    for type_ in (Integer, String, String(9, collation="utf8mb4_bin"), Uuid, Uuid(native_uuid=False)):
        table(Column("part", type_, nullable=False))
    table(Column("part", Integer, ForeignKey("u.id", ondelete="CASCADE"), nullable=False))
    type_ = EncryptedString("t.s", bind_to=["part", "other"])
    assert type_.bind_to == ("part", "other")
    assert repr(type_) == "EncryptedString('t.s', bind_to=('part', 'other'))"
    assert type_.copy().bind_to == type_.bind_to
    assert repr(EncryptedString("t.s")) == "EncryptedString('t.s')"
    assert type_._static_cache_key != EncryptedString("t.s", bind_to=["other", "part"])._static_cache_key
    assert EncryptedString("t.s").bind_to == ()


def test_a_mapper_must_have_the_names() -> None:
    class Base(DeclarativeBase):
        pass

    with pytest.raises(ColumnDefinitionError, match="has no column for 'nothing'"):

        class Wrong(Base):
            __tablename__ = "wrong"
            id: Mapped[int] = mapped_column(primary_key=True)
            s: Mapped[str] = mapped_column(EncryptedString("t.s", bind_to=("nothing",)))

    class Parent(Base):
        __tablename__ = "parents"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[int]

    with pytest.raises(ColumnDefinitionError, match="same table"):

        class Child(Parent):
            __tablename__ = "children"
            id: Mapped[int] = mapped_column(ForeignKey("parents.id"), primary_key=True)
            s: Mapped[str] = mapped_column(EncryptedString("t.s", bind_to=("owner",)))


def test_a_table_without_the_column_says_so_when_it_is_used() -> None:
    lonely = Table(
        "t", MetaData(), Column("id", Integer, primary_key=True), Column("s", EncryptedString("t.s", bind_to=["x"]))
    )
    engine = attach_key_ring(create_engine("sqlite://"), RING)
    with engine.connect() as connection:
        for statement in (select(lonely.c.s), insert(lonely).values(id=1, s="SENTINEL")):
            with pytest.raises(UnsupportedOperationError, match="x"):
                connection.execute(statement)
    engine.dispose()


def test_mixins_copies_and_single_table_inheritance() -> None:
    class Base(DeclarativeBase):
        pass

    class Owned:
        owner: Mapped[int] = mapped_column("owner_no")
        secret: Mapped[str | None] = mapped_column(EncryptedString("m.secret", bind_to=("owner",)))

        @declared_attr
        def other(cls) -> Mapped[str | None]:  # noqa: N805 - SQLAlchemy passes the class
            return mapped_column(EncryptedString("m.other", bind_to=("owner",)))

    class One(Owned, Base):
        __tablename__ = "ones"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column(String(9))
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "one"}  # noqa: RUF012 - as documented

    class WithSecret(One):
        tenant: Mapped[int] = mapped_column(nullable=False, default=0)
        token: Mapped[str | None] = mapped_column(EncryptedString("m.token", bind_to=("tenant",)))
        __mapper_args__ = {"polymorphic_identity": "two"}  # noqa: RUF012 - as documented

    class Sibling(One):
        __mapper_args__ = {"polymorphic_identity": "three"}  # noqa: RUF012 - as documented

    engine = attach_key_ring(create_engine("sqlite://"), RING)
    Base.metadata.create_all(engine)
    copied = One.__table__.to_metadata(MetaData())
    with Session(engine) as session:
        session.add_all(
            [One(id=1, owner=1, secret="a", other="b"), WithSecret(id=2, owner=2, secret="c", token="d", tenant=9)]
        )
        session.commit()
        assert [(item.secret, item.other) for item in session.scalars(select(One).order_by(One.id))] == [
            ("a", "b"),
            ("c", None),
        ]
        assert session.scalars(select(WithSecret)).one().token == "d"
        assert session.execute(select(copied.c.secret).order_by(copied.c.id)).scalars().all() == ["a", "c"]
    assert {encrypted_type(item.type) is not None for item in copied.c if item.name in {"secret", "other"}} == {True}
    assert Sibling.__mapper__.class_ is Sibling
    engine.dispose()


def test_concrete_inheritance_where_one_class_has_no_secret() -> None:
    class Base(DeclarativeBase):
        pass

    class Root(AbstractConcreteBase, Base):
        strict_attrs = True

    class First(Root):
        __tablename__ = "firsts"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[int]
        token: Mapped[str | None] = mapped_column(EncryptedString("c.token", bind_to=("owner",)))
        __mapper_args__ = {"polymorphic_identity": "first", "concrete": True}  # noqa: RUF012 - as documented

    class Second(Root):
        __tablename__ = "seconds"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[int]
        __mapper_args__ = {"polymorphic_identity": "second", "concrete": True}  # noqa: RUF012 - as documented

    engine = attach_key_ring(create_engine("sqlite://"), RING)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([First(id=1, owner=1, token="a"), Second(id=2, owner=2)])
        session.commit()
        session.expire_all()
        found = {type(item).__name__: getattr(item, "token", None) for item in session.scalars(select(Root))}
        assert found == {"First": "a", "Second": None}
    engine.dispose()


def test_imperative_mapping_under_other_names() -> None:
    mapped = Table(
        "imperative",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("owner_no", Integer, nullable=False),
        Column("secret", EncryptedString("i.secret", bind_to=("owner",))),
    )

    class Note:
        pass

    registry().map_imperatively(Note, mapped, properties={"owner": mapped.c.owner_no})
    engine = attach_key_ring(create_engine("sqlite://"), RING)
    mapped.metadata.create_all(engine)
    with Session(engine) as session:
        note: Any = Note()
        note.id, note.owner, note.secret = 1, 7, "a"
        session.add(note)
        session.commit()
        note.owner = 8
        session.commit()
        assert note.secret == "a"
    engine.dispose()
