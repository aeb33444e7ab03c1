"""The `sealchemy` command."""

import sys

_HINT = 'the command line needs {}: pip install "sealchemy[cli]"'
_DEMO_HINT = 'the ready-made table needs {}: pip install "sealchemy[cli,integrations]"'

try:
    from . import index_commands, integration_commands, key_commands, writing_commands  # noqa: F401 - they add commands to `app`
    from .commands import app
except ModuleNotFoundError as error:
    raise SystemExit(_HINT.format(error.name)) from None

__all__ = ["app", "main"]


def _run() -> None:
    """Run the command, and again in an event loop if its database needs one: nothing has been done by then."""
    try:
        app()
    except Exception as error:
        if type(error).__name__ != "NeedsEventLoopError":  # its module takes a while to import
            raise
    else:
        return
    from sealchemy._databases.async_drivers import run

    try:
        run(app)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def main() -> None:
    """Run the command; an error that the user can fix is one line on standard error, with exit status 1."""
    try:
        _run()
    except ImportError as error:
        hints: dict[str, str] = dict.fromkeys(("dotenv", "rich"), _HINT)
        hints |= dict.fromkeys(("authlib", "pydantic", "pydantic_settings", "requests", "urllib3"), _DEMO_HINT)
        hint = hints.get(error.name or "")
        line = hint.format(error.name) if hint else str(error)
    except Exception as error:
        from .output import describe

        found = describe(error)
        if found is None:
            raise
        line = found
    else:
        return
    print(f"sealchemy: {line}", file=sys.stderr)
    raise SystemExit(1)
