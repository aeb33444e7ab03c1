"""The names in a piece of SQL, as a database shows it."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]* | /\*.*?(?:\*/|\Z))
      | (?P<string>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\])
      | (?P<word>[\w$]+)
      | (?P<sign>\S)""",
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """A piece of SQL: its kind (`string`, `quoted`, `word` or `sign`), and its text without quotes."""

    kind: str
    text: str

    def is_word(self, *words: str) -> bool:
        """Return whether it is one of these keywords."""
        return self.kind == "word" and self.text.upper() in words


def tokens_of(sql: str) -> list[Token]:
    """Split SQL into tokens; comments are left out."""
    found = []
    for match in _TOKEN.finditer(sql):
        kind, text = str(match.lastgroup), match[0]
        if kind in {"string", "quoted"}:
            text = text[1:-1].replace(text[-1] * 2, text[-1])
        if kind != "comment":
            found.append(Token(kind, text))
    return found


def names_in(sql: str) -> set[str]:
    """Return everything in SQL that may be the name of a column: quoted names and bare words.

    Types and collations (`::text`, `COLLATE "C"`) are left out.
    """
    return {token.text for token in _names(tokens_of(sql))}


def quoted_names_in(sql: str) -> set[str]:
    """Return the quoted names in SQL of a server that quotes every name, as MariaDB and MySQL do."""
    return {token.text for token in tokens_of(sql) if token.kind == "quoted"}


def _names(tokens: list[Token]) -> Iterator[Token]:
    before = [Token("sign", "")] * 2
    for token in tokens:
        is_type = before[0].text == before[1].text == ":" or before[1].is_word("COLLATE")
        if token.kind in {"quoted", "word"} and not is_type:
            yield token
            if token.kind == "quoted":  # brackets quote on SQLite only: they may be an array
                yield from _names([item for item in tokens_of(token.text) if item.kind == "word"])
        before = [before[1], token]


def only_tests_for_null(condition: str, name: str) -> bool:
    """Return whether a condition only tests a column for NULL, which is the same for ciphertext."""
    quoted = rf"""["`\[]?\b{re.escape(name)}\b["`\]]?"""
    test = rf"{quoted}\s*\)?\s+(IS\s+(NOT\s+)?NULL|NOT\s+NULL|NOTNULL|ISNULL)\b"
    return name not in names_in(re.sub(test, " ", condition, flags=re.IGNORECASE))
