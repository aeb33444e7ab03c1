from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from sealchemy import Key, KeyRing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Undo what `env.py` of Flask-Migrate and Celery's worker do: they set levels and handlers, and disable loggers."""
    root = logging.getLogger()
    handlers, level, factory = root.handlers[:], root.level, logging.getLogRecordFactory()
    loggers = [item for item in logging.Logger.manager.loggerDict.values() if isinstance(item, logging.Logger)]
    before = [(item, item.level, item.disabled, item.propagate, item.handlers[:]) for item in loggers]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.setLogRecordFactory(factory)
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
    for logger, old_level, disabled, propagate, own in before:
        logger.setLevel(old_level)
        logger.disabled, logger.propagate = disabled, propagate
        logger.handlers[:] = own


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing(primary=Key.generate())
