"""The commands for keys."""

from typing import Annotated

import typer

from .commands import app
from .options import Prefix, Verbose


@app.command("wrap-key")
def wrap_key(
    to: Annotated[str, typer.Option(help="The key of the KMS: scheme://name.")],
    new: Annotated[bool, typer.Option("--new", help="Wrap a new random key without showing it.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Wrap a key with a KMS, and print the text that only the KMS can open.

    The key is read from standard input. A wrapped key can be given as well: it is moved to another KMS, or wrapped
    again under the latest version of the same one.
    """
    from . import key_actions

    key_actions.wrap(to, new=new, verbose=verbose)


@app.command()
def keys(
    prefix: Prefix = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Print the ids and roles of the keys in the environment, never a key: to compare those of all processes."""
    from . import key_actions

    key_actions.show_ids(prefix, as_json=as_json, verbose=verbose)


@app.command("reveal-key")
def reveal_key(
    yes: Annotated[bool, typer.Option("--yes", help="Print a key that decrypts every value.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Print the key in a wrapped one, from standard input: for the copy in a safe that outlives the KMS."""
    from . import key_actions

    key_actions.reveal(yes=yes, verbose=verbose)
