"""Primary keys of PostgreSQL that do not name their row."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CIDR, CITEXT, DOMAIN, INET, MACADDR
from sqlalchemy.types import TypeEngine

from .postgresql_columns import quoted_name
from .table import Target

_KEYS = (
    sa.Integer,
    sa.Numeric,
    sa.Float,
    sa.String,
    sa.Uuid,
    sa.LargeBinary,
    sa.Date,
    sa.DateTime,
    sa.Time,
    sa.Boolean,
    INET,
    CIDR,
    MACADDR,
)
"""Types whose values name their row when the driver hands them back; an INTERVAL of a month comes back as 30 days."""


def key_problem(connection: sa.Connection, target: Target) -> str | None:
    """Return the problem of keys whose parameters do not compare as the values in the table do.

    Also of a table that others inherit from: its rows include theirs, under keys of their own.
    """
    for item, type_ in zip(target.key, target.key_types, strict=True):
        is_citext = isinstance(type_, DOMAIN) and isinstance(type_.data_type, CITEXT)
        if not isinstance(_base_type(type_), _KEYS) or is_citext:
            return (
                f"primary key {item.name} is of type {type_!r}, whose values do not name their row when they are"
                " handed back; give the table an integer or UUID key"
            )
        if problem := _unreadable_key(connection, target, item, _base_type(type_)):
            return problem
    heirs = sa.text(
        "SELECT count(*) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent"
        " WHERE inhparent = to_regclass(:name) AND relkind <> 'p'"
    )
    if connection.scalar(heirs, {"name": quoted_name(connection, target)}):
        return "other tables inherit from it; name each of them"
    return None


def _unreadable_key(
    connection: sa.Connection, target: Target, item: sa.ColumnElement[Any], type_: TypeEngine[Any]
) -> str | None:
    """Return the problem of values that Python's types cannot hold: infinity, years before 1, 24:00, NaN."""
    # Read from the two ends of the key's index where possible: a table may have a billion rows.
    first, last = (
        sa.select(edge(item)).select_from(target.table).scalar_subquery() for edge in (sa.func.min, sa.func.max)
    )
    if isinstance(type_, sa.Date | sa.DateTime):
        wrong = sa.select(sa.or_(first < sa.text("'0001-01-01'"), last > sa.text("'9999-12-31'")))
    elif isinstance(type_, sa.Time):
        is_midnight = sa.cast(item, sa.Text).like("24:%")
        wrong = sa.select(sa.exists(sa.select(item).select_from(target.table).where(is_midnight)))
    elif isinstance(type_, sa.Numeric | sa.Float) and not isinstance(type_, sa.Integer):
        wrong = sa.select(last == sa.text("'NaN'"))
    else:
        return None
    if connection.scalar(wrong):
        return f"primary key {item.name} has a value that Python cannot hold, such as infinity or NaN; change it"
    return None


def _base_type(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    return type_.data_type if isinstance(type_, DOMAIN) else type_
