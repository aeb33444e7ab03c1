"""`EncryptedString`: the column type."""

from typing import Any, NoReturn

from sqlalchemy import Column, Text, event
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BindParameter, ColumnClause, ColumnElement, Label, Null
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator, TypeEngine
from typing_extensions import override

from sealchemy._values.data_key import require_encryptable
from sealchemy._values.envelope import require_context
from sealchemy._values.secret import SecretString, hide, type_name
from sealchemy.errors import ColumnDefinitionError, PlaintextTypeError, SealchemyError, UnsupportedOperationError

from . import last_line  # noqa: F401 - its listeners protect every engine that meets the type
from .declarations import check_column, refuse_declaration
from .encrypted_type import EncryptedType
from .engine_keys import engine_keys

_NULL_TESTS = frozenset({operators.eq, operators.ne, operators.is_, operators.is_not})
_COLUMN_TESTS = frozenset({operators.eq, operators.ne})


class _Comparator(TypeDecorator.Comparator[str]):
    """Refuse operators that would match nothing, or sort by ciphertext."""

    __slots__ = ()

    @override
    def operate(  # type: ignore[override] # one overload of two: it changes no result type
        self, op: OperatorType, *other: Any, **kwargs: Any
    ) -> ColumnElement[str]:
        if not _is_meaningful(op, other):
            other, kwargs = (), {}  # error trackers print the variables of a frame
            _refuse_operator(self.expr.type, op)
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
    raise UnsupportedOperationError(
        f"{type_.context}: {name} is not supported on an encrypted column, because two encryptions of one text differ"
        " and ciphertext has no order. Select by other columns, and compare in Python; to look rows up by the value,"
        " keep a keyed hash in another column. IS NULL and IS NOT NULL work"
    )


class EncryptedString(EncryptedType, TypeDecorator[str]):
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

    impl = Text
    cache_ok = True
    comparator_factory = _Comparator  # pyright: ignore[reportAssignmentType] # as SQLAlchemy documents it

    def __init__(self, context: str) -> None:
        """Name the secret.

        Args:
            context: `[A-Za-z0-9_.-]{1,128}`, for example `"integrations.access_token"`. It is authenticated in
                every value: **once there are rows, changing it makes them unreadable**, and two columns that share
                it accept each other's values. It is not derived from the table's name, so you can rename a table.

        Raises:
            ColumnDefinitionError: `context` is malformed.
        """
        super().__init__()
        context = hide(context)
        self.context = require_context(context)

    def __repr__(self) -> str:
        """Return the declaration."""
        return f"EncryptedString({self.context!r})"

    @override
    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return TEXT, or MEDIUMTEXT where there is one (MySQL, MariaDB), since TEXT ends at 65 535 bytes there."""
        types: dict[str, type[TypeEngine[Any]]] = getattr(dialect, "ischema_names", {})
        return types.get("mediumtext", Text)()

    @override
    def with_variant(self, type_: object, *dialect_names: str) -> NoReturn:
        """Refuse: the variant would store plaintext."""
        type_ = hide(type_)
        raise ColumnDefinitionError(
            f"{self.context}: a variant of EncryptedString would store plaintext; leave it out, the type fits every"
            " dialect"
        )

    @override
    def bind_processor(self, dialect: Dialect) -> Any:
        """Return the function that encrypts one parameter."""
        return engine_keys(dialect).encryptor(self.context)

    @override
    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that decrypts one value of a row."""
        return engine_keys(dialect).decryptor(self.context)

    @override
    def literal_processor(self, dialect: Dialect) -> Any:
        """Return the function that renders one literal, as ciphertext.

        SQLAlchemy prints the value of a literal that it fails to render. So errors are raised here, or in
        `bind_expression`, before there is a value.
        """
        keys = engine_keys(dialect)
        keys.require_ring(self.context)
        quote, encrypt = self.impl_instance.literal_processor(dialect), keys.encryptor(self.context)

        def process(value: str) -> str:
            return quote(encrypt(value))  # type: ignore[misc] # every dialect's Text has one

        return process

    @override
    def bind_expression(self, bindparam: BindParameter[str]) -> BindParameter[str]:
        """Return the parameter as it is, or refuse a value that cannot be rendered as a literal."""
        problem = self._find_problem(bindparam)
        if problem is not None:
            bindparam = hide(bindparam)  # its repr shows the value
            raise problem
        return bindparam

    def _find_problem(self, bindparam: BindParameter[str]) -> SealchemyError | None:
        if bindparam.literal_execute:
            return UnsupportedOperationError(
                f"{self.context}: literal_execute is not supported, because its errors would print the plaintext"
            )
        try:
            for value in _known_values(bindparam):
                require_encryptable(hide(value), self.context)
        except SealchemyError as error:
            return error.with_traceback(None)
        return None


def _known_values(bindparam: BindParameter[str]) -> list[Any]:
    """Return the values that a parameter has while its statement is compiled."""
    if bindparam.required:
        return []
    value = bindparam.effective_value
    values = (value or ()) if bindparam.expanding else (value,)
    return [value for value in values if value is not None]


event.listen(EncryptedString, "after_parent_attach", check_column)


@event.listens_for(Mapper, "mapper_configured")
def _prepare_attributes(mapper: Mapper[Any], class_: type) -> None:
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if attribute.parent is mapper and isinstance(column, Column) and isinstance(column.type, EncryptedString):
            refuse_declaration(column)
            event.listen(getattr(class_, attribute.key), "set", _hide_assigned, retval=True, propagate=True)


def _hide_assigned(_target: object, value: Any, _old: object, initiator: Any) -> SecretString | None:
    value = hide(value)
    if value is None or isinstance(value, SecretString):
        return value
    raise PlaintextTypeError(f"{initiator.key}: an encrypted attribute takes str or None, not {type_name(value)}")
