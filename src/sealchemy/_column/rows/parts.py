"""Values that are bound to their row: the columns that they are bound to, and how a value is read with these.

A statement selects the stored value with the parts of its row behind it, as one text, separated by newlines. So each
value arrives with the row that it stands in now, whatever way the statement takes to it.
"""

import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sqlalchemy import CHAR, NCHAR, Enum, Integer, String, Text, Uuid, cast, func, literal_column, type_coerce
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from sealchemy._column.elements import ALWAYS, PERMIT, is_null, unwrap
from sealchemy._column.rows.beside import find_beside
from sealchemy._values.rows import SEPARATOR, RowValue
from sealchemy.errors import ColumnDefinitionError, UnsupportedOperationError

COLUMN_KEYS = "sealchemy bind_to"
"""In `Column.info`: the keys of the columns that the values are bound to, where a mapper names them otherwise."""

_KINDS: tuple[type[TypeEngine[Any]], ...] = (Integer, Uuid, String)
_NOTHING = literal_column("''", Text())
NOT_A_PART = (TypeError, ValueError, AttributeError)
_HEX = re.compile("[0-9a-f]{32}")
_NOT_IN_A_PART = re.compile("[\0\n]")


def with_row(column: Any, names: Sequence[str], context: str) -> ColumnElement[Any]:
    """Return what is selected for a column: the stored value, and behind it the parts of its row.

    Raises:
        UnsupportedOperationError: the columns of the row are not beside it.
    """
    stored = unwrap(column)
    if is_null(stored) or isinstance(stored, BindParameter):
        return column  # type: ignore[no-any-return] # of any type
    parts = find_parts(stored, names)
    if parts is None:
        refuse_without_row(context, names)
    text: ColumnElement[Any] = type_coerce(stored._annotate({PERMIT: ALWAYS}), Text())
    for part in parts:
        text = text + literal_column(f"'{SEPARATOR}'", Text()) + canonical_sql(part)
    return type_coerce(text, column.type)


def find_parts(column: Any, names: Sequence[str]) -> tuple[ColumnElement[Any], ...] | None:
    """Return the columns of the row that a column is from, as the same table or subquery has them."""
    found = find_beside(column, lambda stored: part_keys(stored, names))
    return found if found is None or len(found) == len(names) else None


def part_keys(column: Any, names: Sequence[str]) -> Sequence[str]:
    """Return the keys of the columns that the values of a column are bound to."""
    found: Sequence[str] = getattr(column, "info", {}).get(COLUMN_KEYS, names)
    return found


def part_kind(type_: Any) -> type[TypeEngine[Any]] | None:
    """Return which of the types that a value can be bound to this one is, if any."""
    if type_._has_bind_expression or type_._has_column_expression:
        return None
    while isinstance(type_, TypeDecorator):
        type_ = type_.impl_instance
    # A type from another package may convert values in a way that this module does not know.
    is_known = type(type_).__module__.startswith("sqlalchemy.") and not getattr(type_, "zerofill", False)
    if not is_known or isinstance(type_, Enum) or type_.__visit_name__ == "CITEXT":
        return None
    return next((kind for kind in _KINDS if isinstance(type_, kind)), None)


def canonical_sql(part: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the text of a part, as `part_reader` has it, in SQL."""
    kind = part_kind(part.type)
    if kind is String:  # NULL, which a declaration excludes, would read as a secret that is not there
        return func.coalesce(type_coerce(part, Text()), _NOTHING, type_=Text())
    text = func.coalesce(cast(part, String()), _NOTHING, type_=Text())
    return func.replace(text, "-", "", type_=Text()) if kind is Uuid else text


def part_reader(part: Any, dialect: Dialect) -> Callable[[Any], str]:
    """Return the function that returns the text of a part, given the value that a statement binds for its column.

    For a value that it does not take, it raises one of `NOT_A_PART`.

    Raises:
        ColumnDefinitionError: on this dialect, the column has another type than it is declared with.
    """
    kind, type_ = part_kind(part.type), part.type
    if kind is None or part_kind(type_.dialect_impl(dialect)) is not kind:
        raise ColumnDefinitionError(
            f"{part}: a value cannot be bound to a column of type {type_!r} on {dialect.name}; use Integer, String or"
            " Uuid"
        )
    if kind is Integer:
        read: Callable[[Any], str] = _read_integer
    elif kind is Uuid:
        read = _read_uuid
    else:
        # CHAR and MariaDB's collations treat texts as equal that differ in blanks at the end.
        actual: Any = _declared_type(type_, dialect)
        pads = isinstance(actual, CHAR | NCHAR) or "mediumtext" in getattr(dialect, "ischema_names", {})
        read = _text_reader(actual.length, pads=pads)
    if not isinstance(type_, TypeDecorator):
        return read
    convert = type_._cached_bind_processor(dialect)
    return read if convert is None else lambda value: read(convert(value))


def _declared_type(type_: Any, dialect: Dialect) -> Any:
    """Return the type that a column has on a dialect, without wrappers, and before the dialect adapts it."""
    while True:
        if (variant := type_._variant_mapping.get(dialect.name)) is not None:
            type_ = variant
        elif isinstance(type_, TypeDecorator):
            type_ = type_.load_dialect_impl(dialect)
        else:
            return type_


def refuse_part(part: Any, value: object) -> NoReturn:
    """Raise `UnsupportedOperationError` for a value that a function of `part_reader` did not take."""
    kind = part_kind(part.type)
    wanted = {Integer: "an int", Uuid: "a UUID, or its hex digits in lower case"}.get(kind, "a str")  # type: ignore[arg-type]
    problem = f"it takes {wanted}, not {type(value).__name__}"
    if kind is String and isinstance(value, str):
        problem = (
            "the text has a NUL, a newline or a lone surrogate, is too long for the column, or ends with blanks that"
            " the database would cut off"
        )
    raise UnsupportedOperationError(f"{part}: a value cannot be bound to this: {problem}")


def _read_integer(value: Any) -> str:
    if not isinstance(value, int):  # a driver may store others as something else
        raise TypeError
    return str(int(value))


def _read_uuid(value: Any) -> str:
    if isinstance(value, uuid.UUID):
        return value.hex
    text: str = value.replace("-", "")
    if not _HEX.fullmatch(text):  # some databases keep other spellings as they are
        raise ValueError
    return text


def _text_reader(length: int | None, *, pads: bool) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        text = str.__str__(value)
        is_cut = (length is not None and len(text) > length) or (pads and text.endswith(" "))
        if is_cut or _NOT_IN_A_PART.search(text) or text.encode() is None:
            raise ValueError
        return text

    return read


def without_row(value: Any) -> Any:
    """Return the value of a `RowValue`, and others as they are."""
    return value.reveal() if isinstance(value, RowValue) else value


def require_names(names: Any, context: str) -> tuple[str, ...]:
    """Return the names of `bind_to` as a tuple, or raise `ColumnDefinitionError`."""
    found = tuple(names) if isinstance(names, Sequence) and not isinstance(names, str) else (None,)
    if not all(isinstance(name, str) and name for name in found) or len(set(found)) != len(found):
        raise ColumnDefinitionError(
            f"{context}: bind_to takes a tuple of names, each once: attributes of the same table that name the owner of"
            ' a secret, and where it is sent, such as ("user_id", "provider")'
        )
    return tuple(map(str, found))


def refuse_unpaired(context: str, names: Sequence[str], value: object) -> None:
    """Refuse a value that reached a driver without its row; None is NULL."""
    is_null_value = value is None
    value = None  # this frame is in the traceback
    if not is_null_value:
        raise UnsupportedOperationError(
            f"{context}: its values are bound to {', '.join(names)}, and this parameter is not a value of an INSERT or"
            " UPDATE that says them; write to the table with one of these, not with text() or a literal"
        )


def refuse_without_row(context: str, names: Sequence[str]) -> NoReturn:
    """Raise `UnsupportedOperationError` for a value that is read without its row."""
    raise UnsupportedOperationError(
        f"{context}: its values are bound to their row, and are read with {', '.join(names)}; select these columns of"
        " the same table or subquery as well. A scalar subquery or text() cannot carry them: join the table"
    )
