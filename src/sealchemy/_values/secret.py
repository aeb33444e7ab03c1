"""`SecretString`, a `str` that does not print itself, and `hide`, which wraps secrets where they enter."""

import re
from typing import Any, SupportsIndex

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class SecretString(str):
    """A `str` whose `repr` is `SecretString('***')`; encrypted columns return it.

    It is a class because logs, row and object reprs, exception texts and the frame locals that error trackers
    collect are all made with `repr`. It equals, hashes, formats, joins and JSON-encodes as the plain text, so a
    token can be used as one. The results of `+`, `.strip()`, `.encode()` and the like are ordinary `str` or
    `bytes`; `str(token)` gives the plain `str`.
    """

    __module__ = "sealchemy"
    __slots__ = ()

    def __repr__(self) -> str:
        """Return three stars."""
        return "SecretString('***')"

    def __getitem__(self, index: SupportsIndex | slice) -> "SecretString":
        """Return a part, masked as well: pretty-printers cut a text before they print it."""
        return SecretString(super().__getitem__(index))


class StoredPlaintext(SecretString):
    """Plaintext that may be stored as it is: in stage PREPARE, or by a rewrite that decrypts."""

    __slots__ = ()


def hide(value: object) -> Any:
    """Return a value in a form that shows nothing: None as None, text as `SecretString`, anything else as its type.

    Public functions rebind a parameter with it first, so that no frame of theirs, or behind them, holds a value
    that an error tracker could print. Hiding twice changes nothing.
    """
    if isinstance(value, str):
        # Of `str` itself: a subclass may show a mask, or a name, in place of its characters.
        return SecretString(str.__str__(value))
    return value if value is None or isinstance(value, type) else type(value)


class MaskedText(SecretString):
    """The text of an application's own parameter, to which the rules for decrypted values do not apply."""

    __slots__ = ()


def mask(value: Any) -> Any:
    """Return an equal value whose texts do not show in a repr, also those in lists, tuples and dicts."""
    if type(value) is str:
        return MaskedText(value)
    if type(value) is dict:
        return {key: mask(item) for key, item in value.items()}
    return type(value)(map(mask, value)) if type(value) in (list, tuple) else value


def has_lone_surrogate(text: str) -> bool:
    """Return whether a text has no UTF-8 form; encoding it would raise an error that holds the text."""
    return _LONE_SURROGATE.search(text) is not None


def type_name(hidden: Any) -> str:
    """Return what an error calls a hidden value that is not text."""
    return "None" if hidden is None else str(hidden.__name__)
