"""The commands for the ready-made table of OAuth integrations."""

import sys
from contextlib import suppress
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


@integrations.command("loopback-provider")
def loopback_provider(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 for any that is free.")] = 8400,
    lifetime: Annotated[int, typer.Option(min=1, help="Seconds for which an access token is valid.")] = 3,
) -> None:
    """Run an OAuth provider on this machine, to try a client against. Ctrl-C stops it, and it forgets everything."""
    from sealchemy.integrations.loopback_provider import make

    try:
        server = make(port, lifetime)
    except OSError as error:
        print(f"127.0.0.1:{port}: {error.strerror}; choose another --port", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"http://127.0.0.1:{server.server_port} has /authorize, /token, /revoke and /me", flush=True)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
