"""The encrypted columns that models declare, as a rewrite takes them."""

from sqlalchemy import MetaData

from sealchemy._column.encrypted_type import encrypted_type
from sealchemy._databases.table import TableColumns
from sealchemy.errors import ColumnDefinitionError


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
            tables.append(TableColumns(table.name, columns, table.schema, kinds))
    if not tables:
        raise ColumnDefinitionError(
            "no table here has an EncryptedString, EncryptedJSON or EncryptedBytes column;"
            " import the modules that declare the models first"
        )
    return tables
