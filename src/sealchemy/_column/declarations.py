"""Refuse declarations that look protected and are not: the database would compare, compute or fill in plaintext."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import CheckConstraint, Column, Index, Table, event
from sqlalchemy.schema import ColumnCollectionConstraint
from sqlalchemy.types import TypeDecorator, TypeEngine

from sealchemy.errors import ColumnDefinitionError

from .blind_index.index_type import BlindIndex
from .encrypted_type import EncryptedType, encrypted_type, find_override, put_context_into_cache_key

_WHY = (
    "Two encryptions of one text differ, so the database can neither compare nor compute them; for lookups and"
    " uniqueness, add a column of type BlindIndex"
)


_MAY_OVERRIDE = frozenset(
    {"process_bind_param", "process_literal_param", "process_result_value", "coerce_compared_value", "compare_values"}
    | {"_static_cache_key", "cache_ok", "coerce_to_is_types", "comparator_factory", "copy", "hashable", "impl"}
    | {"impl_instance", "python_type", "should_evaluate_none", "sort_key_function"}
)
"""What a TypeDecorator over an encrypted type may have of its own."""


def check_column(_type: object, column: object) -> None:
    """Refuse a column of this type; a listener for `after_parent_attach` of the type."""
    if not isinstance(column, Column):
        return
    _refuse_other_places(column)
    _refuse_wrappers(column)
    if column.name is not None:  # a declarative class gives it one later
        refuse_declaration(column)
    event.listen(column, "after_parent_attach", _check_column_in_table)


@event.listens_for(Column, "after_parent_attach")
def _refuse_other_places(column: Column[Any], _table: object = None) -> None:
    """Refuse an encrypted type anywhere in a type but at the end of its wrappers, and an index inside of one."""
    found, places = encrypted_type(column.type), [column.type]
    for place in places:
        inner = _types_in(place)
        places += [item for item in inner if not any(item is known for known in places)]
    has_variant = any(getattr(place, "_variant_mapping", None) for place in places)
    for place in places:
        is_index = isinstance(place, BlindIndex)
        if is_index and (place is not column.type or has_variant):
            raise ColumnDefinitionError(
                f"{place!r} inside {column.type!r}, on column {column.name!r}: it would not be filled; use"
                " the type itself"
            )
        if isinstance(place, EncryptedType) and (place is not found or has_variant):
            raise ColumnDefinitionError(
                f"{place!r} inside {column.type!r}, on column {column.name!r}: values would be stored in plaintext"
                " where the outer type or a variant of it applies; use the type itself, or a TypeDecorator whose impl"
                " it is (for lists and documents, EncryptedJSON)"
            )


def _types_in(type_: object) -> list[TypeEngine[Any]]:
    """Return the types that are attributes of a type, such as the items of an ARRAY, the variants or the impl."""
    found = []
    for value in vars(type_).values():
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
        found += [part for part in parts if isinstance(part, TypeEngine)]
    return found


def _refuse_wrappers(column: Column[Any]) -> None:
    """Refuse a user's TypeDecorator over an encrypted type that does more than convert values."""
    type_: Any = column.type
    while not isinstance(type_, EncryptedType):
        own = [name for name in vars(type_) if callable(getattr(TypeDecorator, name, None))]
        if name := find_override(type(type_), TypeDecorator, _MAY_OVERRIDE) or next(iter(own), None):
            raise ColumnDefinitionError(
                f"{type(type_).__name__} overrides {name}, with which values could be stored in plaintext; over an"
                " encrypted type, convert values in process_bind_param and process_result_value alone"
            )
        put_context_into_cache_key(type(type_))
        type_ = type_.impl_instance


def refuse_declaration(column: Column[Any]) -> None:
    """Raise `ColumnDefinitionError` if the database would compare, compute or fill this encrypted column."""
    defaults = [default for default in (column.default, column.onupdate) if default is not None]
    declared = {
        "primary_key": column.primary_key,
        "unique": column.unique,
        "index": column.index,
        "Computed": column.computed is not None,
        "Identity": column.identity is not None,
        "Sequence": any(default.is_sequence for default in defaults),
        "server_default": column.server_default is not None,
        "server_onupdate": column.server_onupdate is not None,
        "an SQL expression as default": any(default.is_clause_element for default in defaults),
        "ForeignKey": bool(column.foreign_keys),
    }
    for name, is_declared in declared.items():
        if is_declared:
            raise ColumnDefinitionError(f"{column.type!r} on column {column.name!r}: {name} is not supported. {_WHY}")


def _check_column_in_table(column: Column[Any], table: Table) -> None:
    refuse_declaration(column)
    for item in (*table.constraints, *table.indexes):
        _check_item(item, table)


@event.listens_for(ColumnCollectionConstraint, "after_parent_attach")
@event.listens_for(Index, "after_parent_attach")
def _check_item(item: Any, _table: object) -> None:
    if isinstance(item, CheckConstraint):
        return
    for column in getattr(item, "columns", ()):
        if encrypted_type(column.type) is not None:
            raise ColumnDefinitionError(
                f"{type(item).__name__} {item.name!r} covers the encrypted column {column.name!r}. {_WHY}"
            )
