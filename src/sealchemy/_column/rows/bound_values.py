"""A value that a statement writes to a bound column, and where the statement names the row of this value."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn, TypeAlias

from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList, ColumnClause
from sqlalchemy.types import TypeDecorator

from sealchemy._column.elements import unwrap
from sealchemy._column.encrypted_type import EncryptedType, encrypted_type, require_encrypted
from sealchemy._values.rows import RowValue
from sealchemy.errors import UnsupportedOperationError

from .parts import part_kind

Parameter: TypeAlias = BindParameter[Any] | str
"""A parameter of a statement: the object, or the name that SQLAlchemy will give to it."""


class Part(NamedTuple):
    """A column that a value is bound to.

    Attributes:
        name: its name in `bind_to`.
        column: the column.
        read: returns the text of its value; see `part_reader`.
        source: the parameter with its value; None if the statement does not say it.
        guard: the parameter that is compared with the row instead.
    """

    name: str
    column: Any
    read: Callable[[Any], str]
    source: Parameter | None
    guard: BindParameter[Any] | None


class BoundValue(NamedTuple):
    """A parameter for a bound column, and the parts of its row."""

    parameter: Parameter
    type_: Any
    parts: tuple[Part, ...]


def key_of(key: Any) -> str:
    key = unwrap(key)
    return key if isinstance(key, str) else str(key.key)


def is_bound_as(parameter: BindParameter[Any], part: Any) -> bool:
    """Return whether a parameter is converted as the values of the column are."""
    given, own = parameter.type, part.type
    if given is own:
        return True
    is_plain = not isinstance(given, TypeDecorator) and not isinstance(own, TypeDecorator)
    return is_plain and part_kind(given) is not None and part_kind(given) is part_kind(own)


def refuse_known_value(item: BoundValue) -> None:
    """Refuse a value without its row while the statement is compiled: later, SQLAlchemy's frames hold it."""
    parameter, unsaid = item.parameter, [part.name for part in item.parts if part.source is None]
    if isinstance(parameter, str) or parameter.required or not unsaid:
        return
    value = parameter.effective_value
    if value is not None and not isinstance(value, RowValue):
        value = None
        refuse_unsaid(require_encrypted(item.type_), unsaid[0])


def refuse_unsaid(type_: EncryptedType[Any], name: str) -> NoReturn:
    """Raise `UnsupportedOperationError` for a value whose row the statement does not name."""
    row = ", ".join(f"{part}=..." for part in type_.bind_to)
    raise UnsupportedOperationError(
        f"{type_.context}: its values are bound to {', '.join(type_.bind_to)}, and the statement gives no value for"
        f" {name}, or NULL. Give it one in the same statement (one that the database makes comes too late); or, in an"
        f" UPDATE, compare it with one value in WHERE (not with IN or OR), or pass RowValue(value, {row})"
    )


def equalities(statement: Any) -> Iterator[tuple[Any, BindParameter[Any]]]:
    """Yield the columns that the WHERE of an UPDATE compares with a parameter, in every row that it changes."""
    conditions = list(statement._where_criteria)
    while conditions:
        item = unwrap(conditions.pop())
        if isinstance(item, BooleanClauseList) and item.operator is operators.and_:
            conditions += item.clauses
        if isinstance(item, BinaryExpression) and item.operator is operators.eq:
            for column, value in ((item.left, item.right), (item.right, item.left)):
                if isinstance(column, ColumnClause) and isinstance(value, BindParameter) and not value.expanding:
                    yield column, value


_ADVICE = (
    "Write the secret itself, and values of the columns that it is bound to, in one statement; to move a row, load the"
    " object, change it, and commit the session"
)


def refuse(column: Any, what: str, advice: str = _ADVICE) -> NoReturn:
    """Raise `UnsupportedOperationError`, with what to do instead."""
    type_ = encrypted_type(column.type)
    names = f" ({', '.join(type_.bind_to)})" if type_ is not None else ""
    raise UnsupportedOperationError(
        f"{column}: {what} is not supported, because a value is bound to its row{names} and cannot be read in another."
        f" {advice}"
    )
