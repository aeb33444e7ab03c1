"""The options that several commands share. Nothing here imports more than typer."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any

import typer

Models = Annotated[
    str | None, typer.Option(help="The declarative base or MetaData of your models, as package.module:Base.")
]
Url = Annotated[str | None, typer.Option(help="The database; by default DATABASE_URL.")]
Prefix = Annotated[str | None, typer.Option(help="The start of the names of the key variables.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more; twice for most.")]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and count; change nothing.")]
BatchSize = Annotated[int, typer.Option(help="Rows in a transaction.")]
Pause = Annotated[float, typer.Option(help="Seconds to rest between two batches.")]
LockTimeout = Annotated[float, typer.Option(help="Seconds to wait for locks that other sessions hold.")]
MaxRows = Annotated[int | None, typer.Option(help="Stop after this many rows.")]
Shard = Annotated[
    str | None, typer.Option(help="Do one share, such as 2/8, while other runs do the rest; on PostgreSQL.")
]
Accept = Annotated[
    list[str] | None, typer.Option(help="A finding of `sealchemy plan` to accept, such as trigger:NAME; repeatable.")
]
FailIfKey = Annotated[
    list[str] | None, typer.Option(help="Exit with 1 while a value is under the key of this id; repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print progress and results as lines of JSON.")]
DdlPatience = Annotated[
    float,
    typer.Option(help="Seconds for which to keep trying to change a table that others use, without blocking them."),
]

Nice = Annotated[float, typer.Option(help="Rest after each batch for this share of the time that it took.")]
MaxLag = Annotated[
    float | None, typer.Option(help="Wait while a standby is more seconds behind than this; on PostgreSQL.")
]
MaxWalRetained = Annotated[
    str | None, typer.Option(help="Wait while a replication slot retains more WAL, such as 50GB; on PostgreSQL.")
]
KeyRange = Annotated[
    str | None, typer.Option("--range", help="Only these rows: a line of `sealchemy plan --split`; on PostgreSQL.")
]
Jobs = Annotated[int, typer.Option(help="Work in so many processes at the same time; on PostgreSQL.")]
OnlyTable = Annotated[str | None, typer.Option("--table", help="Only this table of the models.")]

RUN_OPTIONS: dict[str, tuple[Any, Any]] = {
    "dry_run": (DryRun, False),
    "batch_size": (BatchSize, 1000),
    "pause": (Pause, 0),
    "nice": (Nice, 0),
    "max_lag": (MaxLag, None),
    "max_wal_retained": (MaxWalRetained, None),
    "lock_timeout": (LockTimeout, 5),
    "max_rows": (MaxRows, None),
    "shard": (Shard, None),
    "range": (KeyRange, None),
    "jobs": (Jobs, 1),
    "table": (OnlyTable, None),
}
"""The options of every command that rewrites values, with their defaults."""


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options in place of its parameter `run`, which takes them as a mapping."""
    own = signature(command).parameters

    @wraps(command)
    def called(**values: Any) -> None:
        run = {name: values.pop(name) for name in RUN_OPTIONS}
        command(**values, run=run)

    parameters = [item for item in own.values() if item.name != "run"]
    parameters += [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in RUN_OPTIONS.items()
    ]
    called.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {item.name: item.annotation for item in parameters}
    return called
