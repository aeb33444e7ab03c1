"""The operators of an encrypted column."""

from typing import Any, NoReturn

from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import ColumnClause, ColumnElement, Label, Null
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from sealchemy._values.secret import hide
from sealchemy.errors import UnsupportedOperationError

from .blind_index.lookups import find_rows, lookup_by_secret

_NULL_TESTS = frozenset({operators.eq, operators.ne, operators.is_, operators.is_not})
_COLUMN_TESTS = frozenset({operators.eq, operators.ne})


class EncryptedComparator(TypeDecorator.Comparator[Any]):
    """Refuse operators that would match nothing, or sort by ciphertext."""

    __slots__ = ("_lookup",)

    @override
    def operate(self, op: OperatorType, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
        if not _is_meaningful(op, other):
            try:
                if (lookup := getattr(self, "_lookup", None)) is None:
                    lookup = self._lookup = lookup_by_secret(self.expr)
                if lookup is not None:
                    return find_rows(lookup, op, other)
                _refuse_operator(self.expr.type, op)
            except BaseException:
                other, kwargs = (), {}  # error trackers print the variables of a frame
                raise
        return super().operate(op, *other, **kwargs)

    @override
    def reverse_operate(self, op: OperatorType, other: Any, **kwargs: Any) -> NoReturn:
        other = hide(other)  # error trackers print the variables of a frame
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
    name = getattr(op, "opstring", None) or getattr(op, "__name__", "this operator").removesuffix("_op")
    if op is operators.getitem:
        raise UnsupportedOperationError(
            f"{type_.context}: the database cannot look inside an encrypted document; select the column, and look"
            " inside in Python"
        )
    raise UnsupportedOperationError(
        f"{type_.context}: {name} is not supported on an encrypted column, because two encryptions of one text differ"
        " and ciphertext has no order. Select by other columns, and compare in Python; to look rows up by the value,"
        " add a column of type BlindIndex, which answers == and in_(). IS NULL and IS NOT NULL work"
    )
