"""The encrypted columns that models declare."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .errors import ColumnDefinitionError
from .guard import encrypted_type

if TYPE_CHECKING:
    from sqlalchemy import MetaData


class DeclaredTable(NamedTuple):
    """A table with encrypted columns, as `rewrite` takes it.

    Attributes:
        name: its name.
        schema: its schema, if it is not the default one.
        columns: the context of each encrypted column, by column name.

    """

    name: str
    schema: str | None
    columns: dict[str, str]


def declared_tables(metadata: MetaData) -> list[DeclaredTable]:
    """Return the tables that have encrypted columns, in the order of their dependencies.

    Raises:
        ColumnDefinitionError: there is none.

    """
    found = []
    for table in metadata.sorted_tables:
        types = {item.name: encrypted_type(item.type) for item in table.columns}
        columns = {name: type_.context for name, type_ in types.items() if type_ is not None}
        if columns:
            found.append(DeclaredTable(table.name, table.schema, columns))
    if not found:
        message = "no table here has an EncryptedString column: import the modules that declare the models first"
        raise ColumnDefinitionError(message)
    return found
