"""Each failure of a KMS is told in one line, within 20 seconds."""

from __future__ import annotations

import re

import pytest

from .failures import FAILURES, KEY, URIS, Failure, faulty, measure


def _is_slow(failure: Failure) -> bool:
    return failure.fault in ("silent", "slow") or failure.name == "throttled"


@pytest.mark.slow
@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(item, id=f"{item.scheme}-{item.name}", marks=pytest.mark.soak if _is_slow(item) else [])
        for item in FAILURES
    ],
)
def test_a_failure_is_told_in_time(failure: Failure) -> None:
    with faulty(failure) as (open_kms, elsewhere):
        text, seconds = measure(failure, open_kms)
    assert text.startswith(f"key {KEY.id}: {URIS[failure.scheme]}: ")
    assert re.search(failure.text, text)
    assert "\n" not in text
    assert len(text) < 450
    assert seconds < 20
    assert elsewhere == []
