"""The mixin over SQLAlchemy's compiler: it changes no SQL, and knows every kind of element."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql, sqlite
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.compiler import SQLCompiler

from sealchemy import Key, KeyRing, attach_key_ring
from sealchemy._column.statements import ProtectedCompiler, protect
from tests.column.test_constructs import READ, Row, b, t
from tests.support.models import Account

DIALECTS: dict[str, Callable[[], Any]] = {
    "postgresql": postgresql.dialect,
    "sqlite": sqlite.dialect,
    "mysql": mysql.dialect,
    "oracle": oracle.dialect,
    "mssql": mssql.dialect,
}
a = sa.table("a", sa.column("id", sa.Integer), sa.column("x", sa.String), sa.column("y", sa.JSON))
RECURSIVE = sa.select(sa.literal(1).label("n")).cte("r", recursive=True)
PLAIN: dict[str, Callable[[], Any]] = {
    "select": lambda: sa.select(a).where(a.c.id.in_([1, 2]), a.c.x == "v").order_by(a.c.x.desc()).limit(3).offset(1),
    "functions": lambda: sa.select(sa.func.lower(a.c.x), sa.func.count().over(partition_by=a.c.id)),
    "case": lambda: sa.select(sa.case((a.c.id > 1, "a"), else_="b")).group_by(a.c.id).having(sa.func.count() > 1),
    "compound": lambda: sa.union(sa.select(a.c.id), sa.select(a.c.id)).order_by("id"),
    "CTE": lambda: sa.select(sa.select(a).cte("c").c.x).distinct(),
    "recursive": lambda: sa.select(RECURSIVE.union_all(sa.select(RECURSIVE.c.n + 1)).c.n),
    "exists": lambda: sa.select(a.c.id).where(sa.exists().where(a.c.id == t.c.id)),
    "subquery": lambda: sa.select(sa.select(a.c.x).limit(1).scalar_subquery(), sa.lateral(sa.select(a)).c.id),
    "insert": lambda: sa.insert(t).values(id=1, name="n", tok="x"),
    "insert of rows": lambda: sa.insert(t).values([{"id": 1, "tok": "x"}, {"id": 2, "tok": None}]),
    "insert from select": lambda: sa.insert(b).from_select(["id", "tok"], sa.select(t.c.id, t.c.tok)),
    "update": lambda: sa.update(t).values(tok="x", name=sa.func.lower(t.c.name)).where(t.c.id == 1),
    "update with a subquery": lambda: sa.update(t).values(tok=sa.select(b.c.tok).limit(1).scalar_subquery()),
    "entity update": lambda: sa.update(Row).values(tok="x").where(Row.id == 1),
    "delete": lambda: sa.delete(t).where(t.c.id == 1),
    "aliased": lambda: sa.select(aliased(Row)).join(b, b.c.id == t.c.id, isouter=True),
    "text": lambda: sa.text("SELECT :x").bindparams(x=1),
}
CORPUS = PLAIN | READ


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_sql_is_the_same_with_and_without_the_mixin(dialect: str, name: str) -> None:
    plain, protected = DIALECTS[dialect](), DIALECTS[dialect]()
    protect(protected)
    statement = CORPUS[name]()
    try:
        expected = statement.compile(dialect=plain)
    except (sa.exc.CompileError, NotImplementedError) as error:
        with pytest.raises(type(error)):
            statement.compile(dialect=protected)
        return
    compiled = statement.compile(dialect=protected)
    assert isinstance(compiled, ProtectedCompiler)
    assert str(compiled) == str(expected)
    assert list(compiled.params) == list(expected.params)
    assert [entry[:2] for entry in compiled._result_columns] == [entry[:2] for entry in expected._result_columns]


def test_every_kind_of_element_is_known() -> None:
    """A new `visit_` method may be a new way to write, or to use a column: look at it, then add it to the list."""
    path = Path(__file__).parents[1] / "vectors/visit_methods.json"
    known = set(json.loads(path.read_text()))
    assert {name for name in dir(SQLCompiler) if name.startswith("visit_")} <= known


def test_protecting_twice_changes_nothing() -> None:
    dialect = sqlite.dialect()
    protect(dialect)
    compiler = dialect.statement_compiler
    protect(dialect)
    assert dialect.statement_compiler is compiler


def test_engines_made_from_an_attached_one_are_protected_in_either_order() -> None:
    ring = KeyRing(primary=Key.generate())
    for attach_parent in (True, False):
        parent = sa.create_engine("sqlite://")
        child = parent.execution_options(schema_translate_map={None: None})
        attach_key_ring(parent if attach_parent else child, ring)
        for engine in (parent, child):
            assert issubclass(engine.dialect.statement_compiler, ProtectedCompiler)
            with engine.connect() as connection, pytest.raises(Exception, match="stored in plaintext"):
                connection.execute(sa.update(t).values(tok=sa.func.lower("x")))
        parent.dispose()


def test_a_statement_cached_before_the_ring_was_attached_is_compiled_again() -> None:
    engine = sa.create_engine("sqlite://")
    Account.metadata.create_all(engine)
    statement = sa.select(Account.id).order_by(Account.name)
    with Session(engine) as session:
        session.scalars(statement).all()
    attach_key_ring(engine, KeyRing(primary=Key.generate()))
    with Session(engine) as session:
        session.scalars(statement).all()
        compiled = statement.compile(engine)
    assert isinstance(compiled, ProtectedCompiler)
    engine.dispose()
