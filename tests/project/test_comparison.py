"""The page that compares us with others says what the installed releases do."""

from __future__ import annotations

import warnings

from tests import comparison


def test_the_table_is_what_the_libraries_do() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the others are theirs
        assert comparison.table() in comparison.PAGE.read_text(), "run `python -m tests.comparison`"


def test_ours_is_yes_everywhere() -> None:
    ours = comparison.LIBRARIES[0]
    for question, ask in comparison.QUESTIONS.items():
        setting = comparison.Setting(ours)
        assert ask(setting), question
        setting.engine.dispose()
