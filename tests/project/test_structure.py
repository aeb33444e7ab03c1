"""The structure stays small enough to read."""

from __future__ import annotations

import pytest

from tests import structure

FIGURES = structure.measure(structure.HERE)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("lines of the core", 9800),
        ("modules of more than 250 lines", 2),
        ("functions of more than 40 lines", 2),  # one of which is `OAuthClient(...)`, since providers differ in so much
        ("del statements", 12),
        ("dialect branches outside the databases", 0),
    ],
)
def test_a_figure_stays_within_its_bound(name: str, most: int) -> None:
    assert FIGURES[name] <= most
