"""Write the generated tables of `docs/explanation/evidence.md`: `python -m tests.evidence`."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/explanation/evidence.md"


def markdown(rows: list[list[str]]) -> str:
    """Return a Markdown table; the first row is its header."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def leaks() -> str:
    """Return the matrix of channels and ways; an open cell shows the number of its reason."""
    from .security.test_leak_matrix import CHANNELS, OPEN, WAYS

    reasons = list(dict.fromkeys(OPEN.values()))
    body = [
        [
            channel.name,
            *(
                f"**open** ({reasons.index(OPEN[channel.name, way]) + 1})"
                if (channel.name, way) in OPEN
                else "clean"
                if way in channel.ways
                else ""
                for way in WAYS
            ),
        ]
        for channel in CHANNELS
    ]
    notes = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
    return f"{markdown([['channel', *WAYS], *body])}\n\n{notes}"


def strictness() -> str:
    """Return the table of how each kind of value is handled."""
    from .security.test_strictness import rows

    return markdown(rows())


TABLES = {"leaks": leaks, "strictness": strictness}


def written() -> str:
    """Return the page with current tables."""
    page = PAGE.read_text()
    for name, make in TABLES.items():
        start, end = f"<!-- {name}: python -m tests.evidence -->\n", "\n<!-- end -->"
        head, _, rest = page.partition(start)
        page = f"{head}{start}{make()}{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written())
