"""TypeDecorators of the user over the encrypted types: what works, and what is refused when it is declared."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import (
    ARRAY,
    Column,
    Computed,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    column,
    func,
    insert,
    inspect,
    literal,
    select,
    text,
    update,
    values,
)
from sqlalchemy import table as light_table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.mutable import MutableList
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, aliased, mapped_column
from sqlalchemy.types import TypeDecorator

from sealchemy import (
    ColumnDefinitionError,
    EncryptedBytes,
    EncryptedJSON,
    EncryptedString,
    Key,
    KeyRing,
    PlaintextTypeError,
    SecretString,
    UnsupportedOperationError,
)
from sealchemy.testing import assert_encrypted
from tests.support.types import EncryptedDate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Dialect, Engine

RING = KeyRing(primary=Key.generate())
DAY = dt.date(1984, 2, 29)


class EncryptedSecret(TypeDecorator[SecretStr]):
    impl = EncryptedString
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> SecretStr | None:
        return None if value is None else SecretStr(value)


class Twice(TypeDecorator[dt.date]):
    """A wrapper over a wrapper."""

    impl = EncryptedDate
    cache_ok = True


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)
    born: Mapped[dt.date | None] = mapped_column(EncryptedDate("people.born"))
    other: Mapped[dt.date | None] = mapped_column(EncryptedDate("people.born"))
    twice: Mapped[dt.date | None] = mapped_column(Twice("people.twice"))
    token: Mapped[Any] = mapped_column(EncryptedSecret("people.token"), nullable=True)
    note: Mapped[str | None] = mapped_column(Text)


t = Person.__table__
assert isinstance(t, Table)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, make_engine: Callable[..., Engine]) -> Engine:
    is_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'test.db'}" if is_file else request.getfixturevalue(f"{request.param}_url")
    engine = make_engine(url, RING)
    Base.metadata.create_all(engine)
    return engine


def upsert(engine: Engine) -> Any:
    dialects: dict[str, Any] = {"sqlite": sqlite, "postgresql": postgresql, "mysql": mysql}
    statement = (
        dialects[engine.dialect.name].insert(Person).values(id=1, born=DAY, twice=DAY, token=SecretStr("SENTINEL"))
    )
    if engine.dialect.name == "mysql":
        return statement.on_duplicate_key_update(born=statement.inserted.born, twice=DAY)
    new = {"born": statement.excluded.born, "twice": DAY}
    return statement.on_conflict_do_update(index_elements=["id"], set_=new)


WRITES: dict[str, Callable[[Engine], Any]] = {
    "values": lambda _: insert(Person).values(id=1, born=DAY, twice=DAY),
    "several rows of values": lambda _: insert(Person).values([{"id": 1, "born": DAY}, {"id": 2, "born": DAY}]),
    "Core insert": lambda _: insert(t).values({t.c.id: 1, t.c.born: DAY}),
    "upsert": upsert,
    "from_select": lambda _: insert(t).from_select(["id", "born"], select(t.c.id + 100, t.c.born)),
    "from_select of VALUES": lambda _: insert(t).from_select(
        ["id", "born"],
        select(values(column("id", Integer), column("born", EncryptedDate("people.born")), name="v").data([(1, DAY)])),
    ),
    "typed parameter": lambda _: insert(t).values(id=1, born=bindparam("b", DAY, type_=EncryptedDate("people.born"))),
    "literal": lambda _: insert(t).values(id=1, born=literal(DAY, EncryptedDate("people.born"))),
    "update": lambda _: update(Person).values(born=DAY, twice=DAY),
    "update from a column": lambda _: update(Person).values(other=Person.born),
    "a plain token": lambda _: insert(Person).values(id=1, token="SENTINEL"),
    "a pydantic token": lambda _: insert(Person).values(id=1, token=SecretStr("SENTINEL")),
}


@pytest.mark.parametrize("name", WRITES)
def test_every_write_is_encrypted(engine: Engine, name: str) -> None:
    if "VALUES" in name and engine.dialect.name != "postgresql":
        return  # they do not know what SQLAlchemy renders for VALUES in FROM
    with engine.begin() as connection:
        connection.execute(insert(Person), [{"id": 50, "born": DAY}, {"id": 51, "born": None}])
        connection.execute(WRITES[name](engine))
        for row in connection.execute(text("SELECT born, other, twice, token FROM people")):
            assert all(item is None or item.startswith("sealchemy:v1:") for item in row)
        found = {item for row in connection.execute(select(Person.born, Person.other, Person.twice)) for item in row}
        assert found <= {DAY, None}
        tokens = {item.get_secret_value() for item in connection.scalars(select(Person.token)) if item}
        assert tokens <= {"SENTINEL"}


def test_orm_round_trip(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Person(id=1, born=DAY, twice=DAY, token=SecretStr("SENTINEL")))
        session.commit()
        person = session.get_one(Person, 1)
        assert (person.born, person.twice, person.token) == (DAY, DAY, SecretStr("SENTINEL"))
        person.born = None
        session.commit()
        assert session.scalars(select(Person.born)).one() is None
        for attribute in (Person.twice, Person.token):
            assert_encrypted(session, attribute)
        session.execute(text("UPDATE people SET token = 'SENTINEL'"))
        with pytest.raises(AssertionError, match="1 values are plaintext"):
            assert_encrypted(session, Person.token)


def test_literals_are_ciphertext(engine: Engine) -> None:
    statement = insert(t).values(id=1, born=DAY, token=SecretStr("SENTINEL"))
    sql = str(statement.compile(engine, compile_kwargs={"literal_binds": True}))
    assert DAY.isoformat() not in sql
    assert "SENTINEL" not in sql
    with engine.begin() as connection:
        connection.exec_driver_sql(sql.replace("%", "%%"))
        assert connection.scalar(select(t.c.born)) == DAY


def test_value_that_the_wrapper_cannot_convert_does_not_show_in_a_literal(engine: Engine) -> None:
    for value in (["SENTINEL"], "SENTINEL"):
        with pytest.raises(AttributeError) as caught:
            insert(t).values(id=1, born=value).compile(engine, compile_kwargs={"literal_binds": True})
        assert "SENTINEL" not in str(caught.value)
    with pytest.raises(PlaintextTypeError, match=r"people.token: takes str or None, not int"):
        insert(t).values(id=1, token=5).compile(engine, compile_kwargs={"literal_binds": True})


other = aliased(Person)
REFUSED: dict[str, Callable[[], Any]] = {
    "comparison": lambda: select(Person.id).where(Person.born == DAY),
    "order": lambda: select(Person.born).order_by(Person.born),
    "greater": lambda: select(Person.id).where(Person.born > DAY),
    "function": lambda: select(func.max(Person.born)),
    "expression as a value": lambda: insert(t).values(id=1, born=func.current_date()),
    "another context": lambda: update(Person).values(born=Person.twice),
    "copy to a plain column": lambda: insert(t).from_select(["id", "note"], select(t.c.id, t.c.born)),
    "cast": lambda: select(func.lower(t.c.token)),
    "join on it": lambda: select(Person.id).join(other, Person.twice == other.born),
    "literal_execute": lambda: select(literal(DAY, EncryptedDate("people.born"), literal_execute=True)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_of_the_type_is_refused_of_a_wrapper(engine: Engine, name: str) -> None:
    with engine.connect() as connection, pytest.raises(UnsupportedOperationError, match=r"people\."):
        connection.execute(REFUSED[name]())


def table(type_: Any, *items: Any, **options: Any) -> Table:
    return Table("t", MetaData(), Column("id", Integer, primary_key=True), Column("c", type_, **options), *items)


class LoadsText(EncryptedDate):
    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return Text()


class BindsNothing(EncryptedDate):
    def bind_processor(self, dialect: Dialect) -> Any:
        return None


class BindsAnExpression(EncryptedDate):
    def bind_expression(self, bindparam: Any) -> Any:
        return func.lower(bindparam)


class ReadsAnExpression(EncryptedDate):
    def column_expression(self, column: Any) -> Any:
        return func.lower(column)


class MixedIn:
    def literal_processor(self, dialect: Dialect) -> Any:
        return repr


class Mixed(MixedIn, EncryptedDate):
    pass


class ByVariant(TypeDecorator[Any]):
    impl = Text().with_variant(EncryptedString("t.c"), "sqlite")
    cache_ok = True


class OwnAttribute(EncryptedDate):
    def __init__(self, context: str) -> None:
        super().__init__(context)
        self.bind_processor = lambda _dialect: None  # type: ignore[method-assign]


class OverArray(TypeDecorator[Any]):
    impl = ARRAY(EncryptedString("t.c"))
    cache_ok = True


@pytest.mark.parametrize(
    "declare",
    [
        *(lambda kind=kind: table(ARRAY(kind("t.c"))) for kind in (EncryptedString, EncryptedJSON, EncryptedDate)),
        lambda: table(postgresql.ARRAY(EncryptedString("t.c"))),
        lambda: table(MutableList.as_mutable(ARRAY(EncryptedString("t.c")))),
        lambda: table(OverArray()),
        lambda: table(postgresql.HSTORE(text_type=EncryptedString("t.c"))),
        lambda: table(postgresql.DOMAIN("d", EncryptedString("t.c"))),
        lambda: table(postgresql.ARRAY(postgresql.DOMAIN("d", EncryptedDate("t.c")))),
        lambda: table(ByVariant()),
        lambda: table(OwnAttribute("t.c")),
        lambda: EncryptedString("t.c").with_variant(Text(), "sqlite"),
        lambda: EncryptedJSON("t.c").with_variant(Text(), "sqlite"),
        lambda: table(Text().with_variant(EncryptedString("t.c"), "postgresql")),
        lambda: table(Text().with_variant(EncryptedDate("t.c"), "postgresql")),
        lambda: table(EncryptedDate("t.c").with_variant(Text(), "postgresql")),
        lambda: table(LoadsText("t.c")),
        lambda: table(BindsNothing("t.c")),
        lambda: table(BindsAnExpression("t.c")),
        lambda: table(ReadsAnExpression("t.c")),
        lambda: table(Mixed("t.c")),
        *(
            lambda options=options: table(EncryptedDate("t.c"), **options)
            for options in (
                {"primary_key": True},
                {"unique": True},
                {"index": True},
                {"server_default": "x"},
                {"default": func.now()},
            )
        ),
        lambda: table(EncryptedDate("t.c"), UniqueConstraint("c")),
        lambda: table(EncryptedDate("t.c"), Index("i", "c")),
        lambda: Table("t", MetaData(), Column("c", EncryptedDate("t.c"), Computed("1"))),
    ],
)
def test_declaration_that_looks_protected_is_refused(declare: Callable[[], Any]) -> None:
    with pytest.raises(ColumnDefinitionError):
        declare()


def test_refused_declaration_leaves_an_orm_class_unusable() -> None:
    with pytest.raises(ColumnDefinitionError, match="LoadsText overrides load_dialect_impl"):

        class Model(Base):
            __tablename__ = "refused"
            id: Mapped[int] = mapped_column(primary_key=True)
            c: Mapped[Any] = mapped_column(LoadsText("t.c"))


@pytest.mark.parametrize(
    "name",
    [
        *("process_bind_param", "process_result_value", "process_literal_param", "bind_processor", "result_processor"),
        *("literal_processor", "load_dialect_impl", "bind_expression", "column_expression", "coerce_compared_value"),
        *("impl", "comparator_factory", "kind", "copy", "with_variant", "dialect_impl", "_cached_bind_processor"),
    ],
)
@pytest.mark.parametrize("base", [EncryptedString, EncryptedJSON, EncryptedBytes])
def test_subclass_that_overrides_a_hook_is_refused(base: type, name: str) -> None:
    with pytest.raises(ColumnDefinitionError, match=f"overrides {name} of an encrypted type.*TypeDecorator whose impl"):
        type("Sub", (base,), {name: lambda *_: None})
    with pytest.raises(ColumnDefinitionError, match=f"overrides {name}"):
        type("Sub", (type("Mixin", (), {name: None}), base), {})


def test_subclass_that_fixes_the_context_works(engine: Engine) -> None:
    class Token(EncryptedString):
        cache_ok = True

        def __init__(self) -> None:
            super().__init__("t.token")

        def describe(self) -> str:
            return self.context

    assert Token().describe() == "t.token"
    assert Token().bind_processor(engine.dialect)("x").startswith("sealchemy:v1:")
    assert repr(Token()) == "Token('t.token')"


class ByDialect(TypeDecorator[Any]):
    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return dialect.type_descriptor(EncryptedString("t.c"))


def test_type_that_is_encrypted_on_some_dialect_is_refused_when_it_is_used(engine: Engine) -> None:
    chosen = table(ByDialect())
    for statement in (select(chosen), insert(chosen).values(c="SENTINEL"), update(chosen).values(c="SENTINEL")):
        with engine.connect() as connection, pytest.raises(ColumnDefinitionError, match="ByDialect"):
            connection.execute(statement)


class Color(enum.Enum):
    RED = "red"


class EncryptedColor(TypeDecorator[Color]):
    impl = EncryptedString
    cache_ok = True

    def process_bind_param(self, value: Color | None, dialect: Dialect) -> str | None:
        return None if value is None else value.name

    def process_result_value(self, value: str | None, dialect: Dialect) -> Color | None:
        return None if value is None else Color[value]


def test_wrapper_does_not_keep_a_value_of_another_type(engine: Engine) -> None:
    process = EncryptedColor("t.color").dialect_impl(engine.dialect).bind_processor(engine.dialect)
    assert process is not None
    assert process(Color.RED).startswith("sealchemy:")
    with pytest.raises(AttributeError):
        process("red")


def test_mapper_sees_a_wrapper_as_encrypted() -> None:
    assert inspect(Person).columns["born"].type.impl_instance.context == "people.born"


class Stripped(TypeDecorator[str]):
    impl = EncryptedString
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value and value.strip()


class Bare(TypeDecorator[Any]):
    impl = EncryptedJSON
    cache_ok = True


class BareBytes(TypeDecorator[Any]):
    impl = EncryptedBytes
    cache_ok = True


class Printed(MappedAsDataclass, DeclarativeBase):
    metadata = MetaData()


class Shown(Printed):
    __tablename__ = "shown"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[Any] = mapped_column(Stripped("shown.text"))
    document: Mapped[Any] = mapped_column(Bare("shown.document"))
    data: Mapped[Any] = mapped_column(BareBytes("shown.data"))
    date: Mapped[Any] = mapped_column(EncryptedDate("shown.date"))


def test_what_is_assigned_through_a_wrapper_is_hidden(engine: Engine) -> None:
    Printed.metadata.create_all(engine)
    document = {"token": "SENTINEL", "list": ["SENTINEL"]}
    shown = Shown(id=1, text=" SENTINEL ", document=document, data=b"SENTINEL", date=DAY)
    assert "SENTINEL" not in repr(shown)
    with Session(engine) as session:
        session.add(shown)
        session.flush()
        assert "SENTINEL" not in f"{shown!r}{inspect(shown).attrs.text.history!r}"
        session.commit()
        found = (shown.text, shown.document, shown.data, shown.date)
        assert found == ("SENTINEL", {"token": "SENTINEL", "list": ["SENTINEL"]}, b"SENTINEL", DAY)
        shown.date = dt.date(2000, 1, 1)
        session.commit()
        shown.text = "SENTINEL"
        with pytest.raises(StatementError) as caught:
            shown.date = "SENTINEL is no date"
            session.flush()
        assert "SENTINEL" not in str(caught.value)


class AlwaysNull(Stripped):
    def process_bind_param(self, value: str | None, dialect: Dialect) -> None:
        return None


def test_a_wrapper_may_turn_a_value_into_null(engine: Engine) -> None:
    statement = select(literal("SENTINEL", AlwaysNull("t.c")))
    sql = str(statement.compile(engine, compile_kwargs={"literal_binds": True}))
    with engine.connect() as connection:
        assert connection.exec_driver_sql(sql).scalar() is None


def test_one_context_of_two_kinds_is_not_one(engine: Engine) -> None:
    two = Table(
        "two",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("document", EncryptedJSON("two.c")),
        Column("token", EncryptedString("two.c")),
    )
    two.create(engine)
    for statement in (
        update(two).values(document=two.c.token),
        update(two).values(document=literal("x", EncryptedString("two.c"))),
        insert(two).from_select(["id", "document"], select(two.c.id + 1, two.c.token)),
        select(two.c.id).where(two.c.document == two.c.token),
        select(two.c.document).union_all(select(two.c.token)),
    ):
        with engine.connect() as connection, pytest.raises(UnsupportedOperationError, match=r"two\.c"):
            connection.execute(statement)


class Minimal(TypeDecorator[str]):
    impl = EncryptedString
    cache_ok = True


def test_two_contexts_of_one_wrapper_are_two_statements(engine: Engine) -> None:
    real = Table("cached", MetaData(), Column("id", Integer, primary_key=True), Column("token", Text))
    real.create(engine)
    contexts = ["t.one", "t.two", "t.three"]
    for number, context in enumerate(contexts, 1):
        light = light_table("cached", column("id", Integer), column("token", Minimal(context)))
        with engine.begin() as connection:
            connection.execute(insert(light), {"id": number, "token": context})
            typed = bindparam("b", type_=Minimal(context))
            connection.execute(insert(light).values(id=number + 10, token=typed), {"b": context})
            assert connection.scalar(select(light.c.token).where(light.c.id == number)) == context
    with engine.connect() as connection:
        stored = {row[0]: row[1] for row in connection.execute(text("SELECT id, token FROM cached"))}
    for number, context in enumerate(contexts, 1):
        assert RING.decrypt(stored[number], context) == context
        assert RING.decrypt(stored[number + 10], context) == context


class Hashed(TypeDecorator[str]):
    """A keyed hash in a column beside the secret, as the errors advise."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else hashlib.sha256(value.encode()).hexdigest()


def test_a_hash_of_a_secret_may_be_stored(engine: Engine) -> None:
    hashes = Table("hashes", MetaData(), Column("id", Integer, primary_key=True), Column("digest", Hashed))
    hashes.create(engine)
    with engine.begin() as connection:
        connection.execute(insert(hashes), {"id": 1, "digest": SecretString("SENTINEL")})
        assert len(connection.scalar(text("SELECT digest FROM hashes"))) == 64
