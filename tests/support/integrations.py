"""An integration in a database, and what the tests ask of it."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from sealchemy.integrations import TokenGrant, upsert_integration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session, sessionmaker

    from .provider import Provider

WHOSE: dict[str, Any] = {"user_id": "u1", "provider": "google"}


def store(sessions: sessionmaker[Session], **grant: Any) -> None:
    """Connect the user with a grant."""
    with sessions.begin() as session:
        upsert_integration(session, **WHOSE, grant=TokenGrant(**grant))


def connect(sessions: sessionmaker[Session], provider: Provider, **grant: Any) -> None:
    """Connect the user with tokens of a provider, of which the access token has expired."""
    token = provider.grant()
    given = {"access_token": token.access_token, "refresh_token": token.refresh_token, "expires_in": 0}
    store(sessions, **{**given, **grant})


class TimeLimitError(Exception):
    """Raised by a signal handler, as Celery's soft time limit is."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Have a signal handler raise `TimeLimitError` in this thread, the main one, after so many seconds."""

    def interrupt(*_: object) -> NoReturn:
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
