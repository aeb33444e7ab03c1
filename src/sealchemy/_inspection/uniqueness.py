"""What models declare unique by a blind index, and the database does not have."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Index, Inspector, Table, UniqueConstraint, inspect
from sqlalchemy.exc import SAWarning

from sealchemy._inspection.findings import Finding, Severity


def missing_uniqueness(connection: Connection, table: Table, index: str) -> Iterator[Finding]:
    """Yield a finding for each unique constraint or index over the column of a blind index that does not exist.

    Args:
        connection: to the database.
        table: as the models declare it.
        index: the name of the column, which exists.
    """
    inspector = inspect(connection)
    if table.name not in inspector.get_view_names(table.schema):
        existing = _existing(inspector, table)
        for names in _declared(table):
            if index in names and not any(found <= set(names) for found in existing):
                listed = ", ".join(names)
                yield Finding(
                    "not-unique",
                    Severity.SAYS,
                    index,
                    f"the models declare ({listed}) unique, and the database does not have that, so it accepts equal"
                    f" secrets; once every row has its digest, create it: UNIQUE ({listed})",
                )


def _declared(table: Table) -> Iterator[list[str]]:
    """Yield the columns of what is declared unique, but for expressions and indexes over a part of the rows."""
    for item in (*table.constraints, *table.indexes):
        if isinstance(item, UniqueConstraint):
            yield [column.name for column in item.columns]
        elif isinstance(item, Index) and item.unique and not _is_partial(item.dialect_kwargs):
            expressions: Sequence[object] = item.expressions
            if all(isinstance(expression, Column) for expression in expressions):
                yield [column.name for column in item.columns]


def _existing(inspector: Inspector, table: Table) -> list[set[str | None]]:
    """Return the columns of what the database keeps unique in all rows."""
    name, schema = table.name, table.schema
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # of expressions, which are skipped
        indexes = inspector.get_indexes(name, schema, include_auto_indexes=True)  # of SQLite, for constraints
    of_all_rows = [item for item in indexes if not _is_partial(item.get("dialect_options", {}))]
    found = [item["column_names"] for item in of_all_rows if item["unique"]]
    found += [[*item["column_names"]] for item in inspector.get_unique_constraints(name, schema)]
    found.append([*inspector.get_pk_constraint(name, schema)["constrained_columns"]])
    return [{*names} for names in found if names and None not in names]


def _is_partial(options: Mapping[str, Any]) -> bool:
    """Return whether the options of an index say that it is of a part of the rows, or not valid."""
    set_options = {name for name, value in options.items() if value is not None and value is not False}
    return any(name.endswith(("_where", "_invalid")) for name in set_options)
