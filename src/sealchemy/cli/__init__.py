"""The `sealchemy` command."""

import os
import sys
from pathlib import Path

_HINT = 'the command line needs {}: pip install "sealchemy[cli]"'

try:
    from . import index_commands, integration_commands, key_commands, writing_commands  # noqa: F401 - they add commands to `app`
    from .commands import app
    from .configuration import find_file
except ModuleNotFoundError as error:
    raise SystemExit(_HINT.format(error.name)) from None

__all__ = ["app", "main"]


_ASYNC_DRIVERS = ("+asyncpg", "+aiosqlite", "+psycopg_async", "+asyncmy", "+aiomysql")


def _run() -> None:
    """Run the command, in an event loop if its database's URL may name an async driver."""
    urls = [*sys.argv[1:], os.environ.get("SEALCHEMY_URL", ""), os.environ.get("DATABASE_URL", "")]
    for path in filter(None, (Path(".env"), find_file())):
        urls += path.read_text(errors="replace").splitlines() if path.exists() else []
    if any(driver in url.partition("://")[0] for url in urls for driver in _ASYNC_DRIVERS):
        from sealchemy._databases.async_drivers import run

        try:
            run(app)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
    else:
        app()


def main() -> None:
    """Run the command; an error that the user can fix is one line on standard error, with exit status 1."""
    try:
        _run()
    except ModuleNotFoundError as error:
        line: str | None = _HINT.format(error.name) if error.name in {"dotenv", "rich"} else str(error)
    except Exception as error:
        from .output import describe

        line = describe(error)
        if line is None:
            raise
    else:
        return
    print(f"sealchemy: {line}", file=sys.stderr)
    raise SystemExit(1)
