"""Search an exception, and everything attached to it, for a planted token."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SENTINEL = "ya29.SENTINEL-token-which-must-appear-nowhere"


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception with its causes, contexts and original driver errors."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += [current.__cause__, current.__context__, getattr(current, "orig", None)]


def said_by(error: BaseException) -> str:
    """Return everything that a log or a pickle would keep of an exception and its chain."""
    parts = []
    for item in chain(error):
        parts += [str(item), repr(item), repr(item.args), repr(getattr(item, "params", None)), repr(vars(item))]
        parts += traceback.format_exception(item)
        try:
            parts.append(repr(pickle.dumps(item)))
        except (TypeError, AttributeError, pickle.PicklingError) as unpicklable:
            parts.append(str(unpicklable))
    return "\n".join(parts)


def frames_of(error: BaseException, *, package: str | None = None, but: str = "/tests/") -> str:
    """Return the frame variables as an error tracker would print them, with `repr`."""
    parts = []
    for item in chain(error):
        for frame, _ in traceback.walk_tb(item.__traceback__):
            name = frame.f_code.co_filename
            if but not in name and (package is None or f"/{package}/" in name):
                parts += [f"{key}={value!r}" for key, value in frame.f_locals.items()]
    return "\n".join(parts)


def shown_by(error: BaseException, package: str | None = "sealchemy") -> str:
    """Return everything that a log, a pickle or an error tracker would keep of an exception.

    Args:
        error: the exception.
        package: only read variables of frames whose file path contains this; None reads all frames except the tests'.
    """
    return f"{said_by(error)}\n{frames_of(error, package=package)}"


def assert_silent(error: BaseException, *secrets: str, package: str | None = "sealchemy") -> None:
    """Fail if a secret, or most of it, shows."""
    shown = shown_by(error, package)
    for secret in secrets or (SENTINEL,):
        if secret in shown or secret[5:-5] in shown:
            line = next(line for line in shown.splitlines() if secret[5:-5] in line)
            pytest.fail(f"the secret shows: {line[:300]}")
