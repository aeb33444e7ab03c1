"""Every way to write to an encrypted column gives its blind index the digest of what was written, or is refused.

The ways are those of `tests/column/test_constructs.py`. Each runs on SQLite, PostgreSQL and MariaDB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Insert,
    Integer,
    String,
    Table,
    Update,
    bindparam,
    create_engine,
    delete,
    insert,
    literal,
    null,
    select,
    text,
    union_all,
    update,
    values,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from sealchemy import BlindIndex, EncryptedString, Key, KeyRing, SealchemyError, UnsupportedOperationError
from sealchemy import attach_key_ring as attach
from tests.support.blind_index import digest_of
from tests.support.constructs import REF, TOK, Tables, accepted, forms, refused
from tests.support.leaks import SENTINEL, assert_silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INDEX_KEY = Key.generate()
RING = KeyRing(primary=Key.generate(), index_key=INDEX_KEY)


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "t"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str | None] = mapped_column(String(200), unique=True)
    tok: Mapped[str | None] = mapped_column(EncryptedString(TOK))
    ref: Mapped[str | None] = mapped_column(EncryptedString(REF))
    tok_index: Mapped[str | None] = mapped_column(BlindIndex(TOK), index=True)


t = Row.__table__
assert isinstance(t, Table)
b = Table(
    "b",
    Base.metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("tok_index", BlindIndex(TOK)),
    Column("tok", EncryptedString(TOK)),
    Column("plain", String(500)),
)
bare = Table(
    "bare",
    Base.metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("tok", EncryptedString(TOK)),
)
TABLES = Tables(Row, t, b)
ACCEPTED, REFUSED, FORMS = accepted(TABLES), refused(TABLES), forms(TABLES)
WITHOUT_DIGEST = {"subquery of an alias", "subquery of a CTE"}  # which a limit, or the CTE, keeps from having one


@pytest.fixture(scope="module")
def database(module_database_url: str) -> Iterator[Engine]:
    engine = attach(create_engine(module_database_url), RING)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(database: Engine) -> Iterator[Connection]:
    """A transaction with rows, rolled back afterwards."""
    with database.connect() as opened, opened.begin() as transaction:
        opened.execute(
            insert(t),
            [{"id": 1, "name": "n1", "tok": "tok1", "ref": "r"}, {"id": 2, "name": "n2", "tok": "tok2", "ref": None}],
        )
        opened.execute(insert(t), {"id": 3, "name": "n3"})
        opened.execute(insert(b), {"id": 1, "tok": "tok of b", "plain": "p"})
        opened.execute(insert(bare), {"id": 1, "tok": "bare"})
        yield opened
        transaction.rollback()


def digests(connection: Connection, table: Any = t) -> dict[int, tuple[str | None, bool]]:
    """Return, for each row, its secret, and whether its index has the digest of that."""
    found = {}
    for key, secret, index in connection.execute(select(table.c.id, table.c.tok, table.c.tok_index)):
        digest = None if secret is None else digest_of(INDEX_KEY, TOK, secret)
        found[key] = secret, index == digest
    return found


@pytest.mark.parametrize(
    ("form", "value", "is_accepted"),
    [
        pytest.param(form, value, is_accepted and value not in WITHOUT_DIGEST, id=f"{form}: {value}")
        for form in FORMS
        for is_accepted, kinds in ((True, ACCEPTED), (False, REFUSED if form in {"insert", "update"} else {}))
        for value in kinds
    ],
)
def test_an_index_follows_its_secret(connection: Connection, form: str, value: str, *, is_accepted: bool) -> None:
    before = digests(connection)
    failure: Exception | None = None
    with connection.begin_nested() as savepoint:
        try:
            connection.execute(FORMS[form](connection, (ACCEPTED | REFUSED)[value]()))
        except Exception as error:  # noqa: BLE001 - looked at below
            failure = error
            savepoint.rollback()
    after = digests(connection)
    assert all(is_right for _, is_right in after.values()), after
    if form == "lambda":
        return  # SQLAlchemy gives the values of a closure types of its own, and not every expression can be in one
    if is_accepted:
        assert not isinstance(failure, SealchemyError), failure
        assert failure is None or isinstance(failure, DBAPIError | Warning)
        assert failure is not None or after != before or form == "update by column()"
    else:
        assert isinstance(failure, SealchemyError), f"{failure!r} {after}"
        assert after == before
        assert_silent(failure)


def _upsert(connection: Connection, rows: Any, sets: Callable[[Any], dict[Any, Any]]) -> Any:
    kind = connection.dialect.name
    if kind in {"mysql", "mariadb"}:
        statement = mysql.insert(t).values(rows)
        return statement.on_duplicate_key_update(sets(statement.inserted))
    statement = (postgresql if kind == "postgresql" else sqlite).insert(t).values(rows)
    return statement.on_conflict_do_update(index_elements=["id"], set_=sets(statement.excluded))


ROW = {"id": 1, "name": "n1", "tok": "new"}
MORE: dict[str, Callable[[Connection], Any]] = {
    "upsert of excluded": lambda c: _upsert(c, ROW, lambda new: {"tok": new.tok}),
    "upsert of every column of excluded": lambda c: _upsert(
        c, ROW, lambda new: {item.key: new[item.key] for item in t.c if item.key != "id"}
    ),
    "upsert of rows": lambda c: _upsert(
        c, [ROW, {"id": 2, "name": "n2", "tok": "other"}], lambda new: {"tok": new.tok}
    ),
    "upsert of its own value": lambda c: _upsert(c, ROW, lambda _: {"tok": t.c.tok}),
    "upsert that leaves it": lambda c: _upsert(c, ROW, lambda _: {"name": "x"}),
    "upsert of NULL": lambda c: _upsert(c, ROW, lambda _: {"tok": null()}),
    "from select": lambda _: insert(t).from_select(["id", "tok"], select(b.c.id + 10, b.c.tok)),
    "from select with the index": lambda _: insert(t).from_select(
        ["tok_index", "id", "tok"], select(b.c.tok_index, b.c.id + 10, b.c.tok)
    ),
    "from select of an alias": lambda _: insert(t).from_select(
        ["id", "tok"], select(aliased(b, name="b9").c.id + 10, aliased(b, name="b9").c.tok).limit(0)
    ),
    "from select of a subquery": lambda _: insert(t).from_select(
        ["id", "tok"], select((sub := select(b).subquery()).c.id + 10, sub.c.tok)
    ),
    "from select of NULL": lambda _: insert(t).from_select(["id", "tok"], select(b.c.id + 10, null())),
    "from select of a literal": lambda _: insert(t).from_select(
        ["id", "tok"], select(b.c.id + 10, literal("lit", EncryptedString(TOK)))
    ),
    "from union": lambda _: insert(t).from_select(
        ["id", "tok", "tok_index"],
        union_all(select(b.c.id + 10, b.c.tok, b.c.tok_index), select(b.c.id + 20, b.c.tok, b.c.tok_index)),
    ),
    "update from another table": lambda _: update(t).values(tok=b.c.tok).where(t.c.id == b.c.id + 1),
    "update to itself": lambda _: update(t).values(tok=t.c.tok),
    "update to NULL": lambda _: update(t).values(tok=None),
    "executemany": lambda _: (
        update(t).where(t.c.id == bindparam("key")).values(tok=bindparam("new")),
        [{"key": 1, "new": "a"}, {"key": 2, "new": None}],
    ),
    "executemany of keys": lambda _: (insert(t), [{"id": 11, "tok": "a"}, {"id": 12, "tok": "b"}]),
    "update in a CTE": lambda _: select(update(t).values(tok="cte").returning(t.c.id).cte()),
    "literal of another table": lambda _: update(t).values(tok="x").where(t.c.id == b.c.id),
}
NOT_FILLED: dict[str, Callable[[Connection], Any]] = {
    "the index by hand": lambda _: insert(t).values(id=9, tok="x", tok_index="x"),
    "the index alone": lambda _: update(t).values(tok_index="x"),
    "the index as NULL": lambda _: update(t).values(tok_index=None),
    "the index as null()": lambda _: update(t).values({t.c.tok_index: null()}),
    "the index from another row": lambda _: update(t).values(tok_index=b.c.tok_index).where(t.c.id == b.c.id),
    "the index in parameters": lambda _: (insert(t), [{"id": 9, "tok": "x", "tok_index": "x"}]),
    "the index alone in parameters": lambda _: (insert(t), [{"id": 9, "tok_index": "x"}]),
    "the index in an upsert": lambda c: _upsert(c, ROW, lambda _: {"tok_index": "x"}),
    "the index of excluded alone": lambda c: _upsert(c, ROW, lambda new: {"tok_index": new.tok_index}),
    "another index in an upsert": lambda c: _upsert(c, ROW, lambda new: {"tok": new.tok, "tok_index": t.c.tok_index}),
    "from select of the index alone": lambda _: insert(t).from_select(
        ["id", "tok_index"], select(b.c.id + 10, b.c.tok_index)
    ),
    "from select of another index": lambda _: insert(t).from_select(
        ["id", "tok", "tok_index"],
        select(b.c.id + 10, b.c.tok, t.c.tok_index).where(t.c.id == 2),
    ),
    "from select without an index": lambda _: insert(t).from_select(["id", "tok"], select(bare.c.id + 10, bare.c.tok)),
    "from union without the index": lambda _: insert(t).from_select(
        ["id", "tok"], union_all(select(b.c.id + 10, b.c.tok), select(b.c.id + 20, b.c.tok))
    ),
    "update from a table without an index": lambda _: update(t).values(tok=bare.c.tok).where(t.c.id == bare.c.id),
    "update from VALUES": lambda _: (
        update(t).values(tok=(data := values(b.c.tok, name="v").data([("x",)])).c.tok).where(data.c.tok.is_not(None))
    ),
}


def _execute(connection: Connection, made: Any) -> None:
    connection.execute(*made) if isinstance(made, tuple) else connection.execute(made)


@pytest.mark.parametrize("name", MORE)
def test_more_ways_to_write(connection: Connection, name: str) -> None:
    with connection.begin_nested() as savepoint:
        try:
            _execute(connection, MORE[name](connection))
        except (DBAPIError, Warning):  # MariaDB and SQLite do not know every statement
            savepoint.rollback()
    after = digests(connection)
    assert all(is_right for _, is_right in after.values()), after


@pytest.mark.parametrize("name", NOT_FILLED)
def test_an_index_is_not_set_otherwise(connection: Connection, name: str) -> None:
    before = digests(connection)
    with pytest.raises(UnsupportedOperationError) as caught:
        _execute(connection, NOT_FILLED[name](connection))
    assert_silent(caught.value)
    assert digests(connection) == before


def test_a_literal_has_its_digest(connection: Connection) -> None:
    statement = insert(t).values(id=9, tok=SENTINEL).compile(connection, compile_kwargs={"literal_binds": True})
    assert SENTINEL not in str(statement)
    connection.execute(text(str(statement).replace("%%", "%")))
    assert digests(connection)[9] == (SENTINEL, True)
    query = select(t.c.id).where(t.c.tok == SENTINEL).compile(connection, compile_kwargs={"literal_binds": True})
    assert SENTINEL not in str(query)
    assert connection.scalars(text(str(query))).all() == [9]


def test_a_returned_index_is_the_new_one(connection: Connection) -> None:
    statements: list[Insert | Update] = [insert(t).values(id=8, tok="r")]
    if connection.dialect.update_returning:  # MariaDB returns what is inserted, not what is updated
        statements.append(update(t).values(tok="r").where(t.c.id == 1))
    for statement in statements:
        returned = connection.execute(statement.returning(t.c.tok, t.c.tok_index)).one()
        assert returned == ("r", digest_of(INDEX_KEY, TOK, "r"))


def test_rows_can_be_deleted_by_their_secret(connection: Connection) -> None:
    connection.execute(delete(t).where(t.c.tok == "tok1"))
    assert sorted(digests(connection)) == [2, 3]
