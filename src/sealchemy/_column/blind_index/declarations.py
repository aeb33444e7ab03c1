"""Find the secret of each index, and refuse declarations with which digests would be missing or wrong."""

from typing import Any, NoReturn

from sqlalchemy import Column, Table, event
from sqlalchemy.orm import Mapper

from sealchemy._column.encrypted_type import encrypted_type
from sealchemy._values.codecs import TEXT
from sealchemy.errors import ColumnDefinitionError

from .index_type import BlindIndex
from .pairs import is_index


@event.listens_for(BlindIndex, "after_parent_attach")
def _check_index(_type: object, column: object) -> None:
    if isinstance(column, Column):
        _check_column(column)
        event.listen(column, "after_parent_attach", lambda item, _table: _check_column(item))


def _check_column(column: Column[Any]) -> None:
    declared = {
        "primary_key": column.primary_key,
        "ForeignKey": bool(column.foreign_keys),
        "a default": column.default is not None or column.server_default is not None,
        "onupdate": column.onupdate is not None or column.server_onupdate is not None,
        "Computed or Identity": column.computed is not None or column.identity is not None,
    }
    for name, is_declared in declared.items():
        if is_declared:
            _refuse(column, f"{name} is not supported: it is filled with the digest of its secret, and nothing else")


@event.listens_for(Table, "after_parent_attach")
def _check_table(table: Table, _metadata: object = None) -> None:
    """Refuse an index without exactly one secret, or beside another one."""
    for index in table.c:
        if not is_index(index.type):
            continue
        context = index.type.context
        others = [item for item in table.c if is_index(item.type) and item.type.context == context]
        secrets = [
            item for item in table.c if (type_ := encrypted_type(item.type)) is not None and type_.context == context
        ]
        if len(others) > 1:
            _refuse(index, f"{others[0].name!r} and {others[1].name!r} are both indexes of {context}; keep one")
        if len(secrets) != 1:
            count = "more than one column" if secrets else "no column"
            known = [type_.context for item in table.c if (type_ := encrypted_type(item.type)) is not None]
            _refuse(
                index,
                f"table {table.name!r} has {count} with the context {context}, whose digest it would hold; its contexts"
                f" are {', '.join(known) or 'none'}",
            )
        _check_secret(secrets[0], index)


def _check_secret(secret: Column[Any], index: Column[Any]) -> None:
    type_ = encrypted_type(secret.type)
    if type_ is None or type_.kind is not TEXT:
        _refuse(index, f"its secret {secret.name!r} is {secret.type!r}; only an EncryptedString can have an index")
    if secret.default is not None or secret.onupdate is not None:
        _refuse(index, f"its secret {secret.name!r} has a default in Python, which comes too late; assign the value")


@event.listens_for(Mapper, "after_mapper_constructed")
def _check_mapped_table(mapper: Mapper[Any], _class: type) -> None:
    if isinstance(mapper.local_table, Table):  # columns may have been added to it
        _check_table(mapper.local_table)


def _refuse(column: Column[Any], problem: str) -> NoReturn:
    raise ColumnDefinitionError(f"{column.type!r} on column {column.name!r}: {problem}")
