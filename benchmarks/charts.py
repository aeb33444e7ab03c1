"""The chart on the performance page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path


def draw(added: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Draw the time that one value adds to a Core SELECT on SQLite, by its size, for each library."""
    mpl.rcParams["svg.hashsalt"] = "sealchemy"
    figure, axes = plt.subplots(figsize=(8, 4.5))
    by_size = added["sqlite"]
    for name in next(iter(by_size.values())):
        sizes = sorted(map(int, by_size))
        style = {"linewidth": 3, "color": "black"} if name == "sealchemy" else {"linewidth": 1.2}
        axes.plot(sizes, [by_size[str(size)][name] for size in sizes], marker="o", label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="characters", ylabel="added by one value, µs (less is better)")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
