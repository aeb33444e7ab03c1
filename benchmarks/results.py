"""Measured ratios and their targets, as rows and tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table


@dataclass
class Result:
    """One figure.

    Attributes:
        what: name of the measurement.
        ratio: the quotient of two medians.
        target: the bound that the ratio must meet.
        at_most: whether the target is an upper bound.
        detail: absolute figures, which depend on the machine.
    """

    what: str
    ratio: float
    target: float | None = None
    at_most: bool = True
    detail: str = ""
    unit: str = "times"

    @property
    def reached(self) -> bool | None:
        """Whether the ratio meets the target; None without a target."""
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def row(self) -> list[str]:
        """Return the cells of a table row."""
        bound = "" if self.target is None else f"{'≤' if self.at_most else '≥'} {self.target:g}"
        mark = {None: "", True: "reached", False: "**missed**"}[self.reached]
        if self.target is not None and abs(self.ratio / self.target - 1) < NOISE:
            mark += ", within noise"
        return [self.what, f"{self.ratio:.2f} {self.unit}", bound, mark, self.detail]


NOISE = 0.05
"""Relative distance from its target within which another run may give a ratio the opposite verdict."""

HEAD = ["what", "measured", "target", "", "on this machine"]


@dataclass
class Section:
    """A titled group of results."""

    title: str
    results: list[Result] = field(default_factory=list)

    def table(self) -> Table:
        """Return a table for the terminal."""
        table = Table(*HEAD, title=self.title)
        for result in self.results:
            table.add_row(
                *(cell.replace("**", "") for cell in result.row()), style="red" if result.reached is False else ""
            )
        return table

    def markdown(self) -> str:
        """Return a table for the documentation."""
        rows = [HEAD, *(result.row() for result in self.results)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([f"### {self.title}", "", lines[0], "|---" * len(HEAD) + "|", *lines[1:]])

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Section:
        """Return the section that `json` described."""
        results = [{key: value for key, value in item.items() if key != "reached"} for item in told["results"]]
        return cls(told["title"], [Result(**item) for item in results])

    def json(self) -> dict[str, Any]:
        """Return the data to write to a file."""
        return {"title": self.title, "results": [{**asdict(item), "reached": item.reached} for item in self.results]}
