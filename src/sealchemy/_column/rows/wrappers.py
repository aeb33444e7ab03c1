"""A user's `TypeDecorator`s over one of our types: what they do to a value before it is encrypted or hashed."""

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from sealchemy._values.secret import hide


def converting(type_: Any, dialect: Dialect, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that does to a value what the wrappers of a type do, and gives the result to another one.

    A None that a wrapper returns stays NULL.
    """
    converters = []
    while type_ is not None and type(type_).__module__ != "sealchemy":
        if type(type_).process_bind_param is not TypeDecorator.process_bind_param:
            converters.append(type_.process_bind_param)
        type_ = type_.impl_instance
    if not converters:
        return function

    def convert(value: Any) -> Any:
        try:
            for converter in converters:
                value = converter(value, dialect)
            return function(value)
        except BaseException:
            value = hide(value)  # this frame is in the traceback
            raise

    return convert
