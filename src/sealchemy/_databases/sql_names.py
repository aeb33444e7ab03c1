"""The names in a piece of SQL, as a database shows it."""

import re

_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | ::\s*\w+ | COLLATE\s+"[^"]*" | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] | [\w$]+""",
    re.VERBOSE | re.IGNORECASE,
)
"""A literal, a type or collation, a quoted name or a bare word."""


def names_in(sql: str) -> set[str]:
    """Return the names in SQL; where they are in backquotes, as on MariaDB, bare words are not names."""
    tokens = _TOKEN.findall(sql)
    quoted = {token[1:-1].replace(token[-1] * 2, token[-1]) for token in tokens if token[0] in '"`['}
    return quoted if "`" in {token[0] for token in tokens} else quoted.union(tokens)


def only_tests_for_null(predicate: str, name: str) -> bool:
    """Return whether a condition only tests a column for NULL, which is the same for ciphertext."""
    quoted = rf"""["`\[]?{re.escape(name)}["`\]]?"""
    rest = re.sub(rf"{quoted}\s*\)?\s+IS\s+(NOT\s+)?NULL", " ", predicate, flags=re.IGNORECASE)
    return name not in names_in(rest)
