"""Measure calls side by side: they take turns, and the ratios of their medians are compared with targets."""

from __future__ import annotations

import gc
import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def seconds(call: Callable[[], Any]) -> float:
    """Return how long a call takes, after collecting the garbage of earlier calls."""
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def side_by_side(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Run all calls in turn in each round, after one warm-up round, and return their medians in seconds."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            elapsed = seconds(call)
            if number:
                taken[name].append(elapsed)
    return {name: statistics.median(values) for name, values in taken.items()}
