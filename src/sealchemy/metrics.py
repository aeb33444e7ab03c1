"""Counters of this process, for an alarm: what it could not decrypt, and what happened to tokens.

`instrument()` has OpenTelemetry read them (`pip install "sealchemy[otel]"`). Without it, read them as they are.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ._column.counters import plaintext_reads, unreadable_values
from .errors import UnsupportedOperationError

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

__all__ = ["count_token_event", "instrument", "plaintext_reads", "token_events", "unreadable_values"]

token_events: Counter[tuple[str, str, str]] = Counter()
"""What happened to tokens of integrations, by event, provider and code.

The events are `handed_out`, `refreshed`, `refresh_failed`, `reauthorization_required` and `disconnected`; the code is
that of the error, or empty.
"""

_lock = threading.Lock()  # Counter does not count exactly in several threads


def count_token_event(event: str, provider: str, code: str = "") -> None:
    """Add one to `token_events`."""
    with _lock:
        token_events[event, provider, code] += 1


def instrument(meter_provider: MeterProvider | None = None) -> None:
    """Have OpenTelemetry read the counters: call it once, where the application starts.

    The metrics are `sealchemy.values.unreadable` (attributes `sealchemy.context` and `error.type`),
    `sealchemy.values.plaintext` (`sealchemy.context`) and `sealchemy.tokens` (`sealchemy.event`, `sealchemy.provider`
    and `error.type`).

    Args:
        meter_provider: by default, the one of the process.

    Raises:
        UnsupportedOperationError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry import metrics  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise UnsupportedOperationError('OpenTelemetry is not installed: pip install "sealchemy[otel]"') from None

    def reads(counter: Counter[Any], *names: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            for key, number in list(counter.items()):
                parts = key if isinstance(key, tuple) else (key,)
                yield metrics.Observation(number, {name: part for name, part in zip(names, parts, strict=True) if part})

        return observe

    meter = metrics.get_meter("sealchemy", meter_provider=meter_provider)
    for name, counter, names, what in (
        ("values.unreadable", unreadable_values, ("sealchemy.context", "error.type"), "values that could not be read"),
        ("values.plaintext", plaintext_reads, ("sealchemy.context",), "values that were read as plaintext"),
        ("tokens", token_events, ("sealchemy.event", "sealchemy.provider", "error.type"), "events of integrations"),
    ):
        meter.create_observable_counter(f"sealchemy.{name}", [reads(counter, *names)], "{count}", what)
