"""The `sealchemy` command. It prints and exits; what it does is done elsewhere."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

from sqlalchemy.exc import ArgumentError, OperationalError

from .errors import KeyFormatError, SealchemyError
from .keys import Key
from .keytext import PLACEHOLDER

try:
    import typer
    from dotenv import set_key
    from rich.console import Console
except ModuleNotFoundError as error:
    missing = f'the command line needs {error.name}: pip install "sealchemy[cli]"'
    raise SystemExit(missing) from None

VARIABLE = "INTEGRATION_TOKEN_ENCRYPTION_KEY"
_KEY_LINE = re.compile(rf"\s*(?:export\s+)?{VARIABLE}(?:_FILE)?\s*=(.*)".encode())

app = typer.Typer(
    name="sealchemy",
    help="Encrypted columns for SQLAlchemy: keys, and a demonstration.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _root() -> None:
    """Keep `demo` a subcommand, however many there are."""


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
    except (SealchemyError, ArgumentError, OperationalError) as error:
        print(f"sealchemy: {error}", file=sys.stderr)
        raise SystemExit(1) from None
