"""`SecretString` and `SecretBytes`, which do not print themselves, and `hide`, which wraps secrets where they enter."""

import re
from typing import TYPE_CHECKING, Any, SupportsIndex

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core.core_schema import CoreSchema, SerializationInfo

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class SecretString(str):
    """A `str` whose `repr` is `SecretString('***')`; encrypted columns return it.

    It is a class because logs, row and object reprs, exception texts and the frame locals that error trackers
    collect are all made with `repr`. It equals, hashes, formats, joins and JSON-encodes as the plain text, so a
    token can be used as one. The results of `+`, `.strip()`, `.encode()` and the like are ordinary `str` or
    `bytes`; `str(token)` gives the plain `str`.

    It can be the type of a pydantic field: it takes text, or an object with `get_secret_value()`. As JSON, such a field
    is `"***"`, unless the context of the serialization has `reveal_secrets=True`.
    """

    __module__ = "sealchemy"
    __slots__ = ()

    def __repr__(self) -> str:
        """Return three stars."""
        return "SecretString('***')"

    def __getitem__(self, index: SupportsIndex | slice) -> "SecretString":
        """Return a part, masked as well: pretty-printers cut a text before they print it."""
        return SecretString(super().__getitem__(index))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        """Return how pydantic validates and serializes such a field."""
        return _field(cls, "str_schema")

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: "CoreSchema", handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        """Return what OpenAPI calls a password."""
        from pydantic_core import core_schema  # noqa: PLC0415 - as above

        return {**handler(core_schema.str_schema()), "format": "password", "writeOnly": True}


def _field(class_: type, schema: str) -> "CoreSchema":
    from pydantic_core import core_schema  # noqa: PLC0415 - not every application has it

    return core_schema.no_info_before_validator_function(
        _reveal_field,
        core_schema.no_info_after_validator_function(class_, getattr(core_schema, schema)()),
        serialization=core_schema.plain_serializer_function_ser_schema(_to_json, info_arg=True, when_used="json"),
    )


def _reveal_field(value: Any) -> Any:
    value = reveal(value)
    if isinstance(value, str | bytes) and value in ("***", b"***"):
        message = "three stars stand for a secret that was not sent; leave the field out to keep the secret"
        raise ValueError(message)
    return value


def _to_json(value: Any, info: "SerializationInfo") -> Any:
    if not isinstance(value, str | bytes):  # another member of a union
        return value
    context = info.context
    is_asked = isinstance(context, dict) and context.get("reveal_secrets") is True
    return (str(value) if isinstance(value, str) else bytes(value).decode()) if is_asked else "***"


class SecretBytes(bytes):
    """`bytes` whose `repr`, and so also `str()`, is `SecretBytes('***')`; encrypted columns of bytes return it.

    It equals and hashes as the plain bytes; a part of it is masked as well, and the results of `+`, `.decode()`,
    `.hex()` and the like are ordinary `bytes` or `str`; `bytes(value)` gives the plain bytes.
    """

    __module__ = "sealchemy"
    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: "GetCoreSchemaHandler") -> "CoreSchema":
        """Return how pydantic validates and serializes such a field, as one of `SecretString`."""
        return _field(cls, "bytes_schema")

    def __repr__(self) -> str:
        """Return three stars."""
        return "SecretBytes('***')"

    __str__ = __repr__

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """Return a number, or a part, which is masked as well."""
        part = super().__getitem__(index)
        return SecretBytes(part) if isinstance(part, bytes) else part


class StoredPlaintext(SecretString):
    """Plaintext that may be stored as it is: in stage PREPARE, or by a rewrite that decrypts."""

    __slots__ = ()


def reveal(value: Any) -> Any:
    """Return what an object with `get_secret_value()`, such as pydantic's `SecretStr`, holds; others as they are."""
    method = getattr(type(value), "get_secret_value", None)
    return value if method is None else method(value)


def hide(value: object) -> Any:
    """Return a value in a form that shows nothing: None as None, text as `SecretString`, anything else as its type.

    An object with `get_secret_value()` is taken for what it holds. Public functions rebind a parameter with it first,
    so that no frame of theirs, or behind them, holds a value that an error tracker could print. Hiding twice changes
    nothing.
    """
    value = reveal(value)
    if isinstance(value, str):
        # Of `str` itself: a subclass may show a mask, or a name, in place of its characters.
        return SecretString(str.__str__(value))
    return value if value is None or isinstance(value, type) else type(value)


def hide_stored(value: object) -> Any:
    """Return what a driver returned in a form that shows nothing: text, bytes and numbers keep their values."""
    if isinstance(value, bytes):
        return SecretBytes(value)
    return value if isinstance(value, int | float) else hide(value)


class MaskedText(SecretString):
    """The text of an application's own object, to which the rules for decrypted values do not apply."""

    __slots__ = ()

    def __deepcopy__(self, _memo: object) -> "MaskedText":
        """Return the same object, as for any text."""
        return self

    def __reduce_ex__(self, _protocol: object) -> Any:
        """Pickle as `SecretString`, whose import path is permanent."""
        return SecretString, (str(self),)


class MaskedBytes(SecretBytes):
    """The same for bytes."""

    __slots__ = ()


def mask(value: Any) -> Any:
    """Return an equal value whose texts do not show in a repr, also those in lists, tuples and dicts."""
    if type(value) in (str, bytes):
        return MaskedText(value) if type(value) is str else MaskedBytes(value)
    if type(value) is dict:
        return {key: mask(item) for key, item in value.items()}
    return type(value)(map(mask, value)) if type(value) in (list, tuple) else value


def has_lone_surrogate(text: str) -> bool:
    """Return whether a text has no UTF-8 form; encoding it would raise an error that holds the text."""
    return _LONE_SURROGATE.search(text) is not None


def type_name(hidden: Any) -> str:
    """Return what an error calls a hidden value that is not text."""
    return "None" if hidden is None else str(hidden.__name__)
