"""The encrypted columns that models declare, as a rewrite takes them."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import MetaData

from sealchemy._column.blind_index.pairs import pairs_of
from sealchemy._column.encrypted_type import EncryptedType, encrypted_type, require_encrypted
from sealchemy._column.rows.parts import find_parts
from sealchemy._databases.table import TableColumns
from sealchemy.errors import ColumnDefinitionError

from .blind_index.index_columns import IndexColumns


def declared_tables(metadata: MetaData) -> list[TableColumns]:
    """Return the tables that have encrypted columns, in the order of their dependencies.

    Raises:
        ColumnDefinitionError: there are none.
    """
    tables = []
    for table in metadata.sorted_tables:
        types = {item.name: encrypted_type(item.type) for item in table.columns}
        found = {name: type_ for name, type_ in types.items() if type_ is not None}
        if found:
            columns = {name: type_.context for name, type_ in found.items()}
            kinds = {name: type_.kind.name for name, type_ in found.items()}
            bind_to = {name: part_names(table.columns, name, type_) for name, type_ in found.items() if type_.bind_to}
            tables.append(TableColumns(table.name, columns, table.schema, kinds, bind_to))
    if not tables:
        raise ColumnDefinitionError(
            "no table here has an EncryptedString, EncryptedJSON or EncryptedBytes column;"
            " import the modules that declare the models first"
        )
    return tables


def declared_indexes(metadata: MetaData) -> list[IndexColumns]:
    """Return the blind indexes that models declare, in the order of `declared_tables`."""
    found = []
    for table in metadata.sorted_tables:
        for secret, index in pairs_of(table):
            type_ = require_encrypted(secret.type)
            bind_to = part_names(table.columns, secret.name, type_) if type_.bind_to else ()
            found.append(IndexColumns(table.name, secret.name, index.name, index.type, table.schema, bind_to))
    return found


def part_names(columns: Iterable[Any], name: str, type_: EncryptedType[Any]) -> tuple[str, ...]:
    """Return the names, in the database, of the columns that the values of a column are bound to.

    Raises:
        ColumnDefinitionError: the table does not have them all.
    """
    column = next(item for item in columns if item.name == name)
    parts = find_parts(column, type_.bind_to)
    if parts is None:
        raise ColumnDefinitionError(f"{column}: its table lacks one of {', '.join(type_.bind_to)}")
    return tuple(str(getattr(part, "name", "")) for part in parts)
