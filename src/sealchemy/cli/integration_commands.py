"""The commands for the ready-made table of OAuth integrations."""

from typing import Annotated

import typer

from .commands import app
from .options import Url, Verbose

integrations = typer.Typer(help="The ready-made table of OAuth integrations.", no_args_is_help=True)
app.add_typer(integrations, name="integrations")


@integrations.command()
def retry(
    url: Url = None,
    table: Annotated[str, typer.Option(help="The table, if it is not the ready-made one.")] = "integrations",
    provider: Annotated[str | None, typer.Option(help="Only those with this provider.")] = None,
    error: Annotated[str | None, typer.Option(help="Only those with this last error, such as invalid_grant.")] = None,
    verbose: Verbose = 0,
) -> None:
    """Ask providers again that refused a grant, or failed: after an incident of a provider. Needs no key."""
    from sealchemy.integrations.retry import retry as clear

    from .project import Project

    project = Project(None, url, None, verbose)
    engine = project.engine()
    project.name_database()
    done = clear(engine, table, provider=provider, code=error)
    print(f"{done} integrations are asked again when they are used")
