"""The conditions with which a database refuses everything but encrypted values, as SQL."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy.engine import Dialect

from sealchemy._values.envelope import PREFIX, ROW

from .sql_names import Token, tokens_of

ANY_ENCRYPTED_VALUE = f"{PREFIX}v1:{'?' * 12}:?*"
"""The start of every encrypted value as a pattern, with `?` for one character and `*` for any number."""

ANY_BOUND_VALUE = f"{PREFIX}v1:{'?' * 12}:{ROW}?*"
"""The start of every encrypted value that is bound to its row, as such a pattern."""

_SYMBOL = "[A-Za-z0-9+/]"
SHORTEST = 54
"""The fewest symbols of base64 before the padding: those of 40 bytes, a nonce and the tag of an empty text."""


class EncryptionCheck(NamedTuple):
    """A condition that is true of encrypted values.

    Attributes:
        sql: the condition, with `{}` for the quoted name of the column.
        is_bound: it is false of values that are not bound to their row.
        is_strict: it tests all of a value that the database can test, as `require_encryption` does today. The others
            test how a value starts, as releases before did.
    """

    sql: str
    is_bound: bool = False
    is_strict: bool = True

    def on(self, column: str) -> str:
        """Return the condition on a column, given by its quoted name."""
        return self.sql.replace("{}", column)

    def is_shown_as(self, condition: str, column: str) -> bool:
        """Return whether a condition on this column, as a database shows it, is this one and nothing else."""
        own = self.on('"' + column.replace('"', '""') + '"')
        return _meaning(own) == _meaning(condition)


def find_check(checks: Sequence[EncryptionCheck], name: str, condition: str, column: str) -> EncryptionCheck | None:
    """Return which of these conditions a CHECK on a column has, if it is one of ours.

    A CHECK keeps its name when a table or a column is renamed, so the name must only look like one of ours.
    """
    if not (name.startswith("ck_") and name.endswith("_encrypted")):
        return None
    return next((check for check in checks if check.is_shown_as(condition, column)), None)


def quoted(dialect: Dialect, name: str) -> str:
    """Return a name in quotes; SQLAlchemy doubles a percent sign in the names that it quotes, for some drivers."""
    quote = dialect.identifier_preparer.final_quote
    return f"{quote}{name.replace(quote, quote * 2)}{quote}"


def by_regular_expression(before: str, after: str) -> Iterator[EncryptionCheck]:
    """Yield the conditions that consist of a regular expression, which uses neither backslashes nor apostrophes."""
    for bound, row in ((False, f"({ROW})?"), (True, ROW)):
        # Not {54,}: MySQL keeps a frame for each repetition of that, and refuses a value of 250 000 characters.
        pattern = f"{PREFIX}v1:[0-9a-f]{{12}}:{row}{_SYMBOL}{{{SHORTEST}}}{_SYMBOL}*={{0,2}}"
        yield EncryptionCheck(before + pattern + after, is_bound=bound)


def by_start(before: str, after: str, translate: Callable[[str], str] = str) -> Iterator[EncryptionCheck]:
    """Yield the conditions of releases before, which test how a value starts."""
    yield EncryptionCheck(before + translate(ANY_ENCRYPTED_VALUE) + after, is_strict=False)
    yield EncryptionCheck(before + translate(ANY_BOUND_VALUE) + after, is_bound=True, is_strict=False)


def to_like(pattern: str) -> str:
    """Return a pattern of `?` and `*` in the syntax of LIKE."""
    return pattern.replace("?", "_").replace("*", "%")


def _meaning(condition: str) -> list[str]:
    """Return the tokens of a condition without what databases add when they show it: parentheses and casts to text."""
    tokens = [token for token in tokens_of(condition) if token.text not in {"(", ")"} or token.kind != "sign"]
    return [_text(token) for at, token in enumerate(tokens) if not _is_cast(tokens, at)]


def _text(token: Token) -> str:
    if token.kind == "string":
        return f"'{token.text}'"
    return token.text.casefold() if token.kind == "word" else token.text


def _is_cast(tokens: Sequence[Token], at: int) -> bool:
    """Return whether a token belongs to `::text`, or is the `_utf8mb4` before a string."""
    if tokens[at].is_word("_UTF8MB4"):
        return True
    return any(
        [token.text.casefold() for token in tokens[max(start, 0) : start + 3]] == [":", ":", "text"]
        for start in range(at - 2, at + 1)
    )
