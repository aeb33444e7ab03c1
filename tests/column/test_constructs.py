"""Constructs of SQLAlchemy around encrypted columns: each is refused, or encrypts and decrypts.

`VALUES` times `FORMS` are the ways to write, `READS` the ways to read. Each runs on SQLite, PostgreSQL and MariaDB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    String,
    Table,
    Text,
    all_,
    any_,
    case,
    cast,
    collate,
    column,
    create_engine,
    delete,
    desc,
    distinct,
    exists,
    extract,
    func,
    insert,
    intersect,
    literal,
    not_,
    null,
    or_,
    select,
    text,
    tuple_,
    type_coerce,
    union,
    union_all,
    update,
    values,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from sealchemy import (
    EncryptedString,
    Key,
    KeyRing,
    SealchemyError,
    SecretString,
    UnsupportedOperationError,
    attach_key_ring,
)
from tests.support import postgresql as servers
from tests.support.constructs import REF, TOK, K, Tables, accepted, forms, refused
from tests.support.leaks import SENTINEL, assert_silent

RING = KeyRing(primary=Key.generate())


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "t"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str | None] = mapped_column(String(200), unique=True)
    tok: Mapped[str | None] = mapped_column(EncryptedString(TOK))
    ref: Mapped[str | None] = mapped_column(EncryptedString(REF))


t = Row.__table__
assert isinstance(t, Table)
b = Table(
    "b",
    Base.metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("tok", EncryptedString(TOK)),
    Column("plain", String(500)),
)


@pytest.fixture(scope="module")
def database(module_database_url: str) -> Iterator[Engine]:
    engine = attach_key_ring(create_engine(module_database_url), RING)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(database: Engine) -> Iterator[Connection]:
    """A transaction with three rows, rolled back afterwards."""
    with database.connect() as opened, opened.begin() as transaction:
        opened.execute(
            insert(t),
            [
                {"id": 1, "name": "n1", "tok": "tok1", "ref": "ref1"},
                {"id": 2, "name": "n2", "tok": "tok2", "ref": None},
            ],
        )
        opened.execute(insert(t), {"id": 3, "name": "n3"})
        opened.execute(insert(b), {"id": 1, "tok": "tok1", "plain": "p"})
        yield opened
        transaction.rollback()


def raw(connection: Connection, name: str = "t") -> list[Any]:
    return [value for row in connection.execute(text(f"SELECT * FROM {name}")) for value in row]


TABLES = Tables(Row, t, b)
untyped = TABLES.untyped
ACCEPTED, REFUSED, FORMS = accepted(TABLES), refused(TABLES), forms(TABLES)
WRITES = [
    pytest.param(form, value, accepted, id=f"{form}: {value}")
    for form in FORMS
    for accepted, kinds in ((True, ACCEPTED), (False, REFUSED))
    for value in kinds
]


@pytest.mark.parametrize(("form", "value", "is_accepted"), WRITES)
def test_a_value_is_encrypted_or_refused(connection: Connection, form: str, value: str, *, is_accepted: bool) -> None:
    before = raw(connection)
    failure: Exception | None = None
    with connection.begin_nested() as savepoint:
        try:
            connection.execute(FORMS[form](connection, (ACCEPTED | REFUSED)[value]()))
        except Exception as error:  # noqa: BLE001 - looked at below
            failure = error
            savepoint.rollback()
    stored = raw(connection)
    assert not any(SENTINEL in item for item in stored if isinstance(item, str))
    if form == "lambda":
        pass  # SQLAlchemy gives the values of a closure types of its own, and not every expression can be in one
    elif is_accepted:
        # SQLAlchemy 2.0 warns of a column as a key of MySQL's upsert; MariaDB does not know every subquery.
        assert not isinstance(failure, SealchemyError), failure
        assert failure is None or isinstance(failure, DBAPIError | Warning)
    else:
        assert isinstance(failure, SealchemyError), f"{failure!r} {stored}"
        assert stored == before
        assert_silent(failure)


LABEL = t.c.tok.label("x")
alias, sub, cte = t.alias("t2"), select(t).subquery("s"), select(t).cte("c")
READ: dict[str, Callable[[], Any]] = {
    "table": lambda: select(t),
    "entity": lambda: select(Row),
    "column": lambda: select(t.c.tok),
    "attribute": lambda: select(Row.tok),
    "alias": lambda: select(alias.c.tok),
    "aliased entity": lambda: select(aliased(Row).tok),
    "subquery": lambda: select(sub.c.tok),
    "CTE": lambda: select(cte.c.tok),
    "lateral": lambda: select(select(t.c.tok).where(t.c.id == b.c.id).scalar_subquery()).select_from(b),
    "label": lambda: select(t.c.tok.label("x")),
    "label of an attribute": lambda: select(Row.tok.label("x")),
    "scalar subquery": lambda: select(select(t.c.tok).where(t.c.id == 1).scalar_subquery()),
    "labelled scalar subquery": lambda: select(select(t.c.tok).where(t.c.id == 1).scalar_subquery().label("x")),
    "order by another": lambda: select(t.c.tok).order_by(t.c.name),
    "group by the key": lambda: select(t.c.id, t.c.tok).group_by(t.c.id, t.c.name),
    "distinct with the key": lambda: select(t.c.id, t.c.tok).distinct(),
    "distinct entity": lambda: select(Row).distinct(),
    "limit": lambda: select(t).order_by(t.c.id).limit(2).offset(1),
    "limit in a subquery": lambda: select(select(t).order_by(t.c.id).limit(2).subquery().c.tok),
    "union all": lambda: union_all(select(t.c.tok), select(b.c.tok)),
    "union all with NULL": lambda: union_all(select(t.c.tok), select(null())),
    "union all with typed NULL": lambda: union_all(select(t.c.tok), select(cast(null(), EncryptedString(TOK)))),
    "union with the key": lambda: union(select(t.c.id, t.c.tok), select(b.c.id, b.c.tok)),
    "is null": lambda: select(t.c.id).where(t.c.tok.is_(None)),
    "== None": lambda: select(t.c.id).where(t.c.tok == None),  # noqa: E711
    "is not null": lambda: select(t.c.id).where(t.c.tok.is_not(None)),
    "not (is null)": lambda: select(t.c.id).where(not_(t.c.tok.is_(None))),
    "is null in a column": lambda: select(t.c.tok.is_(None).label("x")),
    "or": lambda: select(t.c.id).where(or_(t.c.tok.is_(None), t.c.id == 1)),
    "count": lambda: select(func.count(t.c.tok)),
    "count over": lambda: select(func.count(t.c.tok).over()),
    "count with filter": lambda: select(func.count(t.c.tok)).where(t.c.id > 1),
    "case over is null": lambda: select(case((t.c.tok.is_(None), 0), else_=1)),
    "exists": lambda: select(exists(select(t.c.tok))),
    "select.exists()": lambda: select(select(t.c.tok).exists()),
    "where exists": lambda: select(b.c.id).where(exists().where(t.c.id == b.c.id)),
    "join on the same context": lambda: select(t.c.id).join(b, b.c.tok == t.c.tok),
    "columns of one context": lambda: select(t.c.id).where(t.c.tok == t.c.tok),
    "join on the key": lambda: select(t.c.tok, b.c.tok).join(b, b.c.id == t.c.id),
    "text with columns": lambda: text("SELECT id, tok FROM t").columns(t.c.id, t.c.tok),
    "from_statement": lambda: select(Row).from_statement(select(t)),
    "typed literal": lambda: select(literal("x", EncryptedString(TOK))),
    "values": lambda: select(values(column("tok", EncryptedString(TOK)), name="v").data([("x",)]).c.tok),
    "delete by null": lambda: delete(t).where(t.c.tok.is_(None)),
    "update by null": lambda: update(t).values(name="z").where(t.c.tok.is_(None), t.c.id == 3),
}
UNREADABLE: dict[str, Callable[[], Any]] = {
    "order by": lambda: select(t.c.tok).order_by(t.c.tok),
    "order by desc": lambda: select(t.c.tok).order_by(t.c.tok.desc()),
    "order by its name": lambda: select(t.c.tok).order_by("tok"),
    "order by desc of its name": lambda: select(t.c.tok).order_by(desc("tok")),
    "order by a label": lambda: select(t.c.tok.label("x")).order_by("x"),
    "order by a label object": lambda: select(LABEL).order_by(LABEL),
    "order by an attribute": lambda: select(Row).order_by(Row.tok),
    "order by in a subquery": lambda: select(select(t).order_by(t.c.tok).limit(1).subquery().c.id),
    "order by a scalar subquery": lambda: select(t.c.id).order_by(select(b.c.tok).limit(1).scalar_subquery()),
    "order by of a union": lambda: union_all(select(t.c.tok), select(b.c.tok)).order_by("tok"),
    "group by": lambda: select(func.count()).group_by(t.c.tok),
    "group by a label": lambda: select(t.c.tok.label("x"), func.count()).group_by("x"),
    "having": lambda: select(t.c.id).group_by(t.c.id).having(func.max(t.c.tok) == "x"),
    "distinct": lambda: select(t.c.tok).distinct(),
    "distinct in a subquery": lambda: select(select(t.c.tok).distinct().subquery().c.tok),
    "distinct of a subquery": lambda: select(select(t.c.tok).subquery().c.tok).distinct(),
    "count distinct": lambda: select(func.count(distinct(t.c.tok))),
    "count of two": lambda: select(func.count(tuple_(t.c.id, t.c.tok))),
    "max": lambda: select(func.max(t.c.tok)),
    "min of an alias": lambda: select(func.min(alias.c.tok)),
    "max of a subquery": lambda: select(func.max(sub.c.tok)),
    "lower": lambda: select(func.lower(t.c.tok)),
    "length": lambda: select(func.length(t.c.tok)),
    "substr": lambda: select(func.substr(t.c.tok, 1, 3)),
    "coalesce": lambda: select(func.coalesce(t.c.tok, "x")),
    "nullif": lambda: select(func.nullif(t.c.tok, "x")),
    "case": lambda: select(case((t.c.id == 1, t.c.tok), else_=None)),
    "case by the column": lambda: select(case({"a": 1}, value=t.c.tok)),
    "cast": lambda: select(cast(t.c.tok, Text)),
    "type_coerce": lambda: select(type_coerce(t.c.tok, Text)),
    "collate": lambda: select(collate(t.c.tok, "C")),
    "window": lambda: select(func.row_number().over(order_by=t.c.tok)),
    "partition": lambda: select(func.row_number().over(partition_by=t.c.tok)),
    "lag": lambda: select(func.lag(t.c.tok).over(order_by=t.c.id)),
    "extract": lambda: select(extract("year", t.c.tok)),
    "literal ==": lambda: select(t.c.id).where(literal("x") == t.c.tok),
    "typed literal ==": lambda: select(t.c.id).where(literal("x", EncryptedString(TOK)) == t.c.tok),
    "lower ==": lambda: select(t.c.id).where(func.lower(t.c.tok) == "x"),
    "plain column ==": lambda: select(t.c.id).where(t.c.name == t.c.tok),
    "other context ==": lambda: select(t.c.id).where(t.c.tok == t.c.ref),
    "column ==": lambda: select(t.c.id).where(t.c.tok == t.c.name),
    "like": lambda: select(t.c.id).where(literal("x").like(t.c.tok)),
    "between": lambda: select(t.c.id).where(literal("x").between(t.c.tok, t.c.tok)),
    "in a list of columns": lambda: select(t.c.id).where(literal("x").in_([t.c.tok])),
    "in a subquery of it": lambda: select(t.c.id).where(t.c.name.in_(select(b.c.tok))),
    "not in a subquery of it": lambda: select(t.c.id).where(t.c.name.not_in(select(b.c.tok))),
    "== a scalar subquery of it": lambda: select(t.c.id).where(t.c.name == select(b.c.tok).limit(1).scalar_subquery()),
    "function of a scalar subquery": lambda: select(func.lower(select(b.c.tok).limit(1).scalar_subquery())),
    "any": lambda: select(t.c.id).where(t.c.name == any_(select(b.c.tok).scalar_subquery())),
    "all": lambda: select(t.c.id).where(t.c.name == all_(select(b.c.tok).scalar_subquery())),
    "tuple ==": lambda: select(t.c.id).where(tuple_(t.c.id, t.c.tok) == (1, "x")),
    "tuple in": lambda: select(t.c.id).where(tuple_(t.c.id, t.c.tok).in_([(1, "x")])),
    "is distinct from": lambda: select(t.c.id).where(literal("x").is_distinct_from(t.c.tok)),
    "concatenation": lambda: select(literal("x") + t.c.tok),
    "custom operator": lambda: select(literal("x").op("||")(t.c.tok)),
    "join on a plain column": lambda: select(t.c.id).join(b, b.c.plain == t.c.tok),
    "join on a function": lambda: select(t.c.id).join(b, func.lower(b.c.tok) == t.c.name),
    "union": lambda: union(select(t.c.tok), select(b.c.tok)),
    "intersect": lambda: intersect(select(t.c.tok), select(b.c.tok)),
    "union all of two contexts": lambda: union_all(select(t.c.tok), select(t.c.ref)),
    "union all with a plain column": lambda: union_all(select(t.c.tok), select(b.c.plain)),
    "union all with a literal": lambda: union_all(select(t.c.tok), select(literal("x"))),
    "returning a function": lambda: update(t).values(name="z").where(t.c.id == 1).returning(func.lower(t.c.tok)),
    "delete by a function": lambda: delete(t).where(func.lower(t.c.tok) == "x"),
    "update by a comparison": lambda: update(t).values(name="z").where(literal("x") == t.c.tok),
    "copy to a plain column": lambda: update(t).values(name=t.c.tok),
    "copy of a function": lambda: update(t).values(name=func.lower(t.c.tok)),
    "insert from select, plain": lambda: insert(b).from_select(["id", "plain"], select(t.c.id + 9, t.c.tok)),
    "insert from select, other": lambda: insert(b).from_select(["id", "tok"], select(t.c.id + 9, t.c.ref)),
    "insert from select, literal": lambda: insert(b).from_select(["id", "tok"], select(t.c.id + 9, literal(K))),
    "insert from select, text": lambda: insert(b).from_select(
        ["id", "tok"], text(f"SELECT 9, '{K}'").columns(column("id"), column("tok"))
    ),
    "insert from select, union": lambda: insert(b).from_select(
        ["id", "tok"], union_all(select(t.c.id + 9, t.c.tok), select(t.c.id + 99, literal(K)))
    ),
    "insert in a CTE": lambda: select(insert(t).values(id=9, tok=func.lower(K)).returning(t.c.id).cte("i").c.id),
    "update in a CTE": lambda: select(update(t).values(tok=func.lower(K)).returning(t.c.id).cte("u").c.id),
    "add_cte": lambda: select(t.c.id).add_cte(update(t).values(tok=func.lower(K)).cte("u2")),
    "values with an expression": lambda: select(
        values(column("tok", EncryptedString(TOK)), name="v").data([(func.lower(K),)]).c.tok
    ),
    "secret for a plain column": lambda: update(b).values(plain=SecretString(K)),
    "secret in text": lambda: text("UPDATE b SET plain = :v").bindparams(v=SecretString(K)),
    "the same column twice": lambda: update(b).values(tok=t.c.tok).where(func.lower(t.c.tok) == "k"),
    "key of type_coerce": lambda: update(t).values({type_coerce(t.c.tok, Text()): K}),
    "comparison with an operator": lambda: select(t.c.id).where(t.c.tok == K),
}


@pytest.mark.parametrize("name", READ)
def test_a_way_to_read_works(connection: Connection, name: str) -> None:
    if name == "values" and connection.dialect.name != "postgresql":
        with pytest.raises(DBAPIError):  # no VALUES with column names
            connection.execute(READ[name]())
        return
    result = connection.execute(READ[name]())
    for row in result.all() if result.returns_rows else []:
        assert not any(isinstance(item, str) and item.startswith("sealchemy:") for item in row)


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_question_that_ciphertext_cannot_answer_is_refused(connection: Connection, name: str) -> None:
    before = raw(connection) + raw(connection, "b")
    with pytest.raises(UnsupportedOperationError) as caught:
        connection.execute(UNREADABLE[name]())
    assert_silent(caught.value)
    assert raw(connection) + raw(connection, "b") == before


def test_there_are_enough_constructs() -> None:
    assert len(WRITES) + len(READ) + len(UNREADABLE) > 700


def test_no_refused_text_reaches_the_log_of_the_server() -> None:
    server = servers.start_any(log_statement="all", log_min_duration_statement="0")
    assert server, servers.WHAT_TO_INSTALL
    try:
        engine = attach_key_ring(create_engine(server.url), RING)
        Base.metadata.create_all(engine)
        with engine.connect() as opened:
            makers = [
                *(
                    lambda form=form, value=value: FORMS[form](opened, REFUSED[value]())
                    for form in FORMS
                    if form != "lambda"
                    for value in REFUSED
                ),
                *UNREADABLE.values(),
            ]
            for make in makers:
                with pytest.raises(SealchemyError):
                    opened.execute(make())
        engine.dispose()
        assert "CREATE TABLE" in server.log()
        assert SENTINEL not in server.log()
    finally:
        server.stop()
