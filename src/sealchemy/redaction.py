"""`SecretString`: a `str` that does not print itself."""

from __future__ import annotations

from typing import SupportsIndex


def hide(text: str) -> SecretString:
    """Return the characters of a text of any class; how it shows itself is not asked, which may be a mask or a name."""
    return SecretString(str.__str__(text))


class SecretString(str):
    """A `str` whose `repr` is `SecretString('***')`; what encrypted columns return.

    It is a class because logs, row and object reprs, exception texts and the frame locals that error
    trackers collect are all made with `repr`. It equals, hashes, formats, joins and JSON-encodes as the
    plain text, so a token can be used as one. What derives from it with `+`, `.strip()`, `.encode()` and
    the like is an ordinary `str` or `bytes`; `str(token)` gives the plain `str`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        """Return three stars."""
        return "SecretString('***')"

    def __getitem__(self, index: SupportsIndex | slice) -> SecretString:
        """Return a part, redacted as well: pretty-printers cut a text before they print it."""
        return SecretString(super().__getitem__(index))
