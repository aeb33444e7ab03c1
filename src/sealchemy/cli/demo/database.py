"""The database of the demonstration: a temporary file, a file to keep, or a temporary schema."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from sealchemy import Key, UnsupportedOperationError

KEPT = "sealchemy-demo"
"""The folder of what is kept, in the working directory."""

_SHARED = {"host", "port"}
"""What every driver takes in the query of a URL, by the same name."""


@contextmanager
def open_database(url: str | None, keys: Mapping[str, Key], *, keep: bool) -> Iterator[tuple[str, Path | None]]:
    """Return the URL of an empty database, and its file if it is one.

    Args:
        url: a PostgreSQL database; by default a SQLite file.
        keys: written beside a file that is kept, by the ends of their variables: `KEY`, `INDEX_KEY`.
        keep: leave the SQLite file, and `.env` with the keys.

    Raises:
        UnsupportedOperationError: another database, or the folder cannot be made.
    """
    if url is not None:
        if keep:
            raise UnsupportedOperationError("--keep leaves a SQLite file, so it does not go with --url")
        with _schema(_parse(url)) as inside:
            yield inside, None
        return
    with _kept_folder(keys) if keep else tempfile.TemporaryDirectory(prefix="sealchemy-demo-") as folder:
        path = Path(folder, "demo.db")
        if set(str(path)) & set("?#%"):  # SQLAlchemy 2.0 and 2.1 write and read such paths in different ways
            raise UnsupportedOperationError(f"the folder of temporary files, {folder}, has ?, # or % in its name")
        yield f"sqlite:///{path}", path


@contextmanager
def _kept_folder(keys: Mapping[str, Key]) -> Iterator[Path]:
    """Make the folder, and remove it again if the demonstration does not come to its end."""
    folder = Path(KEPT)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise UnsupportedOperationError(f"{KEPT} exists already; remove or rename it first") from None
    except OSError as error:
        raise UnsupportedOperationError(f"{KEPT} cannot be made here: {error.strerror}") from None
    try:
        with os.fdopen(os.open(folder / ".env", os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write("DATABASE_URL=sqlite:///demo.db\n")
            for name, key in keys.items():
                file.write(f"INTEGRATION_TOKEN_ENCRYPTION_{name}={key.reveal()}\n")
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _parse(url: str) -> URL:
    parsed = make_url(url)
    if not parsed.drivername.startswith("postgresql"):
        raise UnsupportedOperationError(
            "the demonstration runs on SQLite (without --url) and on PostgreSQL (postgresql+psycopg://...)"
        )
    if parsed.get_dialect().is_async:  # the demonstration waits for one statement at a time
        if parsed.query.keys() - _SHARED:
            raise UnsupportedOperationError("drivers have different names for what the URL asks for; use +psycopg")
        parsed = parsed.set(drivername="postgresql+psycopg")
    if "options" in parsed.query:
        raise UnsupportedOperationError("the demonstration sets the options of the connection; leave them out")
    return parsed


@contextmanager
def _schema(url: URL) -> Iterator[str]:
    """Create a schema, and drop it again."""
    schema = f"sealchemy_demo_{secrets.token_hex(4)}"
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    try:
        yield url.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
