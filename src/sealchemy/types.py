"""`EncryptedString`: the column type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import Column, Table, Text, UniqueConstraint, event
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import ColumnClause, Label, Null
from sqlalchemy.types import TypeDecorator

from .ciphers import encode_plaintext
from .engine import binding
from .envelope import check_context
from .errors import ColumnDefinitionError, PlaintextTypeError, SealchemyError, UnsupportedOperationError
from .guard import EncryptedType
from .redaction import SecretString, hide

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.elements import BindParameter, ColumnElement
    from sqlalchemy.sql.operators import OperatorType
    from sqlalchemy.sql.type_api import _BindProcessorType, _LiteralProcessorType, _ResultProcessorType
    from sqlalchemy.types import TypeEngine

_NULL_TESTS = frozenset({operators.eq, operators.ne, operators.is_, operators.is_not})
_COLUMN_TESTS = frozenset({operators.eq, operators.ne})


class _Comparator(TypeDecorator.Comparator[str]):
    """Refuse what would silently match nothing, or sort by ciphertext."""

    __slots__ = ()

    def operate(  # type: ignore[override] # one overload of two: it changes no result type
        self, op: OperatorType, *other: Any, **kwargs: Any
    ) -> ColumnElement[str]:
        if not _is_meaningful(op, other):
            del other, kwargs  # error trackers print the variables of a frame
            _refuse_operator(self.expr.type, op)
        return super().operate(op, *other, **kwargs)

    def reverse_operate(self, op: OperatorType, other: Any, **kwargs: Any) -> NoReturn:
        del other, kwargs
        _refuse_operator(self.expr.type, op)


def _is_meaningful(op: OperatorType, other: tuple[Any, ...]) -> bool:
    if len(other) != 1:
        return False
    operand = other[0].__clause_element__() if hasattr(other[0], "__clause_element__") else other[0]
    if operand is None or isinstance(operand, Null):
        return op in _NULL_TESTS
    # SQLAlchemy's own dictionaries and lists compare columns with columns.
    return op in _COLUMN_TESTS and isinstance(operand, ColumnClause | Label)


def _refuse_operator(type_: Any, op: OperatorType) -> NoReturn:
    name = getattr(op, "opstring", None) or getattr(op, "__name__", "this operator")
    message = (
        f"{type_.context}: {name} is refused on an encrypted column, it would compare ciphertext and"
        " match nothing; only IS NULL and IS NOT NULL work. Select by other columns, and compare in Python"
    )
    raise UnsupportedOperationError(message)


class EncryptedString(EncryptedType, TypeDecorator[str]):
    """A text column that is encrypted in the database and a `str` in Python.

    What is read is a `SecretString`; a plain `str` that is assigned to a mapped attribute becomes one at
    once. NULL stays NULL. The engine must have a key ring: see `attach_key_ring`.

    Raises, when used:
        KeyRingNotAttachedError: the engine has none.
        PlaintextTypeError, AlreadyEncryptedError: the value to write is refused.
        EnvelopeError, UnknownKeyError, DecryptionError: the stored value cannot be read.
        UnsupportedOperationError: an operator other than IS [NOT] NULL on the column and a value.

    """

    impl = Text
    cache_ok = True
    comparator_factory = _Comparator  # pyright: ignore[reportAssignmentType] # as SQLAlchemy documents it

    def __init__(self, context: str) -> None:
        """Name the secret.

        Args:
            context: `[A-Za-z0-9_.-]{1,128}`, for example `"integrations.access_token"`. It is
                authenticated in every stored value: **once there are rows, changing it makes them
                unreadable**, and two columns that share it accept each other's values. It is not derived
                from the table's name, so that a table can be renamed.

        Raises:
            ColumnDefinitionError: `context` is malformed.

        """
        super().__init__()
        self.context = check_context(context)

    def __repr__(self) -> str:
        """Return the declaration."""
        return f"EncryptedString({self.context!r})"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return TEXT; on MySQL and MariaDB MEDIUMTEXT, since TEXT ends at 65 535 bytes there."""
        return MEDIUMTEXT() if dialect.name in {"mysql", "mariadb"} else Text()

    def with_variant(self, type_: object, *dialect_names: str) -> NoReturn:
        """Refuse: the variant would store plaintext."""
        del type_, dialect_names
        message = f"{self.context}: a variant of EncryptedString would store plaintext; the type fits every dialect"
        raise ColumnDefinitionError(message)

    def bind_processor(self, dialect: Dialect) -> _BindProcessorType[str]:
        """Return the function that encrypts one parameter."""
        process: _BindProcessorType[str] = binding(dialect).writer(self.context)
        return process

    def result_processor(self, dialect: Dialect, coltype: object) -> _ResultProcessorType[str]:
        """Return the function that decrypts one value of a row."""
        del coltype
        process: _ResultProcessorType[str] = binding(dialect).reader(self.context)
        return process

    def literal_processor(self, dialect: Dialect) -> _LiteralProcessorType[str]:
        """Return the function that renders one literal, as ciphertext.

        SQLAlchemy prints the value of a literal whose rendering fails. So what can fail does so here, or
        in `bind_expression`.
        """
        keys = binding(dialect)
        keys.require_ring(self.context)
        quote, write = self.impl_instance.literal_processor(dialect), keys.writer(self.context)

        def process(value: str) -> str:
            return quote(write(value))  # type: ignore[misc] # Text has one everywhere

        return process

    def bind_expression(self, bindparam: BindParameter[str]) -> BindParameter[str]:
        """Return the parameter as it is, having refused a value that cannot be rendered as a literal."""
        if bindparam.literal_execute:
            message = f"{self.context}: literal_execute is refused, its errors would print the plaintext"
            raise UnsupportedOperationError(message)
        for value in _values_known_now(bindparam):
            try:
                encode_plaintext(value, self.context)
            except SealchemyError:
                del bindparam, value  # error trackers print the variables of a frame
                raise
        return bindparam


def _values_known_now(bindparam: BindParameter[str]) -> list[Any]:
    if bindparam.required:
        return []
    value = bindparam.effective_value
    values = (value or ()) if bindparam.expanding else (value,)
    return [value for value in values if value is not None]


@event.listens_for(EncryptedString, "after_parent_attach")
def _check_column(_type: EncryptedString, column: object) -> None:
    if isinstance(column, Column):
        _refuse_declaration(column)
        event.listen(column, "after_parent_attach", _check_column_in_table)


def _check_column_in_table(column: Column[Any], _table: Table) -> None:
    _refuse_declaration(column)


def _refuse_declaration(column: Column[Any]) -> None:
    """Refuse what the database would compare, or fill with plaintext."""
    refused = {
        "primary_key": column.primary_key,
        "unique": column.unique,
        "index": column.index,
        "server_default": column.server_default is not None and column.computed is None,
        "an SQL expression as default": any(
            default is not None and default.is_clause_element for default in (column.default, column.onupdate)
        ),
        "Computed": column.computed is not None,
        "ForeignKey": bool(column.foreign_keys),
    }
    for name in (name for name, is_set in refused.items() if is_set):
        message = (
            f"{column.type!r} on column {column.name!r}: {name} is refused. Two encryptions of one text differ,"
            " so the database can neither compare nor compute them; keep a keyed hash in another column for that"
        )
        raise ColumnDefinitionError(message)


@event.listens_for(Mapper, "mapper_configured")
def _prepare_attributes(mapper: Mapper[Any], class_: type) -> None:
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if attribute.parent is mapper and isinstance(column, Column) and isinstance(column.type, EncryptedString):
            _refuse_declaration(column)
            _refuse_table_level(column)
            event.listen(getattr(class_, attribute.key), "set", _redact, retval=True, propagate=True)


def _refuse_table_level(column: Column[Any]) -> None:
    if not isinstance(column.table, Table):
        return  # a mapped subquery
    constraints = {item for item in column.table.constraints if isinstance(item, UniqueConstraint)}
    for item in constraints | column.table.indexes:
        if item.columns.contains_column(column):
            message = (
                f"{type(item).__name__} {item.name!r} covers the encrypted column {column.name!r}: two"
                " encryptions of one text differ, so it can neither find nor exclude anything; leave it out"
            )
            raise ColumnDefinitionError(message)


def _redact(_target: object, value: object, _old: object, initiator: Any) -> SecretString | None:
    if value is None or isinstance(value, SecretString):
        return value
    if isinstance(value, str):
        return hide(value)
    given = type(value).__name__
    del value
    message = f"{initiator.key}: an encrypted attribute takes str or None, not {given}"
    raise PlaintextTypeError(message)
