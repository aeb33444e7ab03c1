"""`IndexColumns`: a secret and its index, as they are opened in a database; the column of a new one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from sealchemy._column.blind_index.index_type import BlindIndex
from sealchemy._databases.access import Access
from sealchemy._databases.definition_lock import change_definition
from sealchemy._databases.table import TableColumns, look_up


class IndexColumns(NamedTuple):
    """A secret and its index, by the names of their columns.

    Attributes:
        table: the table's name.
        secret: the column of the secret.
        column: that of the index.
        type_: the type of the index, which has the context.
        schema: the table's schema, if it is not the default one.
        bind_to: the columns that the values of the secret are bound to.
    """

    table: str
    secret: str
    column: str
    type_: BlindIndex
    schema: str | None = None
    bind_to: Sequence[str] = ()

    def wanted(self) -> TableColumns:
        """Return the columns as a table is opened with them: the secret, then the index."""
        contexts = {self.secret: self.type_.context, self.column: self.type_.context}
        bind_to: Mapping[str, Sequence[str]] = {self.secret: self.bind_to} if self.bind_to else MappingProxyType({})
        return TableColumns(self.table, contexts, self.schema, {}, bind_to)


def open_columns(access: Access, columns: IndexColumns) -> Access:
    """Return the access to a table with these columns in place of its own; raises `ColumnDefinitionError`."""
    with access.transaction(write=False):
        target = look_up(access.connection, columns.wanted(), access.database.key_type, access.database.kind_of)
    return replace(access, target=target)


def add_column(access: Access, name: str) -> None:
    """Add the column of an index to an open table."""
    quote = access.connection.dialect.identifier_preparer
    table = quote.format_table(access.target.table)
    sql = f"ALTER TABLE {table} ADD COLUMN {quote.quote(name)} VARCHAR(64)"
    change_definition(access, lambda: access.connection.exec_driver_sql(sql))
