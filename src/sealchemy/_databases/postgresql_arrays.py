"""Rows as arrays on PostgreSQL: one statement writes, or reads, a whole batch."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import NullType

from .table import RowKey, Target


def unnest(target: Target, columns: int) -> Any:
    """Return the rows of arrays `k0`, ... of keys and `c0`, ... of values, as a table in SQL."""
    types = {f"k{index}": item.type for index, item in enumerate(target.key)}
    types |= {f"c{index}": sa.Text() for index in range(columns)}
    arrays = [_Array(sa.bindparam(name, type_=NullType()), ARRAY(type_)) for name, type_ in types.items()]
    return sa.func.unnest(*arrays).table_valued(*types, name="new").render_derived()


def array_parameters(keys: Sequence[RowKey], values: Sequence[RowKey]) -> dict[str, list[Any]]:
    parameters = {f"k{index}": list(items) for index, items in enumerate(zip(*keys, strict=True))}
    return parameters | {f"c{index}": list(items) for index, items in enumerate(zip(*values, strict=True))}


def same_keys(target: Target, new: Any, keys: Sequence[RowKey]) -> list[sa.ColumnElement[bool]]:
    """Return the join with `_unnest`; the range lets the planner start there, and not at the table's first row."""
    key, (first, last) = sa.tuple_(*target.key), (typed(target.key, values) for values in (keys[0], keys[-1]))
    return [*(item == new.c[f"k{index}"] for index, item in enumerate(target.key)), key >= first, key <= last]


def typed(key: Sequence[sa.ColumnElement[Any]], values: RowKey) -> sa.Tuple:
    return sa.tuple_(*(sa.cast(value, item.type) for item, value in zip(key, values, strict=True)))


class _Array(sa.Cast[Any]):
    """A parameter that is an array; psycopg sends it in binary, at a fortieth of the cost of text."""

    inherit_cache = True


@compiles(_Array)
def _compile_array(element: _Array, compiler: SQLCompiler, **options: Any) -> str:
    if compiler.dialect.driver not in {"psycopg", "psycopg_async"}:
        return str(compiler.visit_cast(element, **options))  # type: ignore[no-untyped-call]
    compiler.process(element.clause, **options)  # which registers the parameter
    return f"CAST(%({element.clause.key})b AS {compiler.process(element.typeclause, **options)})"
