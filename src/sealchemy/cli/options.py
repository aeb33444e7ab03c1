"""The options that several commands share. Nothing here imports more than typer."""

from typing import Annotated

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
