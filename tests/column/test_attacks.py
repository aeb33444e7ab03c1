"""Statements that got past earlier versions of the statement layer, and statements that it refused by mistake."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    any_,
    bindparam,
    case,
    cast,
    column,
    create_engine,
    exc,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    tuple_,
    type_coerce,
    union,
    union_all,
    update,
    values,
)
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql.elements import ClauseElement, Grouping

from sealchemy import EncryptedString, Key, KeyRing, SecretString, UnsupportedOperationError, attach_key_ring
from sealchemy._column.statements import protect
from tests.support.leaks import SENTINEL, frames_of

try:
    from sqlalchemy import from_dml_column
except ImportError:  # SQLAlchemy 2.0
    from_dml_column: Any = None

S, C = SENTINEL, "t.tok"
RING = KeyRing(primary=Key.generate())


class Base(DeclarativeBase):
    pass


class M(Base):
    __tablename__ = "t"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str | None] = mapped_column(String(300))
    tok: Mapped[str | None] = mapped_column(EncryptedString(C))
    tok2: Mapped[str | None] = mapped_column(EncryptedString(C))
    other: Mapped[str | None] = mapped_column(EncryptedString("t.other"))
    zz: Mapped[Any | None] = mapped_column(JSON)


t = M.__table__
assert isinstance(t, Table)
u = Table("u", Base.metadata, Column("tid", Integer, primary_key=True), Column("tok", EncryptedString(C)))
p = Table("p", Base.metadata, Column("id", Integer, primary_key=True), Column("note", String(300)))


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    Base.metadata.create_all(engine)
    with engine.connect() as opened, opened.begin() as transaction:
        opened.execute(insert(t), {"id": 1, "note": "n", "tok": "tok1", "tok2": "tok1"})
        opened.execute(insert(u), {"tid": 1, "tok": "u1"})
        opened.execute(insert(p), {"id": 1, "note": S})
        yield opened
        transaction.rollback()


def sqlite_insert() -> Any:
    return sqlite.insert(t).values(id=1, tok=S)


def nested(*branches: Any) -> Any:
    return union_all(select(t.c.id + 100, t.c.tok), union_all(select(t.c.id + 200, t.c.tok), *branches))


subquery = select(u.c.tok).limit(1).scalar_subquery()
inserted = sqlite_insert()
a, b = aliased(M), aliased(M)
REFUSED: dict[str, Callable[[], Any]] = {
    "one name, encrypted and JSON": lambda: insert(t).values(tok=bindparam("x"), zz=bindparam("x")),
    "one name, encrypted and plain": lambda: insert(t).values(tok=bindparam("x"), note=bindparam("x")),
    "one name, two contexts": lambda: update(t).values(tok=bindparam("x"), other=bindparam("x")),
    "one name, value and criterion": lambda: update(t).values(tok=bindparam("x")).where(t.c.note == bindparam("x")),
    "a nested compound": lambda: insert(t).from_select(
        ["id", "tok"], nested(select(p.c.id + 300, literal_column("p.note", EncryptedString(C))))
    ),
    "a subquery of a nested compound": lambda: insert(t).from_select(
        ["id", "tok"], select(nested(select(p.c.id + 300, literal_column("p.note", EncryptedString(C)))).subquery())
    ),
    "a nested union": lambda: union(
        select(t.c.id, t.c.tok), union_all(select(t.c.id, t.c.tok), select(p.c.id, t.c.tok))
    ),
    "an untyped parameter in VALUES": lambda: insert(t).from_select(
        ["id", "tok"],
        select(values(column("id", Integer), column("tok", EncryptedString(C)), name="v").data([(50, bindparam("x"))])),
    ),
    "one column, as a value and in a function": lambda: update(t).values(note=func.lower(u.c.tok), tok=u.c.tok),
    "one subquery, as a value and in a function": lambda: update(t).values(note=func.lower(subquery), tok=subquery),
    "excluded, as a value and in a function": lambda: inserted.on_conflict_do_update(
        index_elements=["id"], set_={"note": func.coalesce(inserted.excluded.tok, "x"), "tok": inserted.excluded.tok}
    ),
    "a value that is also in index_where": lambda: inserted.on_conflict_do_update(
        index_elements=["id"], index_where=func.lower(t.c.tok) == "x", set_={"tok": t.c.tok}
    ),
    "ciphertext into a table without encrypted columns": lambda: insert(p).from_select(
        ["id", "note"], select(t.c.id + 500, t.c.tok)
    ),
    "a whole row": lambda: select(func.row_to_json(t.table_valued())),
    "an ordered whole row": lambda: select(t.c.id).order_by(t.table_valued()),
    "a cast whole row": lambda: select(cast(t.table_valued(), Text)),
    "a subquery of two columns": lambda: select(t.c.id).where(
        tuple_(t.c.id, t.c.note) < select(t.c.id, t.c.tok).limit(1).scalar_subquery()
    ),
    "any_ of two columns": lambda: select(t.c.id).where(
        tuple_(t.c.id, t.c.note) == any_(select(t.c.id, t.c.tok).scalar_subquery())
    ),
    "distinct with the key of another alias": lambda: select(a.id, b.tok).distinct(),
    "a secret in a nested list": lambda: text("SELECT :a").bindparams(bindparam("a", [[SecretString(S)]])),
}


@pytest.mark.filterwarnings("ignore:.*inherit_cache")  # SQLAlchemy's own, about whole rows
@pytest.mark.parametrize("name", REFUSED)
def test_statement_is_refused(connection: Connection, name: str) -> None:
    if "excluded" in name or "index_where" in name:
        protect(sqlite_dialect := sqlite.dialect())
        with pytest.raises(UnsupportedOperationError):
            REFUSED[name]().compile(dialect=sqlite_dialect)
        return
    with pytest.raises(UnsupportedOperationError):
        connection.execute(REFUSED[name](), {"x": S} if "name" in name or "VALUES" in name else {})
    for row in connection.execute(text("SELECT id, tok, other, zz FROM t")):
        assert S not in str(row)


def test_upsert_of_mysql_copies_no_ciphertext() -> None:
    dialect = mysql.dialect()
    protect(dialect)
    statement = mysql.insert(t).values(id=1, tok="x")
    for value in (statement.inserted.tok, func.lower(statement.inserted.tok)):
        with pytest.raises(UnsupportedOperationError):
            statement.on_duplicate_key_update(note=value).compile(dialect=dialect)
    statement.on_duplicate_key_update(tok=statement.inserted.tok).compile(dialect=dialect)


@pytest.mark.parametrize("how", ["creator", "pool"])
def test_an_engine_without_a_ring_and_without_connect_events_refuses(tmp_path: Any, how: str) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    attached = attach_key_ring(create_engine(url, poolclass=StaticPool), RING)
    Base.metadata.create_all(attached)
    options: dict[str, Any] = {
        "creator": {"creator": lambda: sqlite3.connect(tmp_path / "x.db")},
        "pool": {"pool": attached.pool},
    }
    bare = create_engine(url, **options[how])
    for statement in (
        update(t).values(tok=func.lower(S)),
        select(func.lower(t.c.tok)),
        select(t.c.id).order_by(t.c.tok),
        insert(t).from_select(["id", "tok"], select(literal(9), literal(S))),
    ):
        with pytest.raises(UnsupportedOperationError) as caught, bare.begin() as opened:
            opened.execute(statement)
        assert S not in str(caught.value)
    with bare.begin() as opened:
        opened.execute(update(t).values(note="fine"))
        assert opened.execute(text("SELECT tok FROM t")).all() == []
    bare.dispose()
    attached.dispose()


def test_a_statement_compiled_for_another_dialect_is_checked(connection: Connection) -> None:
    compiled: Any = select(func.lower(t.c.tok)).compile(dialect=type(connection.dialect)())
    # SQLAlchemy 2.1 executes no compiled statement at all.
    is_executable = hasattr(compiled, "_execute_on_connection")
    with pytest.raises(UnsupportedOperationError if is_executable else exc.ObjectNotExecutableError):
        connection.execute(compiled)


def test_a_refusal_leaves_the_text_in_no_frame(connection: Connection) -> None:
    for statement in (
        update(t).values(tok=literal(S)),
        update(t).values(tok=func.coalesce(t.c.tok, S)),
        select(t.c.id).where(literal(S) == t.c.tok),
    ):
        with pytest.raises(UnsupportedOperationError) as caught:
            connection.execute(statement)
        shown = frames_of(caught.value)
        assert [line[:200] for line in shown.splitlines() if S in line] == []


X = bindparam("x")
plain_t = Table("t", MetaData(), Column("id", Integer, primary_key=True), Column("tok", Text))
UNTYPED: dict[str, Callable[[], Any]] = {
    "the second of two rows": lambda: insert(t).values([{"id": 5, "tok": "a"}, {"id": 6, "tok": X}]),
    "the first of two rows": lambda: insert(t).values([{"id": 5, "tok": X}, {"id": 6, "tok": "a"}]),
    "the second of two rows, by column()": lambda: insert(t).values(
        [{"id": 5, column("tok"): "a"}, {"id": 6, column("tok"): X}]
    ),
    "the second of two rows, by a column of another table": lambda: insert(t).values(
        [{"id": 5, plain_t.c.tok: "a"}, {"id": 6, plain_t.c.tok: X}]
    ),
    "labelled, in an update": lambda: update(t).values(tok=X.label("y")),
    "labelled, in an insert": lambda: insert(t).values(id=7, tok=X.label("y")),
    "in parentheses": lambda: update(t).values(tok=Grouping(X)),
    "by an untyped column": lambda: update(t).values({column("tok"): X.label("y")}),
    "ordered": lambda: update(t).ordered_values((t.c.tok, X.label("y"))),
}


@pytest.mark.parametrize("name", UNTYPED)
def test_an_untyped_parameter_is_encrypted(connection: Connection, name: str) -> None:
    connection.execute(UNTYPED[name](), {"x": S})
    assert S in connection.scalars(select(t.c.tok)).all()
    assert S not in str(connection.execute(text("SELECT tok FROM t")).all())


def upsert(connection: Connection, **values_to_set: Any) -> Any:
    new = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[connection.dialect.name](t).values(id=1, tok=S)
    given = {name: getattr(new.excluded, name) if value is None else value for name, value in values_to_set.items()}
    return new.on_conflict_do_update(index_elements=["id"], set_=given).returning(t.c.tok)


@pytest.mark.parametrize("value", [X, X.label("y"), None], ids=["parameter", "label", "excluded"])
def test_an_upsert_encrypts(connection: Connection, value: Any) -> None:
    assert connection.execute(upsert(connection, tok=value), {"x": S} if value is not None else {}).all() == [(S,)]
    assert S not in str(connection.execute(text("SELECT tok FROM t")).all())


joined = Table(
    "j",
    Base.metadata,
    Column("tid", Integer, primary_key=True),
    Column("tok", EncryptedString("j.tok")),
    Column("note", EncryptedString("j.note")),
)
renamed = Table(
    "r",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("tok_db", EncryptedString("r.tok"), key="tok"),
    Column("tok", String(300), key="plain"),
)


@pytest.mark.parametrize("value", [S, X, X.label("y")], ids=["text", "parameter", "label"])
def test_the_type_is_that_of_the_target_where_names_collide(connection: Connection, value: Any) -> None:
    connection.execute(insert(joined), {"tid": 1, "tok": "j", "note": "j"})
    for key, target in (
        ("note", t.c.note),
        (t.c.note, t.c.note),
        ("tok", t.c.tok),
        (t.c.tok, t.c.tok),
        (M.tok, t.c.tok),
    ):
        if target is t.c.note and isinstance(value, type(X.label("y"))):
            continue
        for statement in (update(t), update(M)):
            found = statement.values({key: value}).where(t.c.id == joined.c.tid)
            connection.execute(found, {"x": S} if value is not S else {})
            assert connection.scalar(select(target).where(t.c.id == 1)) == S
    assert S not in str(connection.execute(text("SELECT tok FROM t")).all())
    dialect = mysql.dialect()
    protect(dialect)
    other = bindparam("z")
    for target in (t, t.join(joined, t.c.id == joined.c.tid)):
        both = update(target).values({joined.c.tok: other, t.c.tok: value}).where(t.c.id == joined.c.tid)
        compiled: Any = both.compile(dialect=dialect)
        assert {compiled.binds[name].type.context for name in compiled.positiontup} == {"j.tok", "t.tok"}


def test_the_type_is_that_of_the_key_where_keys_and_names_are_swapped(connection: Connection) -> None:
    connection.execute(insert(renamed).values(id=1, tok=S))
    connection.execute(update(renamed).values({renamed.c.tok: S}))
    connection.execute(update(renamed).values({renamed.c.plain: "x"}))
    connection.execute(insert(renamed).values([{"id": 2, "tok": "a"}, {"id": 3, "tok": X}]), {"x": S})
    assert connection.scalars(select(renamed.c.tok).order_by(renamed.c.id)).all() == [S, "a", S]
    assert connection.scalar(select(renamed.c.plain).where(renamed.c.id == 1)) == "x"
    assert S not in str(connection.execute(text("SELECT * FROM r")).all())


COPIES: dict[str, Callable[[], Any]] = {
    "itself": lambda: t.c.tok,
    "a cast": lambda: cast(t.c.tok, Text),
    "a case": lambda: case((t.c.id == 1, t.c.tok)),
    "a type_coerce": lambda: type_coerce(t.c.tok, Text),
    "a subquery ordered by it": lambda: select(t.c.note).order_by(t.c.tok).limit(1).correlate(None).scalar_subquery(),
}
if from_dml_column is not None:
    COPIES["from_dml_column()"] = lambda: from_dml_column(t.c.tok)
    COPIES["a function of from_dml_column()"] = lambda: func.lower(from_dml_column(t.c.tok))


@pytest.mark.parametrize("new", ["new", None])
@pytest.mark.parametrize("name", COPIES)
def test_an_updated_column_is_not_copied_to_a_plain_one(connection: Connection, name: str, new: str | None) -> None:
    statements = [
        update(t).values({t.c.tok: new, t.c.note: COPIES[name]()}),
        update(t).ordered_values((t.c.note, COPIES[name]()), (t.c.tok, new)),
        update(M).values({M.tok: new, M.note: COPIES[name]()}),
        insert(t).values({t.c.id: 9, t.c.tok: new, t.c.note: COPIES[name]()}),
    ]
    for statement in statements:
        with pytest.raises(UnsupportedOperationError):
            connection.execute(statement)
        for dialect in (mysql.dialect(), mssql.dialect(), oracle.dialect()):
            protect(dialect)
            with pytest.raises(UnsupportedOperationError):
                statement.compile(dialect=dialect)


def test_a_refusal_leaves_the_statement_usable(connection: Connection) -> None:
    criterion = t.c.note == "n"
    listed = select(t.c.id).where(criterion, t.c.id.in_([1, 2]), t.c.note.in_(["n", S]))
    assert connection.scalars(listed).all() == [1]
    with pytest.raises(UnsupportedOperationError) as caught:
        connection.execute(listed.order_by(t.c.tok))
    assert S not in frames_of(caught.value)
    assert connection.scalars(listed).all() == [1]
    assert connection.scalars(select(t.c.id).where(criterion)).all() == [1]
    assert connection.execute(update(t).values(zz={"a": S}).where(criterion)).rowcount == 1


class Pair(NamedTuple):
    first: Any
    second: Any


class Items(list[Any]):
    pass


class Kept(SecretString):
    __slots__ = ()


@pytest.mark.parametrize(
    "parameter",
    [
        Pair(SecretString(S), 1),
        {SecretString(S)},
        [{"a": [{SecretString(S): 1}]}],
        Items([SecretString(S)]),
        Kept(S),
    ],
    ids=["named tuple", "set", "key", "list", "subclass"],
)
def test_a_secret_is_found_in_any_container(connection: Connection, parameter: Any) -> None:
    with pytest.raises(UnsupportedOperationError, match="SecretString"):
        connection.execute(text("SELECT :a"), {"a": parameter})


@pytest.mark.parametrize("is_cyclic", [True, False])
def test_containers_may_be_nested_deeply(connection: Connection, is_cyclic: bool) -> None:
    nested_lists: list[Any] = []
    if is_cyclic:
        nested_lists.extend([nested_lists, nested_lists])
    for _ in range(5000):
        nested_lists = [nested_lists]
    with pytest.raises((exc.DBAPIError, RecursionError)) as caught:
        connection.execute(text("SELECT :a"), {"a": nested_lists})
    assert "last_line" not in "".join(frame.filename for frame in inspect.getinnerframes(caught.tb)[-2:])


def test_a_subquery_is_compared_with_null(connection: Connection) -> None:
    latest = select(u.c.tok).limit(1).scalar_subquery()
    assert connection.scalars(select(t.c.id).where(latest.is_(None))).all() == []
    assert connection.scalars(select(t.c.id).where(latest.is_not(None))).all() == [1]


ACCEPTED: dict[str, Callable[[], Any]] = {
    "entity from text": lambda: select(M).from_statement(text("SELECT * FROM t")),
    "columns from text": lambda: select(M.id, M.tok).from_statement(text("SELECT id, tok FROM t")),
    "update from another table": lambda: update(t).values(tok=u.c.tok).where(t.c.id == u.c.tid),
    "one column for two": lambda: update(t).values(tok=u.c.tok, tok2=u.c.tok).where(t.c.id == u.c.tid),
    "one subquery for two": lambda: update(t).values(tok=subquery, tok2=subquery),
    "distinct of an alias with its key": lambda: select(a.id, a.tok).distinct(),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_statement_is_accepted(connection: Connection, name: str) -> None:
    result = connection.execute(ACCEPTED[name]())
    if result.returns_rows:
        assert "sealchemy:" not in str([str(item) for row in result for item in row])


def test_rows_of_a_nested_compound_are_inserted(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    """SQLite has no parentheses around a compound."""
    engine = make_engine(postgresql_url, RING)
    Base.metadata.create_all(engine)
    rows = select(nested(select(u.c.tid + 300, u.c.tok)).subquery())
    with engine.begin() as opened:
        opened.execute(insert(t), {"id": 1, "tok": "tok1"})
        opened.execute(insert(u), {"tid": 1, "tok": "u1"})
        opened.execute(insert(t).from_select(["id", "tok"], rows))
        found = select(t.c.id, t.c.tok).where(t.c.id > 1).order_by(t.c.id)
        assert opened.execute(found).all() == [(101, "tok1"), (201, "tok1"), (301, "u1")]


def test_constant_table_of_plain_values(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url)
    Base.metadata.create_all(engine)
    rows = values(column("id", Integer), column("tok", EncryptedString(C)), name="v").data([(50, S), (51, None)])
    with engine.begin() as opened:
        opened.execute(insert(t).from_select(["id", "tok"], select(rows.c.id, rows.c.tok)))
        assert opened.scalars(select(t.c.tok).order_by(t.c.id)).all() == [S, None]
        assert S not in str(opened.execute(text("SELECT tok FROM t")).all())
    arrays = Table("a", MetaData(), Column("d", ARRAY(Text, dimensions=2)))
    with engine.connect() as opened:
        arrays.create(opened)
        with pytest.raises(UnsupportedOperationError, match="SecretString"):
            opened.execute(insert(arrays), {"d": [[SecretString(S)]]})


def test_update_of_two_tables_on_mysql() -> None:
    dialect = mysql.dialect()
    protect(dialect)
    for statement in (
        update(t).values({t.c.note: "x", u.c.tok: S}).where(t.c.id == u.c.tid),
        update(t.join(u, t.c.id == u.c.tid)).values({u.c.tok: t.c.tok}),
    ):
        assert "SET" in str(statement.compile(dialect=dialect))
    for statement in (
        update(t).values({t.c.note: func.lower(u.c.tok), u.c.tok: S}).where(t.c.id == u.c.tid),
        update(t.join(u, func.lower(u.c.tok) == t.c.note)).values({t.c.tok: u.c.tok}),
    ):
        with pytest.raises(UnsupportedOperationError):
            statement.compile(dialect=dialect)


@pytest.mark.parametrize("make", [oracle.dialect, mssql.dialect, postgresql.dialect, sqlite.dialect, mysql.dialect])
def test_returning_on_every_dialect(make: Callable[[], Any]) -> None:
    dialect = make()
    protect(dialect)
    for statement in (insert(t).values(id=1).returning(t.c.tok), update(t).values(note="x").returning(t.c.tok)):
        assert "tok" in str(statement.compile(dialect=dialect))
        with pytest.raises(UnsupportedOperationError):
            insert(t).values(id=1).returning(func.lower(t.c.tok)).compile(dialect=dialect)


def test_a_check_of_the_length_can_be_created(engine: Engine) -> None:
    table = Table("c", MetaData(), Column("id", Integer, primary_key=True), Column("tok", EncryptedString("c.tok")))
    table.append_constraint(CheckConstraint(func.length(table.c.tok) < 5000))
    table.create(engine)
    with engine.begin() as opened:
        opened.execute(insert(table), {"id": 1, "tok": "x"})


def test_session_and_statement_agree_after_evaluating(engine: Engine) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(M(id=1, tok="same", tok2="same", note="before"))
        session.commit()
        item = session.get_one(M, 1)
        session.execute(
            update(M).where(M.tok.is_not(None)).values(note="hit"),
            execution_options={"synchronize_session": "evaluate"},
        )
        assert item.note == "hit"


def chained(values: dict[str, Any]) -> Any:
    """Return an INSERT with two clauses for conflicts, which only SQLAlchemy 2.1 takes, and only for SQLite."""
    statement = sqlite.insert(t).values(id=1, tok="new").on_conflict_do_nothing(index_elements=["note"])
    return statement.on_conflict_do_update(index_elements=["id"], set_=values)


takes_several = pytest.mark.skipif(
    not hasattr(sqlite.Insert, "ext"), reason="SQLAlchemy 2.0 raises for a second clause for conflicts"
)


def test_sqlalchemy_itself_refuses_a_second_clause_before_2_1() -> None:
    if hasattr(sqlite.Insert, "ext"):
        assert len(chained({"note": "n"})._post_values_clause.clauses) == 2
        return
    with pytest.raises(exc.InvalidRequestError):
        chained({"note": "n"})


@takes_several
@pytest.mark.parametrize(
    "value", [func.upper("plaintext"), t.c.note, literal("plaintext", String), literal_column("'plaintext'")], ids=str
)
def test_each_of_several_clauses_for_conflicts_is_checked(value: Any) -> None:
    engine = attach_key_ring(create_engine("sqlite://", poolclass=StaticPool), RING)
    with pytest.raises(UnsupportedOperationError, match="stored in plaintext"):
        chained({"tok": value}).compile(engine)


@takes_several
def test_several_clauses_for_conflicts_store_ciphertext() -> None:
    engine = attach_key_ring(create_engine("sqlite://", poolclass=StaticPool), RING)
    Base.metadata.create_all(engine)
    with engine.begin() as opened:
        opened.exec_driver_sql("CREATE UNIQUE INDEX uq_note ON t (note)")
        opened.execute(insert(t), {"id": 1, "tok": "old", "note": "n"})
        opened.execute(chained({"tok": "set", "note": "m"}))
        opened.execute(chained({"other": S}))
        assert opened.execute(select(t.c.tok, t.c.other, t.c.note)).one() == ("set", S, "m")
        stored = opened.exec_driver_sql("SELECT tok, other FROM t").one()
        assert all(value.startswith("sealchemy:v1:") for value in stored)
    engine.dispose()


def test_an_unknown_clause_behind_values_is_refused() -> None:
    class Clause(ClauseElement):
        __visit_name__ = "sealchemy_test_clause"

    statement = sqlite.insert(t).values(id=1, tok=S)
    statement._post_values_clause = Clause()
    engine = attach_key_ring(create_engine("sqlite://"), RING)
    with pytest.raises(UnsupportedOperationError, match="unknown clause") as caught:
        statement.compile(engine)
    assert S not in str(caught.value)
