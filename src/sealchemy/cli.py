"""The `sealchemy` command. It prints and exits; what it does is done elsewhere."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from .declared import DeclaredTable, declared_tables
from .errors import (
    KeyFormatError,
    MissingKeyError,
    RewriteError,
    SealchemyError,
    UnsupportedOperationError,
)
from .keys import Key, KeyRing
from .keytext import PLACEHOLDER
from .rewrite import DECRYPT, ENCRYPT, REKEY, VERIFY, Operation, Options, Report, rewrite
from .scrub import locks
from .scrub import scrub as scrub_table
from .status import problems
from .status import status as count_values

try:
    import typer
    from dotenv import set_key
    from rich.console import Console

    from . import display
    from .cli_options import Common, Limits, takes
except ModuleNotFoundError as error:
    missing = f'the command line needs {error.name}: pip install "sealchemy[cli]"'
    raise SystemExit(missing) from None

if TYPE_CHECKING:
    from sqlalchemy import Engine

VARIABLE = "INTEGRATION_TOKEN_ENCRYPTION_KEY"
_KEY_LINE = re.compile(rf"\s*(?:export\s+)?{VARIABLE}(?:_FILE)?\s*=(.*)".encode())

_INTERRUPTED = 130  # 128 and the number of SIGINT

app = typer.Typer(
    name="sealchemy",
    help="Encrypted columns for SQLAlchemy: keys, stored values, and what becomes of them.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sealchemy {version('sealchemy')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Keep each command a subcommand, however many there are."""


@app.command("generate-key")
def generate_key(
    env: Annotated[bool, typer.Option("--env", help="Add it to .env in this folder instead of printing it.")] = False,
) -> None:
    """Print a new random key."""
    key = Key.generate()
    if not env:
        print(key.reveal())
        return
    _add_to_env_file(Path(".env"), key)
    print(f"key {key.id} is in .env as {VARIABLE}; keep a copy in your secret store, and .env out of git")


@app.command()
def demo(
    url: Annotated[
        str | None,
        typer.Option(help="A PostgreSQL database instead of a SQLite file, postgresql+psycopg://user@host/name."),
    ] = None,
) -> None:
    """Take a table of plaintext tokens to an encrypted one, and show every step."""
    import_module("sealchemy.integrations.demo").run(Console(), url)


@app.command()
@takes(Common)
def status(
    common: Common,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fail_if_plaintext: Annotated[
        bool, typer.Option("--fail-if-plaintext", help="Exit with 1 while a value is plaintext.")
    ] = False,
    fail_if_key: Annotated[
        list[str] | None, typer.Option(help="Exit with 1 while a value is under the key of this id.")
    ] = None,
) -> None:
    """Count values by state: NULL, plaintext, under each key, unknown. Needs no key, and decrypts nothing."""
    for key_id in fail_if_key or []:
        if not re.fullmatch("[0-9a-f]{12}", key_id):
            message = "--fail-if-key takes a key id: 12 hex digits, as this command shows them"
            raise UnsupportedOperationError(message)
    try:
        key_ring = KeyRing.from_env(common.prefix, common.environment())
    except MissingKeyError:
        key_ring = None  # counting needs none
        print(f"no keys under {common.prefix}_KEY: nobody can tell what each key is for", file=sys.stderr)
    found, known = count_values(common.engine(), common.metadata()), display.roles(key_ring)
    if as_json:
        print(json.dumps(display.as_json(found, known), indent=2))
    else:
        Console().print(display.status_table(found, known))
    wrong = [f"{item.table}.{item.column}: {item.plaintext} values are plaintext" for item in found if item.plaintext]
    wrong = wrong if fail_if_plaintext else []
    wrong += [
        f"{item.table}.{item.column}: {item.keys[key_id]} values are under key {key_id}"
        for key_id in fail_if_key or []
        for item in found
        if item.keys[key_id]
    ]
    _exit_with(wrong)


@app.command()
@takes(Common)
def verify(common: Common) -> None:
    """Authenticate every value, and list what fails by primary key. Plaintext fails."""
    _run(common, VERIFY, Options())


@app.command()
@takes(Common)
def check(common: Common) -> None:
    """Tell whether a process with these keys and this rollout stage can read everything that is stored."""
    found = problems(common.protected_engine(), common.metadata())
    _exit_with([f"{type(problem).__name__}: {problem}" for problem in found])
    print("the keys and the rollout stage fit what is stored; sealchemy verify decrypts it as well")


@app.command()
@takes(Common, Limits)
def encrypt(common: Common, limits: Limits) -> None:
    """Encrypt the plaintext that is stored, in place."""
    _run(common, ENCRYPT, limits.options())


@app.command()
@takes(Common, Limits)
def rekey(common: Common, limits: Limits) -> None:
    """Encrypt what is under previous keys with the primary key, in place."""
    _run(common, REKEY, limits.options())


@app.command()
@takes(Common, Limits)
def decrypt(
    common: Common,
    limits: Limits,
    allow_plaintext: Annotated[bool, typer.Option("--allow-plaintext", help="Say that you mean it.")] = False,
) -> None:
    """Write the plaintext back, in place."""
    if not allow_plaintext:
        message = (
            "decrypt writes plaintext into the database, its logs and its backups. If that is what you want:"
            " sealchemy decrypt --allow-plaintext"
        )
        raise UnsupportedOperationError(message)
    _run(common, DECRYPT, limits.options())


@app.command()
@takes(Common)
def scrub(
    common: Common,
    online: Annotated[
        bool, typer.Option("--online", help="PostgreSQL: lock nobody out, and leave old values in the file.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    lock_timeout: Annotated[float, typer.Option(help="Seconds to wait for what others have locked.")] = 5,
) -> None:
    """Remove from the database's files what encrypting left behind in them."""
    Options(lock_timeout=lock_timeout)
    engine, tables = common.engine(), declared_tables(common.metadata())
    for table in tables:
        print(locks(engine, table.name, online=online))
    if not yes and not online and sys.stdin.isatty():
        typer.confirm("Go on?", abort=True)
    told: dict[str, None] = {}
    for table in tables:
        told |= dict.fromkeys(
            scrub_table(engine, table.name, schema=table.schema, online=online, lock_timeout=lock_timeout)
        )
        print(f"scrubbed {table.name}")
    for sentence in told:
        print(f"not reached: {sentence}")


def _run(common: Common, operation: Operation, options: Options) -> None:
    """Run an operation over every table, on to the next one if some of its rows cannot be done."""
    engine = common.protected_engine()
    console, failed = Console(stderr=True), False
    for table in declared_tables(common.metadata()):
        try:
            report = _run_table(console, engine, operation, options, table)
        except RewriteError as error:
            _tell_failures(error)
            if error.report is None or error.report.stopped == "interrupt":
                raise SystemExit(_INTERRUPTED) from None
            report, failed = error.report, True
        else:
            _tell(operation, options, report)
        if report.stopped == "max_rows" or report.rewritten == options.max_rows:
            break
        if options.max_rows is not None:
            options = replace(options, max_rows=options.max_rows - report.rewritten)
    if failed:
        raise SystemExit(1)


def _run_table(
    console: Console, engine: Engine, operation: Operation, options: Options, table: DeclaredTable
) -> Report:
    with display.progress(console) as progress:
        return rewrite(
            operation, engine, table.name, table.columns, schema=table.schema, options=options, progress=progress
        )


def _tell_failures(error: RewriteError) -> None:
    print(f"sealchemy: {error}", file=sys.stderr)
    for failure in error.report.failures if error.report else ():
        print(f"{error.report.table} {failure}")
    if error.report and error.report.failed > len(error.report.failures):
        print(f"and {error.report.failed - len(error.report.failures)} more")
    for sentence in error.report.left_behind if error.report else ():
        print(f"{error.report.table}: {sentence}")


def _tell(operation: Operation, options: Options, report: Report) -> None:
    if operation is VERIFY:
        print(f"verify {report.table}: every value authenticates")
    elif options.dry_run:
        print(f"{operation.name} {report.table}: {report.pending} rows would be rewritten; nothing was changed")
    else:
        print(f"{operation.name} {report.table}: {report.rewritten} rows")
    if report.stopped == "max_rows":
        print("stopped at --max-rows: run the same again to go on")
    for sentence in report.left_behind:
        print(f"{report.table}: {sentence}")


def _exit_with(wrong: list[str]) -> None:
    for line in wrong:
        print(f"sealchemy: {line}", file=sys.stderr)
    if wrong:
        raise SystemExit(1)


def _add_to_env_file(path: Path, key: Key) -> None:
    lines = path.read_bytes().splitlines() if path.exists() else []
    found = [match[1].strip(b"\"' \t") for match in map(_KEY_LINE.match, lines) if match]
    if any(value not in {b"", PLACEHOLDER.encode()} for value in found):
        del lines, found
        message = f"{path} has a key already, and what it encrypted would be lost with it: rotate it instead"
        raise KeyFormatError(message)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    path.chmod(0o600)
    set_key(path, VARIABLE, key.reveal(), quote_mode="never")


def main() -> None:
    """Run the command; what a user can mend is one line on standard error and exit status 1."""
    try:
        app()
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        # What a trigger or a cast says may show the value that it met.
        shown = f"{type(error).__name__}, SQLSTATE {state}" if state.startswith(("P0", "22")) else error
        print(f"sealchemy: {shown}", file=sys.stderr)
        raise SystemExit(1) from None
    except (SealchemyError, SQLAlchemyError, ModuleNotFoundError) as error:
        print(f"sealchemy: {error}", file=sys.stderr)
        raise SystemExit(1) from None
