"""`SecretString` behaves like `str`, except for its `repr`."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import pprint
import reprlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from sealchemy import SecretString
from tests.support.leaks import SENTINEL

SECRET = SecretString(SENTINEL)


@given(st.text())
def test_equality_hash_and_formatting_match_plain_str(text: str) -> None:
    secret = SecretString(text)
    assert secret == text
    assert hash(secret) == hash(text)
    assert f"{secret}" == "%s" % secret == f"{secret}" == text  # noqa: UP031 - every formatting style
    assert json.dumps({"token": secret}) == json.dumps({"token": text})
    assert {text: 1}[secret] == 1


@given(st.text(min_size=1), st.slices(10))
def test_slices_are_redacted(text: str, part: slice) -> None:
    assert SecretString(text)[part] == text[part]
    assert repr(SecretString(text)[part]) == repr(SecretString(text)[0]) == "SecretString('***')"


@dataclasses.dataclass
class Grant:
    token: str


@pytest.mark.parametrize(
    "show",
    [
        repr,
        ascii,
        pprint.pformat,
        reprlib.repr,
        pretty_repr,
        lambda secret: pretty_repr(secret, max_string=20),
        lambda secret: repr([secret, {"token": secret}]),
        lambda secret: repr(Grant(secret)),
        lambda secret: str(ValueError(secret, secret)),
        lambda secret: repr(KeyError(secret)),
        lambda secret: f"{secret!r}",
        lambda secret: logging.LogRecord("x", 20, "x", 1, "%r", (secret,), None).getMessage(),
    ],
)
def test_repr_never_shows_the_text(show: object) -> None:
    assert "SENTINEL" not in show(SECRET)  # type: ignore[operator]


def test_str_returns_a_plain_str() -> None:
    assert type(str(SECRET)) is str
    assert type(SECRET + "") is str
    assert type(pickle.loads(pickle.dumps(SECRET))) is SecretString  # noqa: S301 - pickled here
