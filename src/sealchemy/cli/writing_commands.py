"""The commands that write values, in place; `rewriting.py` does their work."""

from typing import Annotated, Any

import typer

from .commands import app
from .options import Accept, AsJson, FailIfKey, LockTimeout, Models, Prefix, Url, Verbose, takes_run_options


@app.command()
@takes_run_options
def encrypt(
    models: Models = None,
    url: Url = None,
    prefix: Prefix = None,
    verbose: Verbose = 0,
    accept: Accept = None,
    as_json: AsJson = False,
    *,
    run: dict[str, Any],
) -> None:
    """Encrypt plaintext values, in place."""
    from sealchemy.rewrite import ENCRYPT

    from . import rewriting
    from .project import Project

    rewriting.rewrite(Project(models, url, prefix, verbose), ENCRYPT, run, accept or [], as_json=as_json)


@app.command()
@takes_run_options
def rekey(
    models: Models = None,
    url: Url = None,
    prefix: Prefix = None,
    verbose: Verbose = 0,
    accept: Accept = None,
    as_json: AsJson = False,
    fail_if_key: FailIfKey = None,
    *,
    run: dict[str, Any],
) -> None:
    """Encrypt the values under previous keys with the primary key, in place."""
    from sealchemy.rewrite import REKEY

    from . import actions, rewriting
    from .project import Project

    actions.require_key_ids(fail_if_key or [])
    project = Project(models, url, prefix, verbose)
    rewriting.rewrite(project, REKEY, run, accept or [], as_json=as_json)
    actions.exit_if_under_keys(project, fail_if_key or [])


@app.command()
@takes_run_options
def bind(
    models: Models = None,
    url: Url = None,
    prefix: Prefix = None,
    verbose: Verbose = 0,
    accept: Accept = None,
    as_json: AsJson = False,
    undo: Annotated[bool, typer.Option("--undo", help="Turn bound values into unbound ones.")] = False,
    *,
    run: dict[str, Any],
) -> None:
    """Bind the encrypted values of columns with bind_to to their row, in place."""
    from sealchemy.rewrite import BIND, UNBIND

    from . import rewriting
    from .project import Project

    project = Project(models, url, prefix, verbose)
    rewriting.rewrite(project, UNBIND if undo else BIND, run, accept or [], as_json=as_json)


@app.command()
@takes_run_options
def decrypt(
    models: Models = None,
    url: Url = None,
    prefix: Prefix = None,
    verbose: Verbose = 0,
    accept: Accept = None,
    as_json: AsJson = False,
    allow_plaintext: Annotated[bool, typer.Option("--allow-plaintext", help="Confirm that you mean it.")] = False,
    *,
    run: dict[str, Any],
) -> None:
    """Write the plaintext back, in place."""
    from sealchemy.errors import UnsupportedOperationError
    from sealchemy.rewrite import DECRYPT

    from . import rewriting
    from .project import Project

    if not allow_plaintext:
        raise UnsupportedOperationError(
            "decrypt writes plaintext into the database, its logs and its backups. If that is what you want:"
            " sealchemy decrypt --allow-plaintext"
        )
    rewriting.rewrite(Project(models, url, prefix, verbose), DECRYPT, run, accept or [], as_json=as_json)


@app.command()
def scrub(
    models: Models = None,
    url: Url = None,
    prefix: Prefix = None,
    verbose: Verbose = 0,
    online: Annotated[
        bool, typer.Option("--online", help="PostgreSQL: lock no one out, and leave old values in the file.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    lock_timeout: LockTimeout = 5,
) -> None:
    """Remove old plaintext from the database's files."""
    from . import actions
    from .project import Project

    actions.scrub_tables(Project(models, url, prefix, verbose), online=online, ask=not yes, lock_timeout=lock_timeout)
