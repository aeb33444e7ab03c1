"""The `sealchemy` command."""

import sys

try:
    from .commands import app
except ModuleNotFoundError as error:
    raise SystemExit(f'the command line needs {error.name}: pip install "sealchemy[cli]"') from None

__all__ = ["app", "main"]


def main() -> None:
    """Run the command; an error that the user can fix is one line on standard error, with exit status 1."""
    try:
        app()
    except Exception as error:
        from .output import describe

        line = describe(error)
        if line is None:
            raise
    else:
        return
    print(f"sealchemy: {line}", file=sys.stderr)
    raise SystemExit(1)
