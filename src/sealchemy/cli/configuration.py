"""`[tool.sealchemy]` in `pyproject.toml`: the models, the prefix and the database of a project.

SQLAlchemy is imported in the functions, so that `--help` does not wait for it.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

PREFIX = "INTEGRATION_TOKEN_ENCRYPTION"
"""The prefix of the ready-made table."""

_NAMES = ("models", "prefix", "url")


def find_file() -> Path | None:
    """Return the `pyproject.toml` of this folder, or of the first one above it that has one or is a repository."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file():
            return folder / "pyproject.toml"
        if (folder / ".git").exists():
            return None
    return None


def env_file() -> Path:
    """Return the `.env` of this folder, or where there is none the one beside `pyproject.toml`."""
    here, path = Path.cwd() / ".env", find_file()
    return here if here.exists() or path is None else path.parent / ".env"


def read() -> dict[str, str]:
    """Return what `[tool.sealchemy]` says.

    Raises:
        UnsupportedOperationError: the file is not TOML, or the table has something else.
    """
    from sealchemy.errors import UnsupportedOperationError

    path = find_file()
    if path is None:
        return {}
    if not _is_trusted(path):
        raise UnsupportedOperationError(
            f"{path}: it is above this folder, and another user owns it or everyone can write it, so its models are not"
            " imported; correct that, or pass --models, --prefix and --url in a folder with a .git"
        )
    try:
        found = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("sealchemy", {})
    except (ValueError, OSError, AttributeError) as error:
        problem: str | None = f"{type(error).__name__}: {error}"
    else:
        problem = _find_problem(found)
        if problem is None:
            return {**found, "url": _absolute(found["url"], path.parent)} if "url" in found else found
    raise UnsupportedOperationError(f"{path}: {problem}")


def folders() -> list[str]:
    """Return the folder of the file, from which its models can be imported."""
    path = find_file()
    return [str(path.parent)] if path else []


def _is_trusted(path: Path) -> bool:
    """Return whether a file, whose models are imported, is here or belongs to this user."""
    if path.parent == Path.cwd() or os.name != "posix":
        return True
    found = path.stat()
    return found.st_uid in {0, os.getuid()} and not found.st_mode & stat.S_IWOTH


def _find_problem(found: object) -> str | None:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if not isinstance(found, dict) or any(type(found[name]) is not str or name not in _NAMES for name in found):
        return "[tool.sealchemy] has the texts models, prefix and url, and nothing else"
    try:
        url = make_url(found.get("url", "sqlite://"))
        url.get_dialect()
    except (ValueError, ArgumentError):
        return "url of [tool.sealchemy] is not a URL that SQLAlchemy knows"
    if url.password or any("pass" in name for name in url.query):
        return "url of [tool.sealchemy] has a password; set SEALCHEMY_URL or DATABASE_URL instead, outside of git"
    return None


def _absolute(text: str, folder: Path) -> str:
    """Return a URL whose SQLite file is found from any folder below."""
    from sqlalchemy import make_url

    from sealchemy._databases.access import database_of

    url = make_url(text)
    return database_of(url.get_dialect()()).in_folder(url, folder).render_as_string(hide_password=False)
