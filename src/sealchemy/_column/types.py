"""The column types: `EncryptedString`, `EncryptedJSON` and `EncryptedBytes`."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Table, event
from sqlalchemy.orm import Mapper
from typing_extensions import override

from sealchemy._values import codecs
from sealchemy._values.json_values import hide_strings
from sealchemy._values.rows import RowValue
from sealchemy.errors import PlaintextTypeError

from . import last_line  # noqa: F401 - its listeners protect every engine that meets a type
from .blind_index import declarations as _index_declarations  # noqa: F401 - its listeners find the secrets
from .blind_index import flush as indexes
from .blind_index.index_type import BlindIndex
from .declarations import check_column, refuse_declaration
from .encrypted_type import EncryptedType, encrypted_type
from .rows import declarations, flush  # noqa: F401 - the listeners of `declarations` check `bind_to`

__all__ = ["BlindIndex", "EncryptedBytes", "EncryptedJSON", "EncryptedString"]


class EncryptedString(EncryptedType[str]):
    """A text column that is encrypted in the database and a `str` in Python.

    Reading returns a `SecretString`; assigning a plain `str` to a mapped attribute turns it into one at once. NULL
    stays NULL. The engine needs a key ring: see `attach_key_ring`.

    Raises, when used:
        KeyRingNotAttachedError: the engine has no key ring.
        PlaintextTypeError, AlreadyEncryptedError: the value cannot be written.
        EnvelopeError, UnknownKeyError, DecryptionError: the value in the database cannot be read.
        UnsupportedOperationError: an operator other than IS [NOT] NULL between the column and a value.
    """

    __module__ = "sealchemy"
    kind = codecs.TEXT
    cache_ok = True


class EncryptedJSON(EncryptedType[Any]):
    """A column of JSON that is encrypted in the database, and dicts, lists, strings and numbers in Python.

    Reading returns plain JSON with a `SecretString` for every string; keys and numbers are not hidden. Assigning a
    document masks its strings in place. None is NULL. As with SQLAlchemy's `JSON`, a change inside an object is noticed
    only under `MutableDict.as_mutable(EncryptedJSON(...))` and its like.

    What is not JSON is a `PlaintextTypeError`, which names its path. All else is as with `EncryptedString`.
    """

    __module__ = "sealchemy"
    kind = codecs.JSON
    cache_ok = True
    hashable = False
    python_type = dict  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride] # no property

    @override
    def compare_values(self, x: Any, y: Any) -> bool:
        """Return whether two documents are stored alike; `==` takes 1 for True, and such a change would be lost."""
        encode = self.kind.value.encode
        try:
            return encode(x) == encode(y)
        except (TypeError, ValueError, RecursionError):  # writing it raises the error that says why
            return False


class EncryptedBytes(EncryptedType[bytes]):
    """A column of bytes that is encrypted in the database; its type there is text.

    Reading returns a `SecretBytes`. All else is as with `EncryptedString`.
    """

    __module__ = "sealchemy"
    kind = codecs.BYTES
    cache_ok = True
    python_type = bytes  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride] # no property


event.listen(EncryptedType, "after_parent_attach", check_column)


@event.listens_for(Mapper, "mapper_configured")
def _prepare_attributes(mapper: Mapper[Any], class_: type) -> None:
    bound, indexed = [], []
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if isinstance(column.type, BlindIndex) and isinstance(column.table, Table):
            indexed.append(indexes.indexed_attribute(mapper, attribute.key, column))
            if attribute.parent is mapper:
                event.listen(
                    getattr(class_, attribute.key), "set", indexes.refuse_assigned, retval=True, propagate=True
                )
        type_ = encrypted_type(column.type)
        if type_ is not None and type_.bind_to and isinstance(column.table, Table):
            bound.append(flush.bound_attribute(mapper, attribute.key, column))
        if attribute.parent is not mapper or not isinstance(column, Column) or type_ is None:
            continue
        refuse_declaration(column)
        _leave_out_of_repr(class_, attribute.key)
        hide = _hide_assigned(column.type) if isinstance(column.type, EncryptedType) else _hide_for_wrapper
        event.listen(getattr(class_, attribute.key), "set", hide, retval=True, propagate=True)
    if bound:
        flush.listen(mapper, bound)
    for item in filter(None, indexed):
        indexes.listen(mapper, item)


def _hide_assigned(type_: EncryptedType[Any]) -> Callable[..., Any]:
    codec = type_.kind.value

    def hide(_target: object, value: Any, _old: object, initiator: Any) -> Any:
        if type_.bind_to and isinstance(value, RowValue):
            return value  # the flush compares its row
        value = codec.hide(value)
        if isinstance(value, str) and "SecretString('***')" in value:  # from a form that has shown a secret's repr
            raise PlaintextTypeError(f"{initiator.key}: this is the masked repr of a secret; leave it out of the form")
        if isinstance(value, type):
            raise PlaintextTypeError(f"{initiator.key}: an encrypted attribute {codec.find_problem(value)}")
        return value

    return hide


def _hide_for_wrapper(_target: object, value: Any, _old: object, _initiator: object) -> Any:
    """Hide what may be a secret, and leave the other types that a wrapper converts."""
    hide = codecs.hide_bytes if isinstance(value, bytes) else hide_strings
    return hide(value) if isinstance(value, bytes | str | dict | list | tuple) else value


def _leave_out_of_repr(class_: Any, name: str) -> None:
    """Leave an attribute out of the repr of a pydantic model, such as SQLModel's, which keeps values as they came."""
    field = getattr(class_, "__pydantic_fields__", {}).get(name)
    if field is not None:
        field.repr = False
