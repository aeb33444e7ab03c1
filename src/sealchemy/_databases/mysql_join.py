"""One UPDATE for many rows on MariaDB and MySQL: they are joined with a list of keys and new values."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Integer

from sealchemy._values.secret import StoredPlaintext

from .table import RowKey, Target

_ROWS_OF_A_STATEMENT = 500  # of 64 KiB at most, so that they fit into max_allowed_packet


def can_join(target: Target, values: Sequence[Sequence[str | None]]) -> bool:
    """Return whether the keys are integers, since others compare under a collation, and the values ciphertext."""
    are_integers = all(isinstance(type_, Integer) for type_ in target.key_types)
    return are_integers and all(StoredPlaintext not in set(map(type, column)) for column in values)


def join_and_update(
    connection: Connection,
    target: Target,
    keys: Sequence[RowKey],
    values: Sequence[Sequence[str | None]],
    unchanged: Iterable[str],
) -> None:
    """Store new values, where there is one, with a statement for all rows that have the same columns."""
    for columns, places in _alike(values):
        for start in range(0, len(places), _ROWS_OF_A_STATEMENT):
            chunk = places[start : start + _ROWS_OF_A_STATEMENT]
            rows = [(*keys[place], *(values[index][place] for index in columns)) for place in chunk]
            _update(connection, target, columns, unchanged, rows)


def _alike(values: Sequence[Sequence[str | None]]) -> Iterable[tuple[tuple[int, ...], list[int]]]:
    """Return the columns that rows have a value for, and the places of these rows."""
    found: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(zip(*values, strict=True)):
        columns = tuple(index for index, value in enumerate(row) if value is not None)
        found.setdefault(columns, []).append(place)
    return found.items()


def _update(
    connection: Connection,
    target: Target,
    columns: Sequence[int],
    unchanged: Iterable[str],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Run an UPDATE of the rows joined with a list of keys and new values."""
    dialect = connection.dialect
    quote, mark = dialect.identifier_preparer.quote, "?" if dialect.paramstyle == "qmark" else "%s"
    names = [*(f"k{index}" for index in range(len(target.key))), *(f"c{index}" for index in columns)]
    first = ", ".join(f"{mark} AS {name}" for name in names)
    more = f" UNION ALL SELECT {', '.join([mark] * len(names))}" * (len(rows) - 1)
    table = dialect.identifier_preparer.format_table(target.table)
    same = " AND ".join(f"{table}.{quote(item.name)} = new.k{index}" for index, item in enumerate(target.key))
    changes = [f"{table}.{quote(target.columns[index].name)} = new.c{index}" for index in columns]
    changes += [f"{table}.{quote(name)} = {table}.{quote(name)}" for name in unchanged]
    # STRAIGHT_JOIN finds each row by its key. Another order would wait for rows that others have locked.
    new = f"(SELECT {first}{more}) AS new"
    sql = f"UPDATE {new} STRAIGHT_JOIN {table} ON {same} SET {', '.join(changes)}"  # noqa: S608 - quoted names
    connection.exec_driver_sql(sql, tuple(item for row in rows for item in row))
