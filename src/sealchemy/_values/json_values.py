"""JSON values (RFC 8259) as compact UTF-8 and back; the strings of what is read are `SecretString`s."""

import json
import re
from enum import Enum
from math import isfinite
from types import NoneType
from typing import Any, NoReturn

from .secret import MaskedText, SecretString, has_lone_surrogate, hide, reveal, type_name

_LEAVES = frozenset({str, SecretString, MaskedText, int, float, bool, NoneType})
_CONTAINERS = (dict, list, tuple)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def encode(value: Any) -> bytes:
    """Return a JSON value as UTF-8; raises `TypeError`, `ValueError` or `RecursionError` for anything else."""
    text = _encoder.encode(value)
    if type(value) not in _LEAVES:
        _refuse_turned(value)
    return text.encode()


def _reveal(value: Any) -> Any:
    revealed = reveal(value)
    if revealed is value:
        raise TypeError
    _refuse_turned(revealed)
    return revealed


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_reveal)


def _refuse_turned(value: Any) -> None:
    """Raise `TypeError` for values that the encoder changes: keys that are not strings, marks such as `JSON.NULL`."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str and not isinstance(key, str):
                raise TypeError
            if type(item) not in _LEAVES:
                _refuse_turned(item)
    elif isinstance(value, list | tuple):
        for item in value:
            if type(item) not in _LEAVES:
                _refuse_turned(item)
    elif _is_mark(value):
        raise TypeError


def _is_mark(value: Any) -> bool:
    return isinstance(value, int) and type(value) is not int and not isinstance(value, bool | Enum)


def decode(data: bytes) -> Any:
    """Return the value of JSON in UTF-8; raises `ValueError` or `RecursionError` for other bytes."""
    text = str(data, "utf-8")
    try:
        value, end = _decoder.scan_once(text, 0)
    except StopIteration:  # it starts with whitespace, or is no JSON
        value, end = None, -1
    if end != len(text):
        value = _decoder.decode(text)
    if type(value) is str:
        return SecretString(value)
    if type(value) is list:
        _hide_in_list(value)
    return value


def _hide_in_object(found: dict[str, Any]) -> dict[str, Any]:
    for key, item in found.items():
        if type(item) is str:
            found[key] = SecretString(item)
        elif type(item) is list:
            _hide_in_list(item)
    return found


def _hide_in_list(items: list[Any]) -> None:
    for index, item in enumerate(items):
        if type(item) is str:
            items[index] = SecretString(item)
        elif type(item) is list:
            _hide_in_list(item)


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError  # NaN and infinities, which are no JSON


def _parse_float(text: str) -> float:
    return float(text) if isfinite(float(text)) else _refuse_constant(text)  # 1e999 could not be written back


_decoder: Any = json.JSONDecoder(object_hook=_hide_in_object, parse_constant=_refuse_constant, parse_float=_parse_float)


def encode_text(text: Any) -> bytes:
    """Return the UTF-8 of a text that is JSON; raises as `decode` does, or `TypeError` if it is not text."""
    if isinstance(text, int | float):  # SQLite stores the text of a number as a number in a column of type JSON
        return encode(text)
    data = str.encode(text)
    decode(data)
    return data


def decode_text(data: bytes) -> SecretString:
    """Return JSON in UTF-8 as text; raises as `decode` does."""
    decode(data)
    return SecretString(data, "utf-8")


def hide_strings(value: Any) -> Any:
    """Return a JSON value with masked strings, in the same lists and dicts; any other value as `hide` does.

    They are replaced in place, because the application may go on to fill an object that it has assigned. The masked
    strings may be stored in other columns as well. Only plain `str` is replaced: enums and pydantic's `SecretStr` keep
    their types.
    """
    value = reveal(value)
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, (*_CONTAINERS, int, float)) and not _is_mark(value):
        try:
            return _hide_parts(value)
        except RecursionError:
            return value  # `encode` refuses it
    return hide(value)


def _hide_parts(value: Any) -> Any:
    if type(value) is str:
        return MaskedText(value)
    if type(value) is tuple:
        return tuple(map(_hide_parts, value))
    if isinstance(value, dict):
        for key, item in list(dict.items(value)):
            dict.__setitem__(value, key, _hide_parts(item))  # a subclass would report a change
    elif isinstance(value, list):
        for index, item in enumerate(value):
            list.__setitem__(value, index, _hide_parts(item))
    return value


def find_problem(value: Any) -> str:
    """Return why a value is not JSON: the path (RFC 9535) and the type of the part that is wrong."""
    try:
        found = _find(value, "$", ()) or "this is not"
    except RecursionError:
        found = "this is nested too deeply"
    return f"takes JSON, and {found}; convert it before, or in a TypeDecorator of your own"


def _find(value: Any, path: str, outer: tuple[int, ...]) -> str | None:
    if id(value) in outer:
        return f"{path} contains itself"
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            return f"{path} has a key that is not a str"
        if any(has_lone_surrogate(key) for key in value):
            return f"{path} has a key with a lone surrogate and no UTF-8 form"
        places = [(_place(path, key), item) for key, item in dict.items(value)]
    elif isinstance(value, list | tuple):
        places = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        problem = _find_in_leaf(value)
        return f"{path} is {problem}" if problem else None
    return next((found for place, item in places if (found := _find(item, place, (*outer, id(value))))), None)


def _place(path: str, key: str) -> str:
    return f"{path}.{key}" if _IDENTIFIER.fullmatch(key) else f"{path}[{json.dumps(str(key))}]"


def _find_in_leaf(value: Any) -> str | None:
    value = reveal(value)
    if isinstance(value, str):
        return "a text with a lone surrogate and no UTF-8 form" if has_lone_surrogate(value) else None
    if isinstance(value, float) and not isfinite(value):
        return "NaN or an infinity, which JSON does not have"
    if isinstance(value, int) and not _is_mark(value):
        try:
            int.__repr__(value)
        except ValueError:
            return "an integer of too many digits (see sys.set_int_max_str_digits)"
        return None
    return None if value is None or isinstance(value, float) else f"a {type_name(hide(value))}"
