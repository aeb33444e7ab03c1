"""Which index belongs to which secret: in each table, they have the same context."""

from typing import Any, TypeGuard

from sqlalchemy.sql.selectable import Join
from sqlalchemy.types import TypeDecorator

from sealchemy._column.elements import unwrap
from sealchemy._column.rows.beside import find_beside
from sealchemy.errors import ColumnDefinitionError

_OF_THE_ORM = ("parententity", "parentmapper", "entity_namespace")


def is_index(type_: object) -> TypeGuard[Any]:
    """Return whether a type is `BlindIndex`, whose module imports this one."""
    return getattr(type_, "is_blind_index", False)


def has_digests(type_: object) -> TypeGuard[Any]:
    """Return whether the values of a type are digests: those of an index, or of what it is compared with."""
    return getattr(type_, "has_digests", False)


def label_of(context: str) -> str:
    """Return the name of the digests of a context."""
    return f"{context} (blind index)"


def context_of_secret(type_: Any) -> str | None:
    """Return the context of an encrypted type, through its wrappers; None for another type."""
    while isinstance(type_, TypeDecorator) and type(type_).__module__ != "sealchemy":
        type_ = type_.impl_instance
    return type_.context if hasattr(type_, "kind") else None


def index_of(secret: Any) -> Any:
    """Return the index of a secret in the same table or subquery; None if there is none."""
    return _beside(secret, lambda stored: _pair(stored, context_of_secret(stored.type))[1])


def secret_of(index: Any) -> Any:
    """Return the secret of an index in the same table or subquery; None if there is none."""
    return _beside(index, lambda stored: _pair(stored, getattr(stored.type, "context", None))[0])


def pairs_of(table: Any) -> list[tuple[Any, Any]]:
    """Return the secrets of a table that have an index, each with that; raises `ColumnDefinitionError`."""
    columns = [] if isinstance(table, Join) else getattr(table, "c", ())
    found = [(secret_of(item), item) for item in columns if is_index(item.type)]
    for secret, index in found:
        if secret is None:
            raise ColumnDefinitionError(
                f"{index}: its table has not exactly one column of the context {index.type.context}, or another index"
                " of it, so it cannot be filled"
            )
    return found


def _pair(stored: Any, context: str | None) -> tuple[Any, Any]:
    """Return the one secret and the one index of a context in the table of a column."""
    columns = stored.table.c
    secrets = [item for item in columns if context is not None and context_of_secret(item.type) == context]
    indexes = [item for item in columns if is_index(item.type) and item.type.context == context]
    return (secrets[0], indexes[0]) if len(secrets) == len(indexes) == 1 else (None, None)


def _beside(column: Any, partner_of: Any) -> Any:
    def keys_of(stored: Any) -> tuple[str, ...]:
        partner = partner_of(stored)
        return () if partner is None else (partner.key,)

    found = find_beside(unwrap(column), keys_of)
    if not found:
        return None
    annotations = {name: column._annotations[name] for name in _OF_THE_ORM if name in column._annotations}
    return found[0]._annotate(annotations) if annotations else found[0]
