"""The command that fills blind indexes; `indexing.py` does its work."""

from .commands import app
from .options import (
    Accept,
    AsJson,
    BatchSize,
    DryRun,
    LockTimeout,
    Models,
    Pause,
    Prefix,
    Url,
    Verbose,
)


@app.command()
def reindex(
    models: Models = None,
    url: Url = None,
    prefix: Prefix = None,
    verbose: Verbose = 0,
    dry_run: DryRun = False,
    batch_size: BatchSize = 1000,
    pause: Pause = 0,
    lock_timeout: LockTimeout = 5,
    accept: Accept = None,
    as_json: AsJson = False,
) -> None:
    """Give every row of a table with a blind index the digest of its secret, in place."""
    from sealchemy.rewrite import Options

    from . import indexing
    from .project import Project

    options = Options(dry_run=dry_run, batch_size=batch_size, pause=pause, lock_timeout=lock_timeout)
    indexing.reindex(Project(models, url, prefix, verbose), options, accept or [], as_json=as_json)
