"""`EncryptedType`, which the encrypted types share, and how the type of a column is recognised as one."""

from collections.abc import Iterable, Sequence
from functools import partial
from inspect import getattr_static
from typing import Any, ClassVar, NoReturn, TypeVar

from sqlalchemy import ColumnElement, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine
from typing_extensions import override

from sealchemy._values.codecs import TEXT, Plaintext
from sealchemy._values.envelope import require_context
from sealchemy._values.secret import hide
from sealchemy.errors import ColumnDefinitionError

from .blind_index.pairs import has_digests
from .comparator import EncryptedComparator
from .engine_keys import engine_keys
from .rows.parts import refuse_unpaired, require_names, with_row

_Value = TypeVar("_Value")


class EncryptedType(TypeDecorator[_Value]):
    """A column whose values are encrypted in the database, under a context."""

    kind: ClassVar[Plaintext] = TEXT
    """The one thing in which the types differ."""

    bind_to: tuple[str, ...] = ()
    """The attributes of the row that its values are bound to."""

    impl = Text
    cache_ok = True
    comparator_factory = EncryptedComparator  # pyright: ignore[reportAssignmentType] # as SQLAlchemy documents it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a subclass that overrides what would not be called, or would store plaintext."""
        super().__init_subclass__(**kwargs)
        if cls.__module__ != "sealchemy" and (name := find_override(cls, EncryptedType, _MAY_OVERRIDE)):
            raise ColumnDefinitionError(
                f"{cls.__name__} overrides {name} of an encrypted type, which is not called, or would store plaintext."
                f" To convert values, write a TypeDecorator whose impl is {cls.__mro__[1].__name__}, with"
                " process_bind_param and process_result_value"
            )

    def __init__(self, context: str, bind_to: Sequence[str] = ()) -> None:
        """Name the secret.

        Args:
            context: `[A-Za-z0-9_.-]{1,128}`, for example `"integrations.access_token"`. It is authenticated in
                every value: **once there are rows, changing it makes them unreadable**, and two columns that share
                it accept each other's values. It is not derived from the table's name, so you can rename a table.
            bind_to: attributes of the same table: a value is read only in a row that has the values there with which
                it was written. Name the owner, and what decides where the secret is sent; never what changes often.
                Names and order are permanent.

        Raises:
            ColumnDefinitionError: `context` or `bind_to` is malformed.
        """
        super().__init__()
        context = hide(context)
        self.context = require_context(context)
        self.bind_to = require_names(bind_to, self.context)

    @property
    def label(self) -> str:
        """The context, with what keeps its values from being read as those of another column of this context."""
        label = self.context if self.kind is TEXT else f"{self.context} ({self.kind.name})"
        return f"{label} bound to {', '.join(self.bind_to)}" if self.bind_to else label

    def __repr__(self) -> str:
        """Return the declaration."""
        return f"{type(self).__name__}({self.context!r}{f', bind_to={self.bind_to!r}' if self.bind_to else ''})"

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
            f"{self.context}: a variant of {type(self).__name__} would store plaintext; leave it out, the type fits"
            " every dialect"
        )

    @property
    def _has_column_expression(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] # SQLAlchemy asks
        return bool(self.bind_to)

    @override
    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return what a SELECT renders for a column whose values are bound to their row."""
        return with_row(column, self.bind_to, self.context)

    @override
    def bind_processor(self, dialect: Dialect) -> Any:
        """Return the function that encrypts one parameter."""
        if self.bind_to:
            return partial(refuse_unpaired, self.context, self.bind_to)
        return engine_keys(dialect).encryptor(self.context, self.kind)

    @override
    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the function that decrypts one value of a row."""
        return engine_keys(dialect).decryptor(self.context, self.kind, self.bind_to)

    @override
    def literal_processor(self, dialect: Dialect) -> Any:
        """Return the function that renders one literal, as ciphertext.

        SQLAlchemy prints the value of a literal that it fails to render, unless the compiler is `ProtectedCompiler`. So
        an engine without a ring is refused here, before there is a value.
        """
        engine_keys(dialect).require_ring(self.context)
        quote, encrypt = self.impl_instance.literal_processor(dialect), self.bind_processor(dialect)

        def process(value: Any) -> str:
            return quote(encrypt(value))  # type: ignore[misc] # every dialect's Text has one

        return process


_CACHE_KEY = "_static_cache_key"
_MAY_OVERRIDE = frozenset({"cache_ok", "python_type"})


def find_override(class_: type, base: type, allowed: frozenset[str]) -> str | None:
    """Return an attribute of `base` that `class_` overrides, itself or through a mixin, and that is not allowed."""
    names = {name for name in dir(base) if not name.startswith("__")} - allowed
    own = [item for item in class_.__mro__ if item not in base.__mro__ and item.__module__ != "sealchemy"]
    return next((name for item in own for name in vars(item) if name in names), None)


def put_context_into_cache_key(class_: type) -> None:
    """Add the context to the statement cache key of a wrapper class.

    SQLAlchemy builds that key from named arguments, and a wrapper has none. Without the context, a cached statement
    would encrypt the values of a second context for the first one.
    """
    if _CACHE_KEY in vars(class_):
        return
    inherited: Any = getattr_static(class_, _CACHE_KEY)

    def key(type_: Any) -> Any:
        found, encrypted = inherited.__get__(type_, class_), encrypted_type(type_)
        return (*found, ("label", encrypted.label)) if encrypted and isinstance(found, tuple) else found

    setattr(class_, _CACHE_KEY, property(key))


def encrypted_type(type_: object) -> EncryptedType[Any] | None:
    """Return the encrypted type of a column, also where a `TypeDecorator` wraps it; None if there is none."""
    while not isinstance(type_, EncryptedType):
        if not isinstance(type_, TypeDecorator):
            return None
        type_ = type_.impl_instance
    return type_


def require_encrypted(type_: object) -> EncryptedType[Any]:
    """Return the encrypted type of a column that is known to have one."""
    found = encrypted_type(type_)
    assert found is not None  # noqa: S101 - said by the name of the function
    return found


def bound_columns(columns: Iterable[Any]) -> list[Any]:
    """Return the columns whose values are bound to their row."""
    return [column for column in columns if (type_ := encrypted_type(column.type)) is not None and type_.bind_to]


def context_of(element: object, dialect: Dialect) -> str | None:
    """Return the context of an SQL expression; None if its type is not encrypted. Raises as `context_of_type`."""
    return context_of_type(getattr(element, "type", None), dialect)


def context_of_type(type_: Any, dialect: Dialect) -> str | None:
    """Return the context of a type, with the kind of its values unless that is text; None if it is not encrypted.

    The digests of a blind index are such a kind.

    Raises:
        ColumnDefinitionError: it is encrypted on this dialect, and perhaps not on others.
    """
    if isinstance(type_, EncryptedType) or has_digests(type_):
        return str(type_.label)
    if not isinstance(type_, TypeDecorator) and not getattr(type_, "_variant_mapping", None):
        return None
    found = encrypted_type(type_)
    if found is not None:
        put_context_into_cache_key(type(type_))
    if found is None and (found := encrypted_type(type_.dialect_impl(dialect))):
        raise ColumnDefinitionError(
            f"{type(type_).__name__} becomes {found!r} on {dialect.name}, and its values could be stored in plaintext"
            " on other databases; use a TypeDecorator whose impl is the encrypted type"
        )
    return None if found is None else found.label
