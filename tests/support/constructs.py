"""Ways to write a value to a column of tables that the caller has: what may be the value, and in which statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    JSON,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    case,
    cast,
    collate,
    column,
    exists,
    func,
    insert,
    lambda_stmt,
    literal,
    literal_column,
    not_,
    null,
    select,
    text,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from sealchemy import EncryptedString, SecretString

from .leaks import SENTINEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

TOK, REF = "t.tok", "t.ref"
K = SENTINEL


class Tables(NamedTuple):
    """An entity over the table `t`, that table, and `b`, which has a secret of the same context.

    `t` has the columns id, name, tok and ref; `b` has id, tok and plain. `untyped` is `t` without the types.
    """

    row: Any
    t: Any
    b: Any
    untyped: Any = Table("t", MetaData(), Column("id", Integer), Column("name", String(200)), Column("tok", Text))


def accepted(tables: Tables) -> dict[str, Callable[[], Any]]:
    """Return the values that are accepted, by name."""
    b = tables.b
    return {
        "str": lambda: K,
        "SecretString": lambda: SecretString(K),
        "None": lambda: None,
        "null()": null,
        "cast of NULL": lambda: cast(null(), EncryptedString(TOK)),
        "bindparam": lambda: bindparam("p1", K, type_=EncryptedString(TOK)),
        "bindparam, callable": lambda: bindparam("p2", callable_=lambda: K, type_=EncryptedString(TOK)),
        "typed literal": lambda: literal(K, EncryptedString(TOK)),
        "subquery of a column": lambda: select(b.c.tok).where(b.c.id == 1).scalar_subquery(),
        "subquery of an alias": lambda: select(b.alias("b2").c.tok).limit(1).scalar_subquery(),
        "subquery of a CTE": lambda: select(select(b.c.tok).cte("c1").c.tok).limit(1).scalar_subquery(),
        "subquery of a typed literal": lambda: select(literal(K, EncryptedString(TOK))).scalar_subquery(),
    }


def refused(tables: Tables) -> dict[str, Callable[[], Any]]:
    """Return the values that are refused, by name."""
    _, t, b, untyped = tables
    return {
        "literal": lambda: literal(K),
        "literal of another context": lambda: literal(K, EncryptedString(REF)),
        "bindparam of text": lambda: bindparam("p3", K, type_=Text()),
        "function": lambda: func.lower(K),
        "typed function": lambda: func.lower(K, type_=EncryptedString(TOK)),
        "coalesce": lambda: func.coalesce(t.c.tok, K),
        "nullif": lambda: func.nullif(t.c.tok, K),
        "case": lambda: case((t.c.id == 1, K), else_=None),
        "case of the column": lambda: case((t.c.id == 1, K), else_=t.c.tok),
        "cast": lambda: cast(K, Text),
        "cast of the column": lambda: cast(t.c.tok, Text),
        "type_coerce": lambda: type_coerce(K, Text),
        "typed type_coerce": lambda: type_coerce(literal(K), EncryptedString(TOK)),
        "type_coerce of the column": lambda: type_coerce(t.c.tok, Text),
        "text": lambda: text(f"'{K}'"),
        "literal_column": lambda: literal_column(f"'{K}'"),
        "typed literal_column": lambda: literal_column(f"'{K}'", EncryptedString(TOK)),
        "column()": lambda: column("name"),
        "typed column()": lambda: column("name", EncryptedString(TOK)),
        "a plain column": lambda: t.c.name,
        "a column of another context": lambda: t.c.ref,
        "an untyped copy": lambda: untyped.c.tok,
        "concatenation": lambda: t.c.name + K,
        "collate": lambda: collate(literal(K), "C"),
        "subquery of a literal": lambda: select(literal(K)).scalar_subquery(),
        "subquery of a function": lambda: select(func.lower(K)).scalar_subquery(),
        "subquery of an untyped parameter": lambda: select(bindparam("p4", K)).scalar_subquery(),
        "subquery of a plain column": lambda: select(b.c.plain).where(b.c.id == 1).scalar_subquery(),
        "subquery of a derived column": lambda: select(
            select(func.coalesce(b.c.tok, K).label("tok")).subquery().c.tok
        ).scalar_subquery(),
        "subquery of text": lambda: select(
            text(f"SELECT '{K}' AS tok").columns(tok=EncryptedString(TOK)).subquery().c.tok
        ).scalar_subquery(),
        "subquery of a union": lambda: select(
            union_all(select(b.c.tok), select(literal(K))).subquery().c.tok
        ).scalar_subquery(),
        "window function": lambda: func.max(t.c.tok).over(),
        "JSON access": cast(literal(K), JSON)["a"].as_string,
        "exists": lambda: exists(select(b.c.tok)),
        "negation": lambda: not_(t.c.id == 1),
        "label of a function": lambda: func.lower(K).label("tok"),
    }


def upsert(t: Any, connection: Connection, key: Any, value: Any) -> Any:
    """Return an upsert that sets a key to a value."""
    kind = connection.dialect.name
    row = {"id": 1, "name": "n1", "tok": "x"}
    if kind in {"mysql", "mariadb"}:
        return mysql.insert(t).values(**row).on_duplicate_key_update({key: value})
    statement = (postgresql if kind == "postgresql" else sqlite).insert(t).values(**row)
    return statement.on_conflict_do_update(index_elements=["id"], set_={key: value})


def forms(tables: Tables) -> dict[str, Callable[[Connection, Any], Any]]:
    """Return the statements that write a value, by name."""
    row, t, _, untyped = tables
    return {
        "insert": lambda _, v: insert(t).values(id=9, tok=v),
        "insert by column": lambda _, v: insert(t).values({t.c.id: 9, t.c.tok: v}),
        "insert by attribute": lambda _, v: insert(row).values({row.id: 9, row.tok: v}),
        "insert of rows": lambda _, v: insert(t).values([{"id": 8, "tok": "x"}, {"id": 9, "tok": v}]),
        "update": lambda _, v: update(t).values(tok=v),
        "update by column": lambda _, v: update(t).values({t.c.tok: v}).where(t.c.id == 1),
        "update by untyped column": lambda _, v: update(t).values({untyped.c.tok: v}).where(t.c.id == 1),
        "update by column()": lambda _, v: update(t).values({column("tok"): v}),
        "ordered update": lambda _, v: update(t).ordered_values((t.c.name, "x"), (t.c.tok, v)).where(t.c.id == 1),
        "update of an entity": lambda _, v: update(row).values(tok=v).where(row.id == 1),
        "upsert": lambda c, v: upsert(t, c, "tok", v),
        "upsert by column": lambda c, v: upsert(t, c, t.c.tok, v),
        "lambda": lambda _, v: lambda_stmt(lambda: update(t).values(tok=v).where(t.c.id == 1)),
    }
