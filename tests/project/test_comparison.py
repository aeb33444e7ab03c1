"""The comparison page matches the behavior of the installed releases."""

from __future__ import annotations

import warnings

from tests import comparison


def test_table_matches_the_installed_libraries() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of other libraries are not of interest here
        assert comparison.table() in comparison.PAGE.read_text(), "run `python -m tests.comparison`"


def test_sealchemy_answers_yes_to_every_question() -> None:
    ours = comparison.LIBRARIES[0]
    for question, ask in comparison.QUESTIONS.items():
        setting = comparison.Setting(ours)
        assert ask(setting), question
        setting.engine.dispose()
