"""What this process counts of the values that it reads."""

import logging
import threading
from collections import Counter

from sealchemy.errors import SealchemyError

plaintext_reads: Counter[str] = Counter()
"""How often this process read plaintext, by context. It stays empty once a column is done."""

unreadable_values: Counter[tuple[str, str]] = Counter()
"""How many values this process could not read, by context and error: with a wrong key, all of them."""

_lock = threading.Lock()  # Counter does not count exactly in several threads

logger = logging.getLogger("sealchemy")


def count_plaintext(context: str) -> None:
    """Count a value that was read as plaintext, and warn at the first one."""
    with _lock:
        plaintext_reads[context] += 1
        is_first = plaintext_reads[context] == 1
    if is_first:
        logger.warning("%s: read plaintext; logged once, plaintext_reads keeps counting", context)


def count_unreadable(context: str, error: BaseException) -> None:
    """Count a value that could not be read, unless that is no error of ours."""
    if isinstance(error, SealchemyError):
        with _lock:
            unreadable_values[context, type(error).__name__] += 1
