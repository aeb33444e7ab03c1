"""What the commands do."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

import typer
from rich.console import Console

from sealchemy._databases.access import open_table
from sealchemy._inspection import preflight
from sealchemy._rewriting import constraint
from sealchemy.errors import (
    KeyRingError,
    KmsError,
    MissingKeyError,
    UnsupportedOperationError,
)
from sealchemy.plan import plan as find_plan
from sealchemy.plan import steps
from sealchemy.rewrite import Options
from sealchemy.rewrite import split as split_table
from sealchemy.scrub import describe_scrub, scrub
from sealchemy.status import ColumnStatus, declared_status, find_problems

from . import output
from .project import Project


def status(
    project: Project, *, as_json: bool, fail_if_plaintext: bool, fail_if_unbound: bool, fail_if_keys: list[str]
) -> None:
    """Count values by state, and exit with 1 if any are in a state that must not be."""
    require_key_ids(fail_if_keys)
    engine = project.engine()
    try:
        known = output.roles(project.key_ids())
    except MissingKeyError:
        known = {}  # counting needs none
        print(f"no keys under {project.key_variable}, so the roles of keys are not known", file=sys.stderr)
    found = declared_status(engine, project.metadata())
    if as_json:
        print(json.dumps(output.as_json(found, known), indent=2))
    else:
        Console(emoji=False).print(output.status_table(found, known))
    wrong = [f"{item.table}.{item.column}: {item.plaintext} values are plaintext" for item in found if item.plaintext]
    wrong = wrong if fail_if_plaintext else []
    wrong += [
        f"{item.table}.{item.column}: {item.unbound} values are not bound to their row"
        for item in found
        if fail_if_unbound and item.bind_to and item.unbound
    ]
    _exit_with([*wrong, *_under_keys(found, fail_if_keys)])


def require_key_ids(texts: Sequence[str]) -> None:
    """Refuse what is not the id of a key."""
    for text in texts:
        if not re.fullmatch("[0-9a-f]{12}", text):
            raise UnsupportedOperationError(
                "--fail-if-key takes a key id: 12 hex digits, as `sealchemy keys` shows them"
            )


def exit_if_under_keys(project: Project, key_ids: Sequence[str]) -> None:
    """Exit with 1 while a value is under one of these keys; otherwise say that none is."""
    if not key_ids:
        return
    _exit_with(list(_under_keys(declared_status(project.engine(), project.metadata()), key_ids)))
    print(f"no value is under {', '.join(key_ids)}", file=sys.stderr)


def _under_keys(found: Iterable[ColumnStatus], key_ids: Sequence[str]) -> Iterator[str]:
    for key_id in key_ids:
        for item in found:
            if item.keys[key_id]:
                yield f"{item.table}.{item.column}: {item.keys[key_id]} values are under key {key_id}"


def check(project: Project) -> None:
    """Exit with 1 if there are values that a process with these keys could not read."""
    problems = find_problems(project.protected_engine(), project.metadata())
    _exit_with([f"{type(problem).__name__}: {problem}" for problem in problems])
    print("this process can read and write every column, by key, rollout stage and width; verify decrypts every value")


def scrub_tables(project: Project, *, online: bool, ask: bool, lock_timeout: float) -> None:
    """Scrub every table."""
    Options(lock_timeout=lock_timeout)
    engine, tables = project.engine(), project.tables()
    for table in tables:
        print(describe_scrub(engine, table.name, online=online))
    project.name_database()
    if ask and not online and sys.stdin.isatty():
        typer.confirm("Go on?", abort=True)
    left: dict[str, None] = {}
    for table in tables:
        left |= dict.fromkeys(scrub(engine, table.name, schema=table.schema, online=online, lock_timeout=lock_timeout))
        print(f"scrubbed {table.name}")
    for sentence in left:
        print(f"not reached: {sentence}")


def plan(project: Project, *, as_json: bool, accept: list[str]) -> None:
    """Print where each column stands, what is in the way and the steps that are left; exit with 1 while any blocks."""
    try:
        engine = project.protected_engine()
    except KeyRingError as error:  # the plan needs no keys; with them, it decrypts a sample of bound values
        if isinstance(error, KmsError):
            print(f"sealchemy: bound values are not looked at: {error}", file=sys.stderr)
        engine = project.engine()
    found = find_plan(engine, project.metadata())
    known = {item.label for table in found for item in table.findings}
    for label in sorted(set(accept) - known):
        print(f"sealchemy: --accept {label}: there is no such finding", file=sys.stderr)
    left = list(steps(found, command_options=project.command_options(), prefix=project.prefix, accept=accept))
    if as_json:
        print(json.dumps(output.plan_as_json(found, left, accept), indent=2))
    else:
        output.print_plan(Console(emoji=False), found, left, accept)
    if any(table.obstacles(accept) for table in found):
        raise SystemExit(1)


def split(project: Project, parts: int, only: str | None) -> None:
    """Print ranges of the primary key of a table, a line of JSON each."""
    engine, tables = project.engine(), project.tables(only)
    if len(tables) > 1:
        raise UnsupportedOperationError("--split is for one table, and these models have several: add --table NAME")
    for line in split_table(engine, tables[0].name, parts, schema=tables[0].schema):
        print(line)


def widen_tables(project: Project, ddl_patience: float) -> None:
    """Make the columns of every table wide enough for ciphertext."""
    options = Options(ddl_patience=ddl_patience)
    engine, widened = project.engine(), False
    project.name_database()
    for table in project.tables():
        with open_table(engine, table, options.lock_timeout, options.ddl_patience, any_key=True) as access:
            preflight.refuse_obstacles_to_widening(access)
            columns = constraint.widen(access)
        print(f"widen {table.name}: {', '.join(columns) or 'nothing to do'}")
        widened = widened or bool(columns)
    if widened:
        print(f"widen: {constraint.AFTER_WIDENING}")


def _exit_with(wrong: list[str]) -> None:
    for line in wrong:
        print(f"sealchemy: {line}", file=sys.stderr)
    if wrong:
        raise SystemExit(1)
