"""What a statement's parameters may be, whatever their place in it."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Text
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.util import memoized_property

from sealchemy._values.codecs import require_encodable
from sealchemy._values.secret import SecretBytes, SecretString, hide
from sealchemy.errors import UnsupportedOperationError

from .encrypted_type import EncryptedType, context_of, context_of_type
from .engine_keys import EngineKeys, engine_keys
from .rows.parts import without_row

_READ = frozenset({SecretString, SecretBytes})
"""The types of the values that encrypted columns return."""


class ParametersCompiler(SQLCompiler):
    """The part of `ProtectedCompiler` that sees parameters and literals."""

    def context_of_element(self, element: object) -> str | None:
        return context_of(element, self.dialect)

    def require_one_context_per_parameter(self) -> None:
        """Refuse a parameter's name with two types: SQLAlchemy would bind both values with one of them."""
        contexts: dict[str, str | None] = {}
        for parameter, name in getattr(self, "bind_names", {}).items():
            context = self.context_of_element(parameter)
            other = contexts.setdefault(name, context)
            if other != context:
                raise UnsupportedOperationError(
                    f"{context or other}: a parameter of the same name as one of another type is not supported, because"
                    " both values would be bound as one of them; use another name"
                )

    def visit_bindparam(self, bindparam: Any, *args: Any, **kwargs: Any) -> str:
        """Render a parameter, if the values that it already has can be encrypted.

        Later, SQLAlchemy's own frames would hold them.
        """
        context = self.context_of_element(bindparam)
        if bindparam.literal_execute and context is not None:
            raise UnsupportedOperationError(
                f"{context}: literal_execute is not supported, because its errors would print the plaintext"
            )
        if isinstance(bindparam.type, EncryptedType):
            for value in _known_values(bindparam):
                plain = without_row(value) if bindparam.type.bind_to else value
                require_encodable(bindparam.type.kind.value, plain, bindparam.type.context)
        return super().visit_bindparam(bindparam, *args, **kwargs)

    def render_literal_value(self, value: Any, type_: Any, *args: Any, **kwargs: Any) -> str:
        """Render a literal as ciphertext; SQLAlchemy prints a value that it fails to render."""
        if value is not None and context_of_type(type_, self.dialect) is not None:
            try:
                value = type_._cached_bind_processor(self.dialect)(value)
            except BaseException:
                value = hide(value)  # this frame is in the traceback
                raise
            value, type_ = None if value is None else str(value), Text()
        return super().render_literal_value(value, type_, *args, **kwargs)

    @memoized_property
    def _bind_processors(self) -> Any:
        # A class that used this one of another would have threads see what that one returns.
        return self.make_bind_processors()

    def make_bind_processors(self) -> Any:
        """Return the functions that convert parameters; those of plain columns refuse the values of encrypted ones.

        The result may be of another type, such as the driver's `Binary`, which the last line does not recognize.
        """
        processors = dict(SQLCompiler.__dict__["_bind_processors"].fget(self))
        for parameter, name in self.bind_names.items():
            # A TypeDecorator may compute a hash of a secret, say: the last line checks the result.
            type_: Any = parameter.type
            converts = getattr(type_, "_has_bind_processor", False) or getattr(type_, "takes_secrets", False)
            if callable(processors.get(name)) and not converts and self.context_of_element(parameter) is None:
                processors[name] = _refusing_secrets(processors[name], engine_keys(self.dialect))
        return processors


def _refusing_secrets(process: Callable[[Any], Any], keys: EngineKeys) -> Callable[[Any], Any]:
    def refusing(value: Any) -> Any:
        if type(value) in _READ:
            keys.refuse_secret()
        return process(value)

    return refusing


def _known_values(bindparam: BindParameter[Any]) -> list[Any]:
    """Return the values that a parameter has while its statement is compiled."""
    value = None if bindparam.required else bindparam.effective_value
    values = (value or ()) if bindparam.expanding else (value,)
    return [value for value in values if value is not None]
