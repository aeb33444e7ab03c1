"""The database of the demonstration: a file that is deleted, a file that is kept, or a schema that is dropped."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text

from sealchemy import KeyRing, UnsupportedOperationError

KEPT = "sealchemy-demo"
"""The folder of what is kept, in the working directory."""


@contextmanager
def open_database(url: str | None, key_ring: KeyRing, *, keep: bool) -> Iterator[tuple[str, Path | None]]:
    """Return the URL of an empty database, and its file if it is one.

    Args:
        url: a PostgreSQL database; by default a SQLite file.
        key_ring: the keys, which are written beside a file that is kept.
        keep: leave the SQLite file, and `.env` with the keys.

    Raises:
        UnsupportedOperationError: another database, or the folder exists already.
    """
    if url is not None:
        if keep:
            raise UnsupportedOperationError("--keep leaves a SQLite file, so it does not go with --url")
        with _schema(_parse(url)) as inside:
            yield inside, None
        return
    with _kept_folder(key_ring) if keep else tempfile.TemporaryDirectory(prefix="sealchemy-demo-") as folder:
        path = Path(folder, "demo.db")
        yield f"sqlite:///{path}", path


@contextmanager
def _kept_folder(key_ring: KeyRing) -> Iterator[Path]:
    folder = Path(KEPT)
    try:
        folder.mkdir()
    except FileExistsError:
        raise UnsupportedOperationError(f"{KEPT}/ exists already; remove or rename it first") from None
    lines = [
        "DATABASE_URL=sqlite:///demo.db",
        f"INTEGRATION_TOKEN_ENCRYPTION_KEY={key_ring.primary.reveal()}",
    ]
    with os.fdopen(os.open(folder / ".env", os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    yield folder


def _parse(url: str) -> URL:
    parsed = make_url(url)
    if not parsed.drivername.startswith("postgresql"):
        raise UnsupportedOperationError(
            "the demonstration runs on SQLite (without --url) and on PostgreSQL (postgresql+psycopg://...)"
        )
    if parsed.get_dialect().is_async:  # the demonstration waits for one statement at a time
        return parsed.set(drivername="postgresql+psycopg", query={})
    return parsed


@contextmanager
def _schema(url: URL) -> Iterator[str]:
    """Create a schema, and drop it again."""
    schema = f"sealchemy_demo_{secrets.token_hex(4)}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    try:
        yield url.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        engine.dispose()
