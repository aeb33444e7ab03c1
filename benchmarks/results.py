"""What was measured, against its target."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table


@dataclass
class Result:
    """One figure.

    Attributes:
        what: was measured.
        ratio: of two medians, which is what counts.
        target: what the ratio must be at least or at most.
        at_most: whether the target is an upper bound.
        detail: absolute figures, which belong to the machine.
    """

    what: str
    ratio: float
    target: float | None = None
    at_most: bool = True
    detail: str = ""
    unit: str = "times"

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None if there is none."""
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def row(self) -> list[str]:
        """Return the cells of a table."""
        bound = "" if self.target is None else f"{'≤' if self.at_most else '≥'} {self.target:g}"
        mark = {None: "", True: "reached", False: "**missed**"}[self.reached]
        if self.target is not None and abs(self.ratio / self.target - 1) < NOISE:
            mark += ", within noise"
        return [self.what, f"{self.ratio:.2f} {self.unit}", bound, mark, self.detail]


NOISE = 0.05
"""How far from its target a ratio must be for a verdict that another run would repeat."""

HEAD = ["what", "measured", "target", "", "on this machine"]


@dataclass
class Section:
    """Figures that belong together."""

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
        """Return a table for the docs."""
        rows = [HEAD, *(result.row() for result in self.results)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([f"### {self.title}", "", lines[0], "|---" * len(HEAD) + "|", *lines[1:]])

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Section:
        """Return what `json` gave."""
        results = [{key: value for key, value in item.items() if key != "reached"} for item in told["results"]]
        return cls(told["title"], [Result(**item) for item in results])

    def json(self) -> dict[str, Any]:
        """Return what is written to a file."""
        return {"title": self.title, "results": [{**asdict(item), "reached": item.reached} for item in self.results]}
