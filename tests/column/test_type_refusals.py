"""Values, operators and declarations that an encrypted column refuses."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    Column,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sealchemy import (
    AlreadyEncryptedError,
    ColumnDefinitionError,
    EncryptedString,
    Key,
    KeyRingNotAttachedError,
    PlaintextTypeError,
    SecretString,
    UnsupportedOperationError,
)
from tests.support.leaks import SENTINEL, assert_silent
from tests.support.models import Account, create

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

COLUMNS = {
    "orm": Account.token,
    "core": Account.__table__.c.token,
    "alias": Account.__table__.alias().c.token,
    "label": Account.__table__.c.token.label("x"),
    "subquery": select(Account.token).subquery().c.token,
}
OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "==": lambda column: column == SENTINEL,
    "!=": lambda column: column != SENTINEL,
    "<": lambda column: column < SENTINEL,
    ">=": lambda column: column >= SENTINEL,
    "reversed ==": lambda column: operator.eq(SENTINEL, column),
    "like": lambda column: column.like(SENTINEL),
    "ilike": lambda column: column.ilike(SENTINEL),
    "not like": lambda column: column.not_like(SENTINEL),
    "startswith": lambda column: column.startswith(SENTINEL),
    "contains": lambda column: column.contains(SENTINEL),
    "regexp_match": lambda column: column.regexp_match(SENTINEL),
    "match": lambda column: column.match(SENTINEL),
    "in": lambda column: column.in_([SENTINEL]),
    "not in": lambda column: column.not_in([SENTINEL]),
    "in subquery": lambda column: column.in_(select(literal(SENTINEL))),
    "between": lambda column: column.between("a", SENTINEL),
    "+": lambda column: column + SENTINEL,
    "reversed +": lambda column: SENTINEL + column,
    "concat": lambda column: column.concat(SENTINEL),
    "op": lambda column: column.op("||")(SENTINEL),
    "bool_op": lambda column: column.bool_op("~")(SENTINEL),
    "is distinct from": lambda column: column.is_distinct_from(SENTINEL),
    "is true": lambda column: column.is_(True),
    "collate": lambda column: column.collate("C"),
    "desc": lambda column: column.desc(),
    "asc": lambda column: column.asc(),
    "distinct": lambda column: column.distinct(),
    "invert": lambda column: ~column,
    "getitem": lambda column: column[0],
    "== literal": lambda column: column == literal(SENTINEL),
    "== bindparam": lambda column: column == bindparam("x"),
    "== function": lambda column: column == func.lower(SENTINEL),
    "== bytes": lambda column: column == SENTINEL.encode(),
    "== scalar subquery": lambda column: column == select(literal(SENTINEL)).scalar_subquery(),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS.keys())
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_operator_is_refused(column: Any, operation: Callable[[Any], Any]) -> None:
    with pytest.raises(UnsupportedOperationError, match=r"accounts\.token") as caught:
        operation(column)
    assert_silent(caught.value)


def test_filter_by_is_refused() -> None:
    with pytest.raises(UnsupportedOperationError):
        select(Account).filter_by(token=SENTINEL)


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS.keys())
def test_comparison_with_null_is_allowed(column: Any) -> None:
    # The comparison with `== None` is the subject of this test.
    for expression in (column.is_(None), column == None, column == null(), column.is_(null())):  # noqa: E711
        assert str(expression).endswith("IS NULL")
    for expression in (column.is_not(None), column != None, column.is_not(null())):  # noqa: E711
        assert str(expression).endswith("IS NOT NULL")


def test_columns_can_be_compared_with_columns() -> None:
    columns = [*COLUMNS.values(), Account.refresh, Account.__table__.c.refresh]
    for one in columns:
        for other in columns:
            assert "=" in str(one == other)
            assert "!=" in str(one != other)
    assert Account.__table__.c.token in set(Account.__table__.c)
    assert list(Account.__table__.c).index(Account.__table__.c.token) == 2


@pytest.mark.parametrize("value", [b"bytes", 7, 1.5, ["x"]], ids=repr)
def test_non_text_is_refused_on_assignment(value: Any) -> None:
    with pytest.raises(PlaintextTypeError, match=f"token.*{type(value).__name__}"):
        Account(token=value)


@pytest.mark.parametrize("value", [null(), func.lower("x"), Account.name, literal("x")])
def test_assigning_a_sql_expression_is_refused(value: Any) -> None:
    with pytest.raises(PlaintextTypeError):
        Account(token=value)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"bytes", PlaintextTypeError),
        (7, PlaintextTypeError),
        (f"{SENTINEL}\ud800", PlaintextTypeError),
        (f"sealchemy:{SENTINEL}", AlreadyEncryptedError),
    ],
)
def test_invalid_value_is_refused_on_write(
    make_engine: Callable[..., Engine], value: Any, error: type[Exception]
) -> None:
    engine = create(make_engine())
    for write in (
        lambda connection: connection.execute(insert(Account), {"token": value}),
        lambda connection: connection.execute(insert(Account).values(token=value)),
        lambda connection: connection.execute(insert(Account), [{"token": "good"}, {"token": value}]),
        lambda connection: connection.scalar(select(literal(value, EncryptedString("accounts.token")))),
    ):
        with engine.connect() as connection, pytest.raises(error, match=r"accounts\.token") as caught:
            write(connection)
        assert_silent(caught.value)
    with Session(engine) as session:
        if isinstance(value, str):
            session.add(Account(token=value))
            with pytest.raises(error) as caught:
                session.flush()
            assert_silent(caught.value, package=None)


T = Account.__table__.c
EXPRESSIONS: dict[str, Callable[[], Any]] = {
    "literal": lambda: literal(SENTINEL),
    "bindparam of another type": lambda: bindparam("b", SENTINEL),
    "function": lambda: func.lower(SENTINEL),
    "coalesce": lambda: func.coalesce(Account.token, SENTINEL),
    "case": lambda: case((Account.name == "n", SENTINEL), else_=Account.token),
    "cast": lambda: cast(SENTINEL, Text),
    "text": lambda: text(f"'{SENTINEL}'"),
    "another column": lambda: Account.name,
    "column of another context": lambda: Account.refresh,
    "scalar subquery": lambda: select(literal(SENTINEL)).scalar_subquery(),
}


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_expression_that_would_store_plaintext_is_refused(engine: Engine, expression: Callable[[], Any]) -> None:
    create(engine)
    dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
    upsert = dialect.insert(Account).values(name="n", token="x")
    statements = [
        insert(Account).values(token=expression()),
        insert(Account).values([{"token": "x"}, {"token": expression()}]),
        insert(Account.__table__).values({T.token: expression()}),
        insert(Account).from_select(["token"], select(expression())),
        update(Account).values(token=expression()),
        update(Account.__table__).ordered_values((T.token, expression())),
        upsert.on_conflict_do_update(index_elements=[Account.name], set_={"token": expression()}),
        upsert.on_conflict_do_update(index_elements=[Account.name], set_={T.token: expression()}),
    ]
    for statement in statements:
        with Session(engine) as session, pytest.raises(UnsupportedOperationError, match=r"accounts\.token") as caught:
            session.execute(statement)
        assert_silent(caught.value)
        with engine.connect() as connection, pytest.raises(UnsupportedOperationError):
            connection.execute(statement)


def test_null_and_columns_of_the_same_context_can_be_assigned(engine: Engine) -> None:
    create(engine)
    with engine.begin() as connection:
        connection.execute(insert(Account).values(id=1, token="x", refresh=null()))
        connection.execute(insert(Account).values(id=2, token=bindparam("given")), {"given": "y"})
        other = Account.__table__.alias()
        same = select(literal(3), other.c.token).where(other.c.id == 1).limit(1)
        connection.execute(insert(Account).from_select(["id", "token"], same))
        connection.execute(update(Account).values(refresh=null()))
        connection.execute(update(Account).values(token=Account.token, name=func.lower("N")).where(Account.id == 1))
        assert sorted(connection.scalars(select(Account.token))) == ["x", "x", "y"]


def test_error_without_a_ring_says_how_to_attach_one(make_engine: Callable[..., Engine]) -> None:
    from sqlalchemy import create_engine

    engine = create(create_engine("sqlite://"))
    with Session(engine) as session:
        session.add(Account(token=SENTINEL))
        with pytest.raises(KeyRingNotAttachedError, match=r"attach_key_ring\(engine, KeyRing") as caught:
            session.flush()
        assert_silent(caught.value, package=None)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO accounts (token) VALUES ('x')")
        with pytest.raises(KeyRingNotAttachedError):
            connection.execute(select(Account.token)).all()
    engine.dispose()


def test_null_needs_no_key() -> None:
    from sqlalchemy import create_engine

    metadata = MetaData()
    table = Table("t", metadata, Column("id", Integer, primary_key=True), Column("token", EncryptedString("t.token")))
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(table), {"token": None})
        assert connection.scalars(select(table.c.token)).all() == [None]
    engine.dispose()


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Column("c", EncryptedString("t.c"), unique=True),
        lambda: Column("c", EncryptedString("t.c"), index=True),
        lambda: Column("c", EncryptedString("t.c"), primary_key=True),
        lambda: Table("t", MetaData(), Column("c", EncryptedString("t.c"), server_default="x")),
        lambda: Table("t", MetaData(), Column("c", EncryptedString("t.c"), Computed("1"))),
        lambda: Table("t", MetaData(), Column("c", EncryptedString("t.c"), ForeignKey("o.id"))),
        lambda: EncryptedString("t.c").with_variant(Text(), "sqlite"),
        lambda: EncryptedString("not a context"),
        lambda: EncryptedString(Key.generate().reveal()),
        lambda: Table("t", MetaData(), Column("c", EncryptedString("t.c"), default=func.lower("X"))),
        lambda: Table("t", MetaData(), Column("c", EncryptedString("t.c"), onupdate=text("'x'"))),
    ],
    ids=[
        "unique",
        "index",
        "primary key",
        "server default",
        "computed",
        "foreign key",
        "variant",
        "context",
        "key",
        "default",
        "onupdate",
    ],
)
def test_invalid_declaration_is_refused(declare: Callable[[], object]) -> None:
    with pytest.raises(ColumnDefinitionError):
        declare()


@pytest.mark.parametrize(
    "extra",
    [
        UniqueConstraint("token"),
        Index("ix_token", "token"),
        Index("ix_both", "id", "token"),
        ForeignKeyConstraint(["token"], ["others.id"]),
    ],
    ids=["unique", "index", "composite index", "foreign key"],
)
def test_constraint_or_index_is_refused_when_it_is_declared(extra: Any) -> None:
    class Base(DeclarativeBase):
        pass

    with pytest.raises(ColumnDefinitionError, match="covers the encrypted column 'token'"):

        class Model(Base):
            __tablename__ = "models"
            __table_args__ = (extra,)
            id: Mapped[int] = mapped_column(primary_key=True)
            token: Mapped[str] = mapped_column(EncryptedString("models.token"))

    Base.registry.dispose()


def test_context_is_required() -> None:
    with pytest.raises(TypeError):
        Column("c", EncryptedString)


@pytest.mark.parametrize("name", ["token", "TOKEN", "Token"])
def test_upsert_by_column_name_instead_of_key_is_refused(make_engine: Callable[..., Engine], name: str) -> None:
    engine = make_engine()
    table = Table(
        "t", MetaData(), Column("id", Integer, primary_key=True), Column("token", EncryptedString("t.token"), key="tok")
    )
    table.create(engine)
    statement = sqlite.insert(table).values(id=1, tok="x")
    upsert = statement.on_conflict_do_update(index_elements=["id"], set_={name: SENTINEL})
    with engine.begin() as connection:
        connection.execute(statement)
        with pytest.raises(UnsupportedOperationError, match="by its key") as caught:
            connection.execute(upsert)
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"tok": SENTINEL}))
        assert connection.scalar(select(table.c.tok)) == SENTINEL
        assert connection.scalar(text("SELECT token FROM t")).startswith("sealchemy:v1:")
    assert_silent(caught.value)


@pytest.mark.parametrize(
    "shown", [repr(SecretString("x")), repr({"token": SecretString("x")}), f" {SecretString('x')!r}\n"]
)
def test_what_a_secret_prints_is_not_taken_for_the_secret(shown: str) -> None:
    """A form that shows an attribute with `repr` sends this back."""
    with pytest.raises(PlaintextTypeError, match="masked repr"):
        Account(token=shown)
