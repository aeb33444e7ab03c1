"""What models declare unique by a blind index, and the database does not have."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Index, Table, UniqueConstraint, inspect

from sealchemy._inspection.findings import Finding, Severity


def missing_uniqueness(connection: Connection, table: Table, index: str) -> Iterator[Finding]:
    """Yield a finding for each unique constraint or index over the column of a blind index that does not exist.

    Args:
        connection: to the database.
        table: as the models declare it.
        index: the name of the column, which exists.
    """
    existing = _existing(connection, table)
    for names in _declared(table):
        if index in names and frozenset(names) not in existing:
            listed = ", ".join(names)
            yield Finding(
                "not-unique",
                Severity.SAYS,
                index,
                f"the models declare ({listed}) unique, and the database does not have that, so it accepts equal"
                f" secrets; once every row has its digest, create it: UNIQUE ({listed})",
            )


def _declared(table: Table) -> Iterator[list[str]]:
    for item in (*table.constraints, *table.indexes):
        if isinstance(item, UniqueConstraint) or (isinstance(item, Index) and item.unique):
            yield [column.name for column in item.columns]


def _existing(connection: Connection, table: Table) -> set[frozenset[str | None]]:
    inspector = inspect(connection)
    found: list[list[str | None]]
    found = [[*item["column_names"]] for item in inspector.get_unique_constraints(table.name, schema=table.schema)]
    found += [item["column_names"] for item in inspector.get_indexes(table.name, schema=table.schema) if item["unique"]]
    return {frozenset(names) for names in found}
