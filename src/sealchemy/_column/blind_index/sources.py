"""The digest of a secret that a statement copies from another row: the index that stands beside it there."""

from typing import Any

from sqlalchemy import Table
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList, ColumnClause
from sqlalchemy.sql.selectable import Select, TableClause, Values

from sealchemy._column.elements import ALWAYS, PERMIT, is_null, unwrap

from .pairs import index_of, is_index


def digest_beside(element: Any, index: Any) -> Any:
    """Return the index that stands beside a stored secret; None if there is none that is made as `index` is."""
    found = index_of(element) if isinstance(element, ColumnClause) else None
    if found is None or not is_index(found.type) or isinstance(found.table, Values):
        return None
    is_alike = found.type.context == index.type.context and found.type.normalize is index.type.normalize
    return found._annotate({PERMIT: ALWAYS}) if is_alike and _is_of_a_table(found) else None


def _is_of_a_table(column: Any) -> bool:
    sources = column._proxies
    if not sources:
        return isinstance(column.table, TableClause)
    return all(is_null(unwrap(item)) or _is_of_a_table(unwrap(item)) for item in sources)


def is_one_row(select: Any, target: Any) -> bool:
    """Return whether two copies of a scalar subquery take the same row: one table, whose primary key is compared.

    With a limit, another subquery in it or a function such as random(), they may take two. The key may be compared with
    a column of the table that is written to.
    """
    if not isinstance(select, Select) or select._has_row_limiting_clause or len(select.selected_columns) != 1:
        return False
    found = select.get_final_froms()
    if not found:
        return not select._where_criteria
    table = getattr(unwrap(select.selected_columns[0]), "table", None)
    others = {hash(item) for item in found} - {hash(table)}
    if others and not (select._auto_correlate and others == {hash(target)}):
        return False
    pinned = {getattr(column, "key", None) for item in select._where_criteria for column in _pinned(item, table)}
    key = {column.key for column in getattr(table, "primary_key", ())}
    is_plain = isinstance(getattr(table, "element", table), Table)
    return is_plain and None not in pinned and bool(key) and key <= pinned


def _pinned(condition: Any, table: Any) -> list[Any]:
    """Return the columns of a table that a condition compares with a value; None for what it may be otherwise."""
    if isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
        return [column for item in condition.clauses for column in _pinned(item, table)]
    if isinstance(condition, BinaryExpression) and condition.operator is operators.eq:
        sides = unwrap(condition.left), unwrap(condition.right)
        own = [side for side in sides if isinstance(side, ColumnClause) and hash(side.table) == hash(table)]
        if len(own) == 1 and all(isinstance(side, ColumnClause | BindParameter) for side in sides):
            return own
    return [None]
