"""Find rows by the digest of a secret: the SQL that compares an index, or a secret that has one."""

from collections.abc import Sequence
from typing import Any, NoReturn

from sqlalchemy import Text, and_, func, literal_column, not_, or_, type_coerce
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BindParameter, ClauseElement, ColumnClause, ColumnElement, Label, Null, TypeCoerce
from sqlalchemy.sql.lambdas import PyWrapper
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from sealchemy._column.beside import find_beside
from sealchemy._column.elements import ALWAYS, PERMIT, unwrap
from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.wrappers import converting
from sealchemy._values.codecs import RESERVED, TEXT, require_encodable
from sealchemy._values.secret import StoredPlaintext, mask
from sealchemy.errors import UnsupportedOperationError

INDEX_KEY = "sealchemy index"
"""In `Column.info` of a secret: the key of its index; see `declarations`."""

SECRET_KEY = "sealchemy secret"  # noqa: S105 - a name
"""In `Column.info` of an index: the key of its secret."""

_VALUE_TESTS = frozenset({operators.eq, operators.ne, operators.in_op, operators.not_in_op})
_NEGATIVE = frozenset({operators.ne, operators.not_in_op})
_COLUMN_TESTS = frozenset({operators.eq, operators.ne})
_NULL_TESTS = frozenset({operators.eq, operators.ne, operators.is_, operators.is_not})
TESTS = _VALUE_TESTS | _NULL_TESTS
_OF_THE_ORM = ("parententity", "parentmapper", "entity_namespace")


def index_of(secret: Any) -> Any:
    """Return the index of a secret in the same table or subquery; None if there is none."""
    return _beside(secret, INDEX_KEY)


def secret_of(index: Any) -> Any:
    """Return the secret of an index in the same table or subquery; None if there is none."""
    return _beside(index, SECRET_KEY)


def _beside(column: Any, info: str) -> Any:
    def keys_of(stored: Any) -> tuple[str, ...]:
        return (key,) if (key := getattr(stored, "info", {}).get(info)) else ()

    found = find_beside(unwrap(column), keys_of)
    if not found:
        return None
    annotations = {name: column._annotations[name] for name in _OF_THE_ORM if name in column._annotations}
    return found[0]._annotate(annotations) if annotations else found[0]


def find_rows(
    op: OperatorType, index: Any, secret: Any, other: Sequence[Any], type_: Any, secret_type: Any = None
) -> ColumnElement[bool]:
    """Return the test of an index against a text, texts, NULL or another index.

    Args:
        op: the operator.
        index: the column with the digests.
        secret: the column beside it, for `during_rollout`.
        other: the operand.
        type_: the type of the index.
        secret_type: the type of the secret, if the operand is to be converted as its values are.

    Raises:
        UnsupportedOperationError: any other test.
    """
    is_one, is_closure = len(other) == 1, bool(other) and isinstance(other[0], PyWrapper)
    operand = other[0].__clause_element__() if is_one and hasattr(other[0], "__clause_element__") else (*other, None)[0]
    if is_one and (operand is None or isinstance(operand, Null)) and op in _NULL_TESTS:
        return _plain(index, type_).operate(op, operand)
    if is_one and isinstance(operand, ColumnClause | Label):
        other_type: Any = operand.type
        if op in _COLUMN_TESTS and type(other_type) is type(type_) and other_type.context == type_.context:
            return _plain(index, type_).operate(op, operand)
        refuse_operator(type_, op)
    if not is_one or op not in _VALUE_TESTS or not (is_closure or _is_value(operand, op)):
        other, operand = (), None
        refuse_operator(type_, op)
    bind_type = type_ if secret_type is None else _ConvertedLookup(type_, secret_type)
    if is_closure and isinstance(operand, BindParameter):
        operand = operand._with_binary_element_type(bind_type)
    elif not isinstance(operand, BindParameter):
        operand = mask(list(operand)) if op in {operators.in_op, operators.not_in_op} else mask(operand)
    found: ColumnElement[bool] = _plain(index, bind_type).operate(op, operand)
    if type_.during_rollout is None:
        return found
    if secret is None or isinstance(operand, BindParameter):
        operand = None
        what = "a bindparam(); pass the value itself" if secret is not None else "a subquery that lacks the secret"
        refuse_operator(type_, op, f"with {what}, as during_rollout compares two columns")
    return _or_plaintext(op, index, secret, operand, type_, bind_type)


def _plain(index: Any, type_: Any) -> ColumnElement[Any]:
    """Return the column in a form that SQLAlchemy does not compare in Python, where its value is a digest."""
    return TypeCoerce(index, type_)


def _is_value(operand: Any, op: OperatorType) -> bool:
    if isinstance(operand, BindParameter):
        return bool(operand.type._isnull)
    if op in {operators.in_op, operators.not_in_op}:
        is_many = isinstance(operand, list | tuple | set | frozenset) or hasattr(operand, "__iter__")
        return is_many and not isinstance(operand, str | bytes | ClauseElement) and not any(map(_is_clause, operand))
    return not isinstance(operand, ClauseElement)


def _is_clause(item: Any) -> bool:
    return isinstance(item, ClauseElement) or hasattr(item, "__clause_element__")


def _or_plaintext(
    op: OperatorType, index: Any, secret: Any, operand: Any, type_: Any, bind_type: Any
) -> ColumnElement[bool]:
    """Return the test of a column that is partly plaintext.

    Only an encrypted value is looked for by its digest: an old release may have replaced a plaintext alone.
    """
    is_many = op in {operators.in_op, operators.not_in_op}
    test = operators.in_op if is_many else operators.eq
    stored: ColumnElement[Any] = type_coerce(unwrap(secret)._annotate({PERMIT: ALWAYS}), Text())
    prefix = literal_column(f"'{RESERVED.decode()}'", Text())
    is_encrypted = func.substr(stored, 1, len(RESERVED), type_=Text()) == prefix
    plaintext = TypeCoerce(stored, _PlaintextLookup(type_.context, getattr(bind_type, "secret_type", None)))
    found = or_(and_(is_encrypted, _plain(index, bind_type).operate(test, operand)), plaintext.operate(test, operand))
    return not_(found) if op in _NEGATIVE else found


class _ConvertedLookup(TypeDecorator[Any]):
    """The type of an operand that is converted as the values of a secret are, and then hashed."""

    impl = Text
    cache_ok = True
    takes_secrets = True

    def __init__(self, index_type: Any, secret_type: Any) -> None:
        super().__init__()
        self.index_type, self.secret_type = index_type, secret_type

    @override
    def bind_processor(self, dialect: Dialect) -> Any:
        return converting(self.secret_type, dialect, self.index_type.bind_processor(dialect))

    @override
    def literal_processor(self, dialect: Dialect) -> Any:
        return converting(self.secret_type, dialect, self.index_type.literal_processor(dialect))


class _PlaintextLookup(TypeDecorator[Any]):
    """The type of an operand for a column that may have plaintext.

    In a stage in which it has none, it is a text that no column has: servers may log it.
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
            data: Any = None
            try:
                if value is None:
                    return None
                if not keys.reads_plaintext(context):
                    return RESERVED.decode()
                data = require_encodable(TEXT.value, value, context)
                return StoredPlaintext(data.decode())
            finally:
                value = data = None  # this frame is in the traceback

        return converting(self.secret_type, dialect, process)


def refuse_operator(type_: Any, op: OperatorType, how: str = "") -> NoReturn:
    """Raise `UnsupportedOperationError` for what a digest cannot answer."""
    name = getattr(op, "opstring", None) or getattr(op, "__name__", "this operator").removesuffix("_op")
    raise UnsupportedOperationError(
        f"{type_.context}: {name} {how or 'with this operand'} is not supported on a blind index, which has a hash of"
        " the value. It answers ==, !=, in_() and not_in() for texts, IS NULL, and == between two indexes of one"
        " context"
    )
