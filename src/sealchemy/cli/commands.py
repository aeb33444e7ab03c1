"""The `sealchemy` command, and the commands that write no values; `actions.py` does their work.

The imports are inside the commands, so that `--help` and `generate-key` do not wait for SQLAlchemy.
"""

import os
from typing import Annotated

import typer

from .options import Accept, AsJson, DdlPatience, FailIfKey, Jobs, Models, OnlyTable, Prefix, Url, Verbose

app = typer.Typer(
    name="sealchemy",
    help="Encrypted columns for SQLAlchemy: keys, and the values in the database.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

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
    prefix: Prefix = None,
    without_checksum: Annotated[
        bool, typer.Option("--without-checksum", help="In the form that earlier releases read as well.")
    ] = False,
) -> None:
    """Print a new random key."""
    from sealchemy._values import key_text  # and not Key, whose errors import SQLAlchemy

    key = key_text.encode(os.urandom(key_text.KEY_SIZE), checksum=not without_checksum)
    if env:
        from .env_file import add_key

        print(add_key(key, prefix))
    else:
        print(key)


@app.command()
def demo(
    url: Annotated[
        str | None,
        typer.Option(help="A PostgreSQL database instead of a SQLite file, postgresql+psycopg://user@host/name."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the SQLite file and its key in the folder sealchemy-demo.")
    ] = False,
) -> None:
    """Take a table of plaintext tokens to an encrypted one, and show every step."""
    from rich.console import Console

    from .demo import run

    run(Console(), url, keep=keep)


@app.command()
def plan(
    models: Models = None,
    url: Url = None,
    prefix: Prefix = None,
    verbose: Verbose = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    accept: Accept = None,
    split: Annotated[
        int | None, typer.Option(help="Print so many ranges of a table instead, for --range; on PostgreSQL.")
    ] = None,
    table: OnlyTable = None,
) -> None:
    """Show what is in the way of the rollout, and the steps that are left. Reads only, and needs no key."""
    from . import actions
    from .project import Project

    if split is not None:
        actions.split(Project(models, url, prefix, verbose), split, table)
        return
    actions.plan(Project(models, url, prefix, verbose), as_json=as_json, accept=accept or [])


@app.command()
def widen(
    models: Models = None,
    url: Url = None,
    prefix: Prefix = None,
    verbose: Verbose = 0,
    ddl_patience: DdlPatience = 300,
) -> None:
    """Make the columns wide enough for ciphertext, before stage migrate. Needs no key."""
    from . import actions
    from .project import Project

    actions.widen_tables(Project(models, url, prefix, verbose), ddl_patience)


@app.command()
def status(
    models: Models = None,
    url: Url = None,
    prefix: Prefix = None,
    verbose: Verbose = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fail_if_plaintext: Annotated[
        bool, typer.Option("--fail-if-plaintext", help="Exit with 1 while a value is plaintext.")
    ] = False,
    fail_if_unbound: Annotated[
        bool, typer.Option("--fail-if-unbound", help="Exit with 1 while a value is not bound that should be.")
    ] = False,
    fail_if_key: FailIfKey = None,
) -> None:
    """Count values by state: NULL, plaintext, under each key, unknown. Needs no key, and decrypts nothing."""
    from . import actions
    from .project import Project

    project = Project(models, url, prefix, verbose)
    actions.status(
        project,
        as_json=as_json,
        fail_if_plaintext=fail_if_plaintext,
        fail_if_unbound=fail_if_unbound,
        fail_if_keys=fail_if_key or [],
    )


@app.command()
def verify(
    models: Models = None,
    url: Url = None,
    prefix: Prefix = None,
    verbose: Verbose = 0,
    as_json: AsJson = False,
    jobs: Jobs = 1,
    sample: Annotated[
        float | None, typer.Option(help="Look at this share of the rows only, such as 0.01, at random places.")
    ] = None,
    table: OnlyTable = None,
) -> None:
    """Authenticate every value, and list failures by primary key. Plaintext is a failure."""
    from . import rewriting
    from .project import Project

    rewriting.verify_tables(Project(models, url, prefix, verbose), jobs, sample, table, as_json=as_json)


@app.command()
def check(models: Models = None, url: Url = None, prefix: Prefix = None, verbose: Verbose = 0) -> None:
    """Tell whether a process with these keys and this rollout stage can read every value."""
    from . import actions
    from .project import Project

    actions.check(Project(models, url, prefix, verbose))
