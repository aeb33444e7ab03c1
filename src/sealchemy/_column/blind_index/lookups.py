"""Find rows by the digest of a secret: the SQL that compares an index, or a secret that has one."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from sqlalchemy import Text, and_, not_, or_
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    ClauseElement,
    ColumnClause,
    ColumnElement,
    Null,
)
from sqlalchemy.sql.lambdas import PyWrapper
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.sql.sqltypes import BOOLEANTYPE
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from sealchemy._column.elements import Permitted, unwrap
from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.rows.wrappers import converting
from sealchemy._values.codecs import RESERVED
from sealchemy._values.secret import StoredPlaintext, has_lone_surrogate, hide, mask
from sealchemy.errors import UnsupportedOperationError

from .pairs import index_of, label_of, secret_of

_VALUE_TESTS = frozenset({operators.eq, operators.ne, operators.in_op, operators.not_in_op})
_SEVERAL = frozenset({operators.in_op, operators.not_in_op})
_NEGATED = {operators.eq: operators.ne, operators.ne: operators.eq}
_ORDERS = frozenset({operators.asc_op, operators.desc_op, operators.nulls_first_op, operators.nulls_last_op})
_COLUMN_TESTS = frozenset({operators.eq, operators.ne})
_NULL_TESTS = frozenset({operators.eq, operators.ne, operators.is_, operators.is_not})


class Lookup(NamedTuple):
    """How rows are found by one column; it is kept with the comparator of that column.

    Attributes:
        digests: the index, in a form that SQLAlchemy does not compare in Python, where its values are digests.
        type_: the type of the index.
        secret: the column of the secret; None if it is not beside the index.
    """

    digests: Permitted
    type_: Any
    secret: Any


def lookup_by_secret(secret: Any) -> Lookup | None:
    """Return how rows are found by a secret; None if no index is beside it."""
    index = index_of(secret)
    if index is None:
        return None
    wrapper = None if type(secret.type).__module__ == "sealchemy" else secret.type
    return Lookup(Permitted(index, LookupType(index.type, wrapper)), index.type, secret)


def lookup_by_index(index: Any) -> Lookup:
    """Return how rows are found by an index."""
    return Lookup(Permitted(index, LookupType(index.type)), index.type, secret_of(index))


def find_rows(lookup: Lookup, op: OperatorType, other: Sequence[Any]) -> ColumnElement[bool]:
    """Return the test of an index against a text, texts or NULL.

    Raises:
        UnsupportedOperationError: any other test.
    """
    try:
        return _find_rows(lookup, op, other)
    except BaseException:
        other = ()  # this frame is in the traceback
        raise


def _find_rows(lookup: Lookup, op: OperatorType, other: Sequence[Any]) -> ColumnElement[bool]:
    type_, is_many = lookup.type_, op in _SEVERAL
    if len(other) != 1:
        other = ()
        refuse_operator(type_, op, "")
    operand: Any = other[0].__clause_element__() if hasattr(other[0], "__clause_element__") else other[0]
    if (operand is None or isinstance(operand, Null)) and op in _NULL_TESTS:
        return lookup.digests.operate(op, operand)
    if is_many and isinstance(operand, Iterable) and not isinstance(operand, str | bytes | ClauseElement | PyWrapper):
        operand = list(operand)  # an iterator can be read once
    if op not in _VALUE_TESTS or not _is_value(operand, is_many=is_many):
        other, operand = (), None
        refuse_operator(type_, op, "with this operand" if op in _VALUE_TESTS else "")
    if not isinstance(operand, BindParameter | PyWrapper):
        operand = mask(operand)
    other = ()
    if type_.during_rollout is None:
        return _compare(lookup, op, operand)
    if lookup.secret is None or isinstance(operand, BindParameter | PyWrapper):
        operand, is_bind = None, lookup.secret is not None
        what = "a bindparam() or in a lambda; pass the value itself" if is_bind else "a subquery that lacks the secret"
        refuse_operator(type_, op, f"with {what}, as during_rollout compares two columns")
    return _or_plaintext(lookup, op, operand)


def _compare(lookup: Lookup, op: OperatorType, operand: Any) -> ColumnElement[bool]:
    digests = lookup.digests
    if op in _SEVERAL or isinstance(operand, BindParameter | PyWrapper):
        return digests.operate(op, operand)
    # The same, without looking up what is known.
    value: BindParameter[Any] = BindParameter(None, operand, type_=digests.type, unique=True)
    return BinaryExpression(digests, value, op, type_=BOOLEANTYPE, negate=_NEGATED[op])


def _is_value(operand: Any, *, is_many: bool) -> bool:
    if isinstance(operand, BindParameter):
        return bool(operand.type._isnull)
    if isinstance(operand, PyWrapper):
        return True  # a variable of a lambda
    if not is_many:
        return not isinstance(operand, ClauseElement)
    return isinstance(operand, list) and not any(map(_is_clause, operand))


def _is_clause(item: Any) -> bool:
    return isinstance(item, ClauseElement) or hasattr(item, "__clause_element__")


def _or_plaintext(lookup: Lookup, op: OperatorType, operand: Any) -> ColumnElement[bool]:
    """Return the test of a column that is partly plaintext.

    Only an encrypted value is looked for by its digest: an old release may have replaced a plaintext alone.
    """
    test = operators.in_op if op in _SEVERAL else operators.eq
    # A function would remember the tables of its first execution, and LIKE is exact enough: plaintext never starts so.
    is_encrypted = Permitted(lookup.secret, Text()).like(f"{RESERVED.decode()}%")
    secret_type = getattr(lookup.digests.type, "secret_type", None)
    plaintext = Permitted(lookup.secret, _PlaintextLookup(lookup.type_.context, secret_type))
    found = or_(and_(is_encrypted, _compare(lookup, test, operand)), plaintext.operate(test, operand))
    return found if op is test else not_(found)


class LookupType(TypeDecorator[Any]):
    """The type of an operand that is looked up: it is converted as the values of the secret are, and hashed."""

    impl = Text
    cache_ok = True
    has_digests = True

    def __init__(self, index_type: Any, secret_type: Any = None) -> None:
        super().__init__()
        self.index_type, self.secret_type = index_type, secret_type
        self.label = label_of(index_type.context)

    @override
    def bind_processor(self, dialect: Dialect) -> Any:
        return converting(self.secret_type, dialect, self.index_type.lookup_processor(dialect))

    @override
    def literal_processor(self, dialect: Dialect) -> Any:
        self.index_type.require_lookup(dialect)  # before there is a value, which SQLAlchemy would print
        process = self.bind_processor(dialect)
        return lambda value: f"'{process(value)}'"  # its characters need no quoting


class _PlaintextLookup(TypeDecorator[Any]):
    """The type of an operand for a column that may have plaintext.

    In a stage in which it has none, it is a text that no column has: servers may log it. So is a text that no column
    can have, which anyone may present.
    """

    impl = Text
    cache_ok = True
    takes_secrets = True

    def __init__(self, context: str, secret_type: Any) -> None:
        super().__init__()
        self.context, self.secret_type = context, secret_type

    @override
    def bind_processor(self, dialect: Dialect) -> Any:
        keys, context = engine_keys(dialect), self.context

        def process(value: Any) -> str | None:
            value = hide(value)
            if value is None:
                return None
            is_possible = isinstance(value, str) and not has_lone_surrogate(value) and "\0" not in value
            if not is_possible or value.startswith(RESERVED.decode()) or not keys.reads_plaintext(context):
                return RESERVED.decode()
            return StoredPlaintext(value)

        return converting(self.secret_type, dialect, process)


def is_lookup(element: Any) -> bool:
    """Return whether an element is an index as this module compares it."""
    return isinstance(element, Permitted) and isinstance(element.type, LookupType)


def is_for_the_compiler(op: OperatorType, other: Sequence[Any]) -> bool:
    """Return whether a column is compared with a column, or ordered: the compiler refuses that in statements."""
    if op in _ORDERS:
        return True
    return op in _COLUMN_TESTS and len(other) == 1 and isinstance(unwrap(other[0]), ColumnClause)


def refuse_operator(type_: Any, op: OperatorType, how: str) -> NoReturn:
    """Raise `UnsupportedOperationError` for what a digest cannot answer."""
    name = getattr(op, "opstring", None) or getattr(op, "__name__", "this operator").removesuffix("_op")
    raise UnsupportedOperationError(
        f"{type_.context}: {name} {f'{how} ' if how else ''}is not supported: the database has ciphertext, and in the"
        " blind index a hash of the whole value, which answers ==, !=, in_() and not_in() for texts, and IS NULL. What"
        " else is to be equal, a normalize function makes equal before it is hashed"
    )


def refuse_over_index(label: str, what: str) -> None:
    """Raise `UnsupportedOperationError` if a label is that of an index."""
    if label.endswith(label_of("")):
        raise UnsupportedOperationError(
            f"{label}: {what} is not supported. Select it, compare it with IS NULL, or look rows up with == and in_()"
            " and the text itself; what else is to be equal, a normalize function makes equal"
        )
