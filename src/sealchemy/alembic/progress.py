"""How far a rewrite is, and what it did, in the log or wherever `env.py` wants it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from alembic.operations import Operations

from sealchemy.rewrite import Progress, Report

logger = logging.getLogger("sealchemy")

_SECONDS_BETWEEN_LOGS = 5.0
_NOTHING_TO_DO = "; nothing was left to do, so every value was only read and authenticated"


def log_report(name: str, report: Report) -> None:
    """Log how many rows were rewritten, and where old values are left."""
    logger.info("%s %s: %d rows%s", name, report.table, report.rewritten, "" if report.rewritten else _NOTHING_TO_DO)
    for sentence in report.left_behind:
        logger.warning("%s %s: %s", name, report.table, sentence)


def progress_of(operations: Operations) -> Callable[[Progress], None]:
    """Return what is told the progress of a run."""
    environment = operations.migration_context.environment_context
    attributes = environment.config.attributes if environment else {}
    progress: Callable[[Progress], None] = attributes.get("sealchemy_progress", _log_progress())
    return progress


def _log_progress() -> Callable[[Progress], None]:
    last = time.monotonic()

    def log(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LOGS:
            last = time.monotonic()
            logger.info("%s: %s, %d of %d rows", *progress)

    return log
