"""JSON values: what is written, what is read, and what is refused, by its path."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy.ext.mutable import MutableDict

from sealchemy import SecretString
from sealchemy._values import json_values

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


class Number(enum.IntEnum):
    ONE = 1


class Name(enum.StrEnum):
    A = "a"


def strings(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [found for item in value.values() for found in strings(item)]
    if isinstance(value, list):
        return [found for item in value for found in strings(item)]
    return [value] if isinstance(value, str) else []


def keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *(found for item in value.values() for found in keys(item))]
    return [found for item in value for found in keys(item)] if isinstance(value, list) else []


@given(JSON)
def test_round_trip(value: Any) -> None:
    has_surrogate = "\\ud" in json.dumps([*strings(value), *keys(value)]) and not _has_utf8(value)
    if has_surrogate:
        with pytest.raises(UnicodeEncodeError):
            json_values.encode(value)
        return
    data = json_values.encode(value)
    read = json_values.decode(data)
    assert read == value
    assert json.loads(data) == value
    assert all(type(item) is SecretString for item in strings(read))
    assert all(type(item) is str for item in keys(read))
    assert json_values.encode(read) == data
    assert json.dumps(read) == json.dumps(value)


def _has_utf8(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def test_it_is_compact_utf_8_with_the_keys_as_given() -> None:
    assert json_values.encode({"b": "ключ", "a": [1, 2.5, None, True]}) == '{"b":"ключ","a":[1,2.5,null,true]}'.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1, "a"), '[1,"a"]'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (MutableDict(a=1), '{"a":1}'),
        (Number.ONE, "1"),
        ({Name.A: Name.A}, '{"a":"a"}'),
        ({"a": SecretStr("token")}, '{"a":"token"}'),
        ({"a": SecretString("token")}, '{"a":"token"}'),
        ([[["deep"]]], '[[["deep"]]]'),
        ({}, "{}"),
    ],
    ids=str,
)
def test_values_that_json_takes_as_well(value: Any, text: str) -> None:
    assert json_values.encode(value).decode() == text


class Holds:
    def __init__(self, value: Any) -> None:
        self.value = value

    def get_secret_value(self) -> Any:
        return self.value


@pytest.mark.parametrize("value", [sqlalchemy.JSON.NULL, {1: "x"}, {"a": sqlalchemy.JSON.NULL}, [{None: 1}]])
def test_what_the_encoder_would_change_is_refused(value: Any) -> None:
    for document in (value, [value], {"a": Holds(value)}):
        with pytest.raises(TypeError):
            json_values.encode(document)


SELF: list[Any] = []
SELF.append(SELF)
DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": [1, 2, {"b", "token"}]}, "$.a[2] is a set"),
        ({"a": {"b c": dt.date(2026, 1, 1)}}, '$.a["b c"] is a date'),
        ({"a": b"token"}, "$.a is a bytes"),
        ({"a": math.nan}, "$.a is NaN or an infinity"),
        ([math.inf], "$[0] is NaN or an infinity"),
        ({"a": {1: "token"}}, "$.a has a key that is not a str"),
        ({None: 1}, "$ has a key that is not a str"),
        ({"a": {(1, 2): 1}}, "$.a has a key that is not a str"),
        ({"a": "\ud800"}, "$.a is a text with a lone surrogate"),
        ({"\ud800": 1}, "$ has a key with a lone surrogate"),
        ([10**5000], "$[0] is an integer of too many digits"),
        (SELF, "$[0] contains itself"),
        (DEEP, "nested too deeply"),
        ({"a": object()}, "$.a is a object"),
        ([{"a": SecretStr}], "$[0].a is"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_json_is_refused_by_path(value: Any, problem: str) -> None:
    with pytest.raises((TypeError, ValueError, RecursionError)):
        json_values.encode(value)
    found = json_values.find_problem(value)
    assert found.startswith("takes JSON, and ")
    assert problem in found
    assert "token" not in found


@pytest.mark.parametrize("text", [" [1]", "[1] ", '\n{"a": "b"}\n', "[1, 1]", '{"a":1,"a":2}', '"a"', "null", "1e3"])
def test_json_text_is_kept_as_it_is(text: str) -> None:
    data = json_values.encode_text(text)
    assert data == text.encode()
    assert json_values.decode_text(data) == text
    assert json_values.decode(data) == json.loads(text)


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[Infinity]", "1e999", "[-1e999]", "{'a': 1}", "[1] x", "\ufeff[1]", "[" * 100_000]
)
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        json_values.encode_text(text)
    with pytest.raises((ValueError, RecursionError)):
        json_values.decode(text.encode())


def test_hiding_changes_the_object_itself() -> None:
    inner, outer = ["token", 1, ("token", SecretStr("token"))], MutableDict(a="token", b=None)
    secret = inner[2][1]
    outer["c"] = inner
    assert json_values.hide_strings(outer) is outer
    assert outer["c"] is inner
    assert "token" not in repr(outer)
    assert outer == {"a": "token", "b": None, "c": ["token", 1, ("token", secret)]}


class Point(NamedTuple):
    x: str


def test_hiding_keeps_the_types_of_parts() -> None:
    document = {"enum": Name.A, "point": Point("a"), "secret": SecretStr("token"), "number": Number.ONE}
    before = dict(document)
    hidden = json_values.hide_strings(document)
    assert hidden == before
    assert [type(item) for item in hidden.values()] == [type(item) for item in before.values()]


def test_parts_that_occur_many_times_are_hidden_in_little_time() -> None:
    part: Any = ["token"]
    for _ in range(15):
        part = [part, part]
    assert "token" not in repr(json_values.hide_strings(part))


def test_a_tuple_that_occurs_twice_is_hidden_twice() -> None:
    part = ("token",)
    assert "token" not in repr(json_values.hide_strings([part, part, {"a": part}]))


def test_hiding_leaves_what_is_not_json_in_place() -> None:
    date = dt.date(2026, 1, 1)
    assert json_values.hide_strings({"a": [date]}) == {"a": [date]}
    assert json_values.hide_strings(date) is dt.date
    assert json_values.hide_strings(SELF) is SELF
    assert json_values.hide_strings(DEEP) is DEEP
    assert json_values.hide_strings(None) is None
