"""The `sealchemy` command. It prints and exits; what it does is done elsewhere."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from dataclasses import replace
from importlib import import_module
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn, get_type_hints

from sqlalchemy import Engine, MetaData, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from .declared import DeclaredTable, declared_tables
from .engine import Rollout, attach_key_ring, scrub_errors
from .errors import (
    ColumnDefinitionError,
    KeyFormatError,
    MissingKeyError,
    RewriteError,
    RolloutError,
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
    from dotenv import dotenv_values, set_key
    from rich.console import Console

    from . import display
except ModuleNotFoundError as error:
    missing = f'the command line needs {error.name}: pip install "sealchemy[cli]"'
    raise SystemExit(missing) from None

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "INTEGRATION_TOKEN_ENCRYPTION_KEY"
_KEY_LINE = re.compile(rf"\s*(?:export\s+)?{VARIABLE}(?:_FILE)?\s*=(.*)".encode())

_INTERRUPTED = 130  # 128 and the number of SIGINT

app = typer.Typer(
    name="sealchemy",
    help="Encrypted columns for SQLAlchemy: keys, stored values, and what becomes of them.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


class _Common(NamedTuple):
    """Which tables, in which database, with which keys."""

    models: Annotated[
        str, typer.Option(help="The declarative base or MetaData of your models, as package.module:Base.")
    ] = "sealchemy.integrations.models:Base"
    url: Annotated[str | None, typer.Option(help="The database; by default DATABASE_URL.")] = None
    prefix: Annotated[str, typer.Option(help="How the variables of the keys begin.")] = "INTEGRATION_TOKEN_ENCRYPTION"
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more; twice for most.")] = 0


class _Limits(NamedTuple):
    """How to go about it."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and count; change nothing.")] = False
    batch_size: Annotated[int, typer.Option(help="Rows in a transaction.")] = 1000
    pause: Annotated[float, typer.Option(help="Seconds to rest between two batches.")] = 0
    lock_timeout: Annotated[float, typer.Option(help="Seconds to wait for what others have locked.")] = 5
    max_rows: Annotated[int | None, typer.Option(help="Stop after so many rows.")] = None
    shard: Annotated[
        str | None, typer.Option(help="Do one share, such as 2/8, while others do the rest; on PostgreSQL.")
    ] = None

    def options(self) -> Options:
        """Return what `rewrite` takes."""
        part = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", self.shard) if self.shard is not None else None
        if self.shard is not None and part is None:
            message = "--shard takes one of a number, such as 2/8"
            raise UnsupportedOperationError(message)
        return Options(
            dry_run=self.dry_run,
            batch_size=self.batch_size,
            pause=self.pause,
            lock_timeout=self.lock_timeout,
            max_rows=self.max_rows,
            shard=(int(part[1]), int(part[2])) if part else None,
        )


def _takes(*groups: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of groups, each of which it takes as one argument."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            gathered = [group(**{name: given.pop(name) for name in group._fields}) for group in groups]
            logging.basicConfig(level=[logging.WARNING, logging.INFO, logging.DEBUG][min(gathered[0].verbose, 2)])
            function(*gathered, **given)

        own = list(signature(function, eval_str=True).parameters.values())[len(groups) :]
        shared = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=group._field_defaults[name], annotation=annotation)
            for group in groups
            for name, annotation in get_type_hints(group, include_extras=True).items()
        ]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = Signature(  # type: ignore[attr-defined] # which is what typer reads
            [*(item.replace(kind=Parameter.KEYWORD_ONLY) for item in own), *shared]
        )
        return command

    return decorate


@app.callback()
def _root() -> None:
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
@_takes(_Common)
def status(
    common: _Common,
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
    environ = _environment()
    try:
        key_ring = KeyRing.from_env(common.prefix, environ)
    except MissingKeyError:
        key_ring = None  # counting needs none
        print(f"no keys under {common.prefix}_KEY: nobody can tell what each key is for", file=sys.stderr)
    found, known = count_values(_engine(common, environ), _metadata(common)), display.roles(key_ring)
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
@_takes(_Common)
def verify(common: _Common) -> None:
    """Authenticate every value, and list what fails by primary key. Plaintext fails."""
    _run(common, VERIFY, Options())


@app.command()
@_takes(_Common)
def check(common: _Common) -> None:
    """Tell whether a process with these keys and this rollout stage can read everything that is stored."""
    found = problems(_protected_engine(common), _metadata(common))
    _exit_with([f"{type(problem).__name__}: {problem}" for problem in found])
    print("the keys and the rollout stage fit what is stored; sealchemy verify decrypts it as well")


@app.command()
@_takes(_Common, _Limits)
def encrypt(common: _Common, limits: _Limits) -> None:
    """Encrypt the plaintext that is stored, in place."""
    _run(common, ENCRYPT, limits.options())


@app.command()
@_takes(_Common, _Limits)
def rekey(common: _Common, limits: _Limits) -> None:
    """Encrypt what is under previous keys with the primary key, in place."""
    _run(common, REKEY, limits.options())


@app.command()
@_takes(_Common, _Limits)
def decrypt(
    common: _Common,
    limits: _Limits,
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
@_takes(_Common)
def scrub(
    common: _Common,
    online: Annotated[
        bool, typer.Option("--online", help="PostgreSQL: lock nobody out, and leave old values in the file.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    lock_timeout: Annotated[float, typer.Option(help="Seconds to wait for what others have locked.")] = 5,
) -> None:
    """Remove from the database's files what encrypting left behind in them."""
    Options(lock_timeout=lock_timeout)
    engine, tables = _engine(common, _environment()), declared_tables(_metadata(common))
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


def _run(common: _Common, operation: Operation, options: Options) -> None:
    """Run an operation over every table, on to the next one if some of its rows cannot be done."""
    engine = _protected_engine(common)
    console, failed = Console(stderr=True), False
    for table in declared_tables(_metadata(common)):
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


def _environment() -> dict[str, str]:
    """Return the variables of `.env` and of the process; those of the process go first, and an empty one is absent."""
    both = (dotenv_values(".env"), os.environ)
    return {name: value for variables in both for name, value in variables.items() if value}


def _engine(common: _Common, environ: dict[str, str]) -> Engine:
    try:
        url = make_url(common.url or environ.get("DATABASE_URL", "sqlite:///integrations.db"))
    except (ValueError, ArgumentError):
        message = "the database's URL cannot be parsed: it is dialect+driver://user:password@host:port/database"
        raise UnsupportedOperationError(message) from None
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        message = f"there is no database {url.database!r} here: set DATABASE_URL or --url"
        raise UnsupportedOperationError(message)
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
    scrub_errors(engine)
    return engine


def _protected_engine(common: _Common) -> Engine:
    environ = _environment()
    key_ring = KeyRing.from_env(common.prefix, environ)
    stage: Any = environ.get(f"{common.prefix}_ROLLOUT", Rollout.STRICT)
    if stage not in list(Rollout):
        message = f"{common.prefix}_ROLLOUT must be one of {', '.join(Rollout)}"
        raise RolloutError(message)
    return attach_key_ring(_engine(common, environ), key_ring, rollout=stage)


def _metadata(common: _Common) -> MetaData:
    module, _, name = common.models.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        base = getattr(import_module(module), name)
        metadata = base if isinstance(base, MetaData) else base.metadata
    except Exception as error:  # noqa: BLE001 - it is the code of the user that runs here
        _refuse_models(common.models, f"{type(error).__name__}: {error}")
    if not isinstance(metadata, MetaData):
        _refuse_models(common.models, "it has no MetaData")
    return metadata


def _refuse_models(models: str, problem: str) -> NoReturn:
    message = (
        f"--models {models}: {problem}; it is package.module:Base, where Base is a declarative base or a MetaData,"
        " and the module imports every model"
    )
    raise ColumnDefinitionError(message)


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
