"""The envelope is decoded strictly."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sealchemy import EnvelopeError, EnvelopeFormatError, UnsupportedVersionError
from sealchemy._values import envelope
from sealchemy._values.secret import hide
from sealchemy.errors import ColumnDefinitionError

PAYLOAD = bytes(range(41))
GOOD = "sealchemy:v1:0123456789ab:" + base64.b64encode(PAYLOAD).decode()


def test_encrypted_value_is_parsed_into_key_id_and_payload() -> None:
    assert envelope.parse(GOOD) == ("0123456789ab", PAYLOAD)


MALFORMED = {
    "empty": "",
    "plaintext": "ya29.token",
    "prefix only": "sealchemy:",
    "no version": "sealchemy:0123456789ab:" + GOOD[26:],
    "uppercase prefix": "SEALCHEMY" + GOOD[9:],
    "leading space": " " + GOOD,
    "uppercase key id": GOOD.replace("0123456789ab", "0123456789AB"),
    "fullwidth key id": GOOD.replace("0123456789ab", "\uff10123456789ab"),
    "short key id": GOOD.replace("0123456789ab", "0123456789a"),
    "long key id": GOOD.replace("0123456789ab", "0123456789abc"),
    "no payload": GOOD[:26],
    "39 bytes": GOOD[:26] + base64.b64encode(bytes(39)).decode(),
    "trailing newline": GOOD + "\n",
    "newline inside": GOOD[:40] + "\n" + GOOD[40:],
    "trailing space": GOOD + " ",
    "no padding": GOOD.rstrip("="),
    "extra padding": GOOD + "====",
    "url-safe alphabet": GOOD[:26] + base64.urlsafe_b64encode(b"\xff" * 42).decode(),
    "unused bits, one padding": GOOD[:-2] + chr(ord(GOOD[-2]) + 1) + "=",
    "unused bits, two padding": GOOD[:26] + base64.b64encode(bytes(40)).decode()[:-3] + "B==",
    "accent in payload": GOOD[:30] + "é" + GOOD[31:],
    "nul": GOOD + "\0",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_value_is_refused(text: str) -> None:
    with pytest.raises(EnvelopeFormatError) as caught:
        envelope.parse(text)
    assert len(text) <= len("sealchemy:") or text not in str(caught.value)


@pytest.mark.parametrize("value", [None, 7, b"sealchemy:v1:", bytearray(b"x"), memoryview(b"x")])
def test_non_text_is_refused(value: object) -> None:
    with pytest.raises(EnvelopeFormatError, match="None" if value is None else type(value).__name__):
        envelope.parse(hide(value))


@pytest.mark.parametrize(
    "text",
    ["sealchemy:v2:0123456789ab:" + GOOD[26:], "sealchemy:v999:x", "sealchemy:v1:0123456789ab:row:" + GOOD[26:]],
)
def test_later_versions_raise_their_own_error(text: str) -> None:
    with pytest.raises(UnsupportedVersionError, match=r"version v[0-9]"):
        envelope.parse(text)


def test_malformed_version_is_not_echoed() -> None:
    with pytest.raises(EnvelopeFormatError) as caught:
        envelope.parse("sealchemy:vSENTINEL:x")
    assert "SENTINEL" not in str(caught.value)


@given(st.binary(min_size=40, max_size=200))
def test_any_payload_round_trips(payload: bytes) -> None:
    text = envelope.header("0123456789ab") + envelope.encode(payload)
    assert envelope.parse(text) == ("0123456789ab", payload)


@given(st.text())
@example("sealchemy:v1:")
def test_any_text_raises_only_envelope_errors(text: str) -> None:
    try:
        envelope.parse(text)
    except EnvelopeError:
        pass
    else:
        assert text.startswith("sealchemy:v1:")


@pytest.mark.parametrize("context", ["", "a b", "a" * 129, "\u00e4", "a\n", "\uff41", "a:b", None, 7, b"a"])
def test_malformed_context_is_refused(context: object) -> None:
    with pytest.raises(ColumnDefinitionError):
        envelope.require_context(hide(context))


@pytest.mark.parametrize("context", ["a", "A-Z_09.x", "a" * 128])
def test_valid_context_is_returned(context: str) -> None:
    assert envelope.require_context(context) == context
