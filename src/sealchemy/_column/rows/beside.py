"""Find the columns that stand beside another one, in the same table or through subqueries."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy.sql.elements import ColumnClause, ColumnElement
from sqlalchemy.sql.selectable import FromClause

from sealchemy._column.elements import is_null, unwrap


def find_beside(column: Any, keys_of: Callable[[Any], Sequence[str]]) -> tuple[ColumnElement[Any], ...] | None:
    """Return the columns with certain keys, as the table or subquery of a column has them; None if it lacks one.

    `keys_of` returns these keys for the column of a table that everything comes from.
    """
    table = getattr(column, "table", None)
    if not isinstance(column, ColumnClause) or not isinstance(table, FromClause):
        return None
    if not column._proxies:
        return _all_of(table.c.get(key) for key in keys_of(column))
    sources = _sources(column)
    of_sources = [None if is_null(source) else find_beside(source, keys_of) for source in sources]
    if any(parts is None and not is_null(source) for parts, source in zip(of_sources, sources, strict=True)):
        return None
    beside = [(item, [hash(source) for source in _sources(item)]) for item in table.c]
    count = max((len(parts) for parts in of_sources if parts is not None), default=0)
    return _all_of(
        next((item for item, hashes in beside if _are_these(hashes, of_sources, at)), None) for at in range(count)
    )


def _sources(column: Any) -> list[Any]:
    """Return what a column of a subquery selects, one expression for each SELECT of a UNION."""
    found = column._proxies
    of_union = [item for item in found if "weight" in item._annotations]
    sources = {hash(source): source for item in found if (source := unwrap(item)) is not None}
    # SQLAlchemy adds a label of one again.
    return [unwrap(item) for item in of_union] or list(sources.values())


def _are_these(hashes: list[int], of_sources: list[Any], at: int) -> bool:
    """Return whether a column of a subquery is, in each of its SELECTs, the one with a key."""
    pairs = zip(hashes, of_sources, strict=False)
    return len(hashes) == len(of_sources) and all(parts is None or hash(parts[at]) == item for item, parts in pairs)


def _all_of(columns: Iterable[Any]) -> tuple[Any, ...] | None:
    found = tuple(columns)
    return None if any(item is None for item in found) else found
