"""`EncryptedType`: the mark of the types whose columns are protected."""

from typing import Any

from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


class EncryptedType:
    """Marks the types whose columns are protected."""

    context: str


def encrypted_type(type_: object) -> EncryptedType | None:
    """Return the encrypted type of a column, also where a `TypeDecorator` wraps it; None if there is none."""
    while not isinstance(type_, EncryptedType):
        if not isinstance(type_, TypeDecorator):
            return None
        type_ = type_.impl_instance
    return type_


def context_of(element: object, dialect: Dialect) -> str | None:
    """Return the context of an SQL expression; None if its type is not encrypted on this dialect."""
    type_: Any = getattr(element, "type", None)
    if isinstance(type_, EncryptedType):
        return type_.context
    if not isinstance(type_, TypeDecorator) and not getattr(type_, "_variant_mapping", None):
        return None
    # A wrapper's own type, or one that its `load_dialect_impl` or a variant chooses.
    found = encrypted_type(type_) or encrypted_type(type_.dialect_impl(dialect))
    return None if found is None else found.context
