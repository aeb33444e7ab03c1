"""How the command line shows errors, tables, and the progress of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from sealchemy import SealchemyError
from sealchemy._values.environment import KeyIds
from sealchemy.plan import Severity, TablePlan
from sealchemy.rewrite import Failure, Report
from sealchemy.rewrite import Progress as RowsDone
from sealchemy.status import ColumnStatus

INTERRUPTED = 130  # 128 and the number of SIGINT
_SECONDS_BETWEEN_LINES = 5.0
_KEYS_OF_A_REASON = 20
_UNKNOWN_KEYS = 10
_REASONS = 10


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> str:  # type: ignore[override]
        return f"{task.speed or 0:,.0f} rows/s"


def describe(error: Exception) -> str | None:
    """Return the line for an error that the user can fix; None for any other."""
    return str(error) if isinstance(error, SealchemyError | SQLAlchemyError) else None


def roles(ids: KeyIds) -> dict[str, str]:
    """Return the role of each key, by key id."""
    index = {ids.index_key: "index"} if ids.index_key is not None else {}
    return {ids.primary: "primary", **dict.fromkeys(ids.previous, "previous"), **index}


def as_json(found: list[ColumnStatus], known: dict[str, str]) -> list[dict[str, object]]:
    """Return the status of columns for JSON."""
    return [
        {
            "table": item.table,
            "column": item.column,
            "context": item.context,
            "null": item.null,
            "plaintext": item.plaintext,
            "keys": [
                {"id": key_id, "role": known.get(key_id, "unknown"), "values": count}
                for key_id, count in sorted(item.keys.items())
            ],
            "unknown": item.unknown,
        }
        | ({"bind_to": list(item.bind_to), "bound": item.bound} if item.bind_to or item.bound else {})
        for item in found
    ]


def status_table(found: list[ColumnStatus], known: dict[str, str]) -> Table:
    """Return the status of columns as a table, a line for each state."""
    table = Table("column", "state", "values")
    for item in found:
        keys = _key_states(item, known)
        states = [("null", item.null), ("plaintext", item.plaintext), *keys, ("damaged or unknown", item.unknown)]
        if item.bind_to or item.bound:
            states += [(f"bound to {', '.join(item.bind_to) or 'their row'}", item.bound), ("not bound", item.unbound)]
        for index, (state, count) in enumerate(states):
            table.add_row(f"{item.table}.{item.column}" if not index else "", state, f"{count:,}")
        table.add_section()
    return table


def _key_states(item: ColumnStatus, known: dict[str, str]) -> list[tuple[str, int]]:
    """Return the values under each key; of keys that are not in the ring the most frequent: anyone may invent ids."""
    unknown = [key_id for key_id, _ in item.keys.most_common() if key_id not in known]
    shown = {*known, *unknown[:_UNKNOWN_KEYS]}
    states = [
        (f"key {key_id} ({known.get(key_id, 'unknown')})", item.keys[key_id])
        for key_id in sorted(item.keys)
        if key_id in shown
    ]
    if more := unknown[_UNKNOWN_KEYS:]:
        states.append((f"{len(more)} more keys (unknown)", sum(item.keys[key_id] for key_id in more)))
    return states


def plan_as_json(found: list[TablePlan], steps: list[str], accept: list[str]) -> dict[str, object]:
    """Return a plan for JSON."""
    return {
        "blocked": any(table.obstacles(accept) for table in found),
        "tables": [
            {
                "table": table.table,
                "schema": table.schema,
                "rows": table.rows,
                "plaintext_bytes": table.plaintext_bytes,
                "seconds": round(table.seconds, 1),
                "columns": [
                    {
                        "column": item.status.column,
                        "context": item.status.context,
                        "state": item.state,
                        "plaintext": item.status.plaintext,
                        "keys": [{"id": key, "values": count} for key, count in sorted(item.status.keys.items())],
                    }
                    for item in table.columns
                ],
                "findings": [
                    {
                        "code": item.code,
                        "severity": str(item.severity),
                        "name": item.name,
                        "message": item.message,
                        "accepted": item.severity is Severity.ACCEPT and item.label in accept,
                    }
                    for item in table.findings
                ],
            }
            for table in found
        ],
        "steps": steps,
    }


def print_plan(console: Console, found: list[TablePlan], steps: list[str], accept: list[str]) -> None:
    """Print a plan as text."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for table in found:
        say(f"{table.table}: {table.rows:,} rows")
        for item in table.columns:
            first = item.status.keys.most_common(_UNKNOWN_KEYS)
            keys = "".join(f", {count:,} under key {key_id}" for key_id, count in first)
            if more := len(item.status.keys) - len(first):
                keys += f", and {more} more keys"
            say(f"  {item.status.column}: {item.state}, {item.status.plaintext:,} plaintext values{keys}")
        for finding in table.findings:
            accepted = finding.severity is Severity.ACCEPT and finding.label in accept
            say(f"  {'accepted' if accepted else finding.severity}  {finding}")
    say("Steps:")
    for number, step in enumerate(steps, 1):
        say(f"{number:3}. {step}")


def report_as_json(step: str, report: Report) -> str:
    """Return what a run did with a table, as one line. Values are not in it, and rows are named by their keys."""
    found = {name: getattr(report, name) for name in ("table", "rewritten", "pending", "failed", "stopped")}
    failures = [
        {"key": list(map(str, item.key)), "column": item.column, "reason": item.reason} for item in report.failures
    ]
    return json.dumps({"event": "result", "step": step, **found, "key_id": report.key_id, "failures": failures})


def print_failures(report: Report) -> None:
    """Print the values that could not be read: of each reason the first, and how many more there are."""
    listed = list(report.failures_by_reason().items())
    for (column, reason), keys in listed[:_REASONS]:
        for key in keys[:_KEYS_OF_A_REASON]:
            print(f"{report.table} {Failure(key, column, reason)}")
        if len(keys) > _KEYS_OF_A_REASON:
            print(f"{report.table} and {len(keys) - _KEYS_OF_A_REASON} more {column}: {reason}")
    more = report.failed - sum(len(keys) for _, keys in listed[:_REASONS])
    if more > 0:
        print(f"and {more} more")


@contextmanager
def progress(console: Console, *, as_json: bool = False) -> Iterator[Callable[[RowsDone], None]]:
    """Show progress: a bar with rate and time left on a terminal, plain lines elsewhere; or JSON on standard output."""
    if as_json or not console.is_terminal:
        yield _lines(print if as_json else partial(console.print, highlight=False, soft_wrap=True), as_json=as_json)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        tasks = {}

        def show(rows: RowsDone) -> None:
            name = f"{rows.step} {rows.table}"
            if name not in tasks:
                tasks[name] = bar.add_task(name)
            bar.update(tasks[name], completed=rows.done, total=max(rows.done, rows.total))

        yield show


def _lines(show_line: Callable[[str], None], *, as_json: bool) -> Callable[[RowsDone], None]:
    last, start, step = 0.0, 0.0, ""

    def show(rows: RowsDone) -> None:
        nonlocal last, start, step
        now = time.monotonic()
        if rows.step != step:
            last, start, step = now, now, rows.step
        elif now - last >= _SECONDS_BETWEEN_LINES:
            rate = rows.done / (now - start)
            left = max(rows.total - rows.done, 0) / rate if rate else 0
            numbers = f"{rows.done:,} of {rows.total:,} rows, {rate:,.0f} rows/s, {left:,.0f} s left"
            told = {**rows._asdict(), "rows_per_second": round(rate), "seconds_left": round(left)}
            is_json = {"event": "progress", **told}
            show_line(json.dumps(is_json) if as_json else f"{rows.step} {rows.table}: {numbers}")
            last = now

    return show
