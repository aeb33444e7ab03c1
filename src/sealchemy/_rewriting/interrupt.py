"""What does not happen within a batch: Ctrl-C, and the collection of garbage."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock, current_thread, main_thread

_pausing = Lock()


@contextmanager
def interrupt_between_batches() -> Iterator[Event]:
    """Return an event that the first Ctrl-C sets."""
    event = Event()
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield event
        return

    def stop(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector from walking all objects of the process for those of a batch, which make no cycles.

    One thread at a time does so: two could not tell whose state they restore, and it would never run.
    """
    if not _pausing.acquire(blocking=False):
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        _pausing.release()
