"""`EncryptedType`: the mark of the types whose columns are protected."""

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


def context_of(element: object) -> str | None:
    """Return the context of an SQL expression; None if its type is not encrypted."""
    type_ = encrypted_type(getattr(element, "type", None))
    return None if type_ is None else type_.context
