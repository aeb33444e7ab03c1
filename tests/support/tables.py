"""Plaintext tables, as an application without encryption would have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Integer, MetaData, String, Table, Text, insert, text

if TYPE_CHECKING:
    from sqlalchemy import Engine

COLUMNS = {"access": "grants.access", "refresh": "grants.refresh"}


def grants(engine: Engine, rows: int, **options: Any) -> dict[int, tuple[str | None, str | None]]:
    """Create the table `grants` with plaintext rows, and return them by primary key."""
    table = Table(
        "grants",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("access", options.get("type_", Text())),
        Column("refresh", Text),
        Column("note", String(20), server_default="n"),
    )
    table.create(engine)
    values = {
        number: (
            f"access-SENTINEL-{number}" if number % 7 else "",
            None if number % 3 == 0 else f"refresh-ключ-{number}",
        )
        for number in range(1, rows + 1)
    }
    with engine.begin() as connection:
        if rows:
            connection.execute(
                insert(table),
                [{"id": key, "access": access, "refresh": refresh} for key, (access, refresh) in values.items()],
            )
    return values


def raw(engine: Engine, table: str = "grants") -> dict[Any, tuple[Any, ...]]:
    """Return the stored values by primary key."""
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT id, access, refresh FROM {table} ORDER BY id"))
        return {row[0]: tuple(row[1:]) for row in rows}
