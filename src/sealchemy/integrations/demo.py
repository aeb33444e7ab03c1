"""`sealchemy demo`: turn a table of plaintext tokens into an encrypted one, on a real database."""

from __future__ import annotations

import base64
import json
import random
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from pydantic import SecretStr
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import URL, Engine, create_engine, make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session, undefer_group

from sealchemy import DecryptionError, Key, KeyRing, UnsupportedOperationError, attach_key_ring
from sealchemy.rewrite import Progress as RowsDone
from sealchemy.scrub import scrub

from .models import Integration
from .settings import IntegrationSettings

ROWS = 400
SHOWN = (1, 2, 3, 5, 33, 40)  # one token of each kind
WIDTH = 27


def run(console: Console, url: str | None = None) -> None:
    """Show every step from plaintext to ciphertext.

    Args:
        console: where to print.
        url: a PostgreSQL database, in which a temporary schema is created and dropped again; by default a SQLite
            file in a temporary folder.
    """
    with _database(url) as (database_url, path):
        key = Key.generate()
        engine = create_engine(database_url)
        settings = IntegrationSettings.model_construct(  # not from this shell's environment
            database_url=engine.url.render_as_string(hide_password=False),
            integration_token_encryption_key=SecretStr(key.reveal()),
        )
        try:
            _show_everything(console, engine, settings, KeyRing(primary=key), path)
        finally:
            engine.dispose()


def _show_everything(
    console: Console, engine: Engine, settings: IntegrationSettings, key_ring: KeyRing, path: Path | None
) -> None:
    _upgrade(settings, "0001")
    tokens = _fill(engine)
    _title(console, f"1. {len(tokens)} integrations in {engine.dialect.name}, tokens in plaintext")
    _show_raw(console, engine)
    _show_disk(console, engine, path, tokens)

    _title(console, "2. alembic upgrade head: 0002 encrypts in place, 0003 makes the database refuse plaintext")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("encrypting rows", total=len(tokens))
        _upgrade(settings, "head", lambda rows: bar.update(task, completed=rows.done, total=rows.total))
    _show_raw(console, engine)

    _title(console, "3. The application reads them as before")
    attach_key_ring(engine, key_ring)
    _show_through_orm(console, engine, tokens)

    _title(console, "4. Refused")
    _show_pasted_value(console, engine)
    _show_plaintext_insert(console, engine)

    _title(console, "5. The files on disk, after `sealchemy scrub`")
    scrub(engine, "integrations")
    _show_disk(console, engine, path, tokens)


def _title(console: Console, title: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")


@contextmanager
def _database(url: str | None) -> Iterator[tuple[str, Path | None]]:
    """Return an empty database for the tables, and its file if it is one."""
    if url is None:
        with tempfile.TemporaryDirectory(prefix="sealchemy-demo-") as folder:
            path = Path(folder, "demo.db")
            yield f"sqlite:///{path}", path
        return
    parsed = make_url(url)
    if not parsed.drivername.startswith("postgresql"):
        raise UnsupportedOperationError(
            "the demonstration runs on SQLite (without --url) and on PostgreSQL (postgresql+psycopg://...)"
        )
    if parsed.get_dialect().is_async:
        parsed = parsed.set(
            drivername="postgresql+psycopg", query={}
        )  # the demonstration waits for one statement at a time
    with _schema(parsed) as inside:
        yield inside, None


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


def _upgrade(settings: IntegrationSettings, revision: str, progress: Callable[[RowsDone], None] | None = None) -> None:
    here = Path(__file__).parent
    folders = (here / "migrations", here.parents[2] / "migrations")
    config = Config(attributes={"settings": settings, **({"sealchemy_progress": progress} if progress else {})})
    config.set_main_option("script_location", str(next(folder for folder in folders if folder.is_dir())))
    command.upgrade(config, revision)


def _fill(engine: Engine) -> dict[int, tuple[str, str | None]]:
    """Insert integrations as an application without encryption does; return their tokens by id."""
    rows: list[dict[str, Any]] = [
        {
            "id": number,
            "user_id": f"user-{number}",
            "provider": ("google-calendar", "google-drive", "microsoft")[number % 3],
            "access_token": _access_token(number),
            "refresh_token": None if number % 5 == 0 else f"1//0{secrets.token_urlsafe(70)}",
        }
        for number in range(1, ROWS + 1)
    ]
    columns = ", ".join(rows[0])
    with engine.begin() as connection:
        statement = text(f"INSERT INTO integrations ({columns}) VALUES (:{columns.replace(', ', ', :')})")  # noqa: S608
        connection.execute(statement, rows)
    return {row["id"]: (row["access_token"], row["refresh_token"]) for row in rows}


def _access_token(number: int) -> str:
    if number % 40 == 0:
        return ""
    if number % 33 == 0:
        return f"Schlüssel-ключ-鍵-🔑-{secrets.token_urlsafe(40)}"
    if number % 3 == 2:  # noqa: PLR2004 - Microsoft's are JWTs
        parts = [{"alg": "RS256", "typ": "JWT"}, {"sub": f"user-{number}", "jti": secrets.token_hex(200)}]
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
        return ".".join([*encoded, secrets.token_urlsafe(256)])
    return f"ya29.{secrets.token_urlsafe(1600)}"[: random.randint(200, 2048)]  # noqa: S311 - a length


def _show_raw(console: Console, engine: Engine) -> None:
    table = Table("id", "provider", "access_token", "refresh_token", title="the values in the database")
    with engine.connect() as connection:
        query = text("SELECT id, provider, access_token, refresh_token FROM integrations ORDER BY id")
        for number, provider, *tokens in connection.execute(query):
            if number in SHOWN:
                table.add_row(str(number), provider, *(_cut(token) for token in tokens))
    console.print(table)


def _cut(token: str | None) -> str:
    if token is None:
        return "[dim]NULL[/dim]"
    return repr(token) if len(token) <= WIDTH else f"{token[: WIDTH - 8]}… [dim]{len(token)}[/dim]"


def _show_through_orm(console: Console, engine: Engine, tokens: dict[int, tuple[str, str | None]]) -> None:
    table = Table("integration", "access_token", "repr(access_token)", title="session.scalars(select(Integration))")
    same = 0
    with Session(engine) as session:
        for item in session.scalars(select(Integration).options(undefer_group("tokens")).order_by(Integration.id)):
            same += (item.access_token, item.refresh_token) == tokens[item.id]
            if item.id in SHOWN:
                table.add_row(f"{item.id} {item.provider}", _cut(str(item.access_token)), repr(item.access_token))
    console.print(table)
    console.print(f"{same} of {len(tokens)} rows have the same two tokens as before.")


def _show_pasted_value(console: Console, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE integrations SET access_token = refresh_token WHERE id = 1"))
    with Session(engine) as session:
        try:
            session.scalars(select(Integration.access_token).where(Integration.id == 1)).one()
        except DecryptionError as error:
            console.print(Panel(f"{type(error).__name__}: {error}", title="a refresh token pasted into access_token"))


def _show_plaintext_insert(console: Console, engine: Engine) -> None:
    statement = text(
        "INSERT INTO integrations (user_id, provider, access_token) VALUES ('user-x', 'google', 'ya29.plaintext')"
    )
    try:
        with engine.begin() as connection:
            connection.execute(statement)
    except IntegrityError as error:
        console.print(Panel(str(error.orig), title="INSERT of a plaintext token, bypassing the application"))


def _show_disk(console: Console, engine: Engine, path: Path | None, tokens: dict[int, tuple[str, str | None]]) -> None:
    content = path.read_bytes() if path else _postgresql_file(engine)
    if content is None:
        console.print("Only a superuser can read PostgreSQL's files, so they were not searched.")
        return
    known = [token.encode() for pair in tokens.values() for token in pair if token]
    found = sum(any(part in content for part in _parts(token)) for token in known)
    console.print(f"{found} of {len(known)} plaintext tokens found in the {len(content):,} bytes of the table's files.")


def _parts(token: bytes, size: int = 24) -> list[bytes]:
    """Return parts to search for: PostgreSQL splits long values into chunks."""
    return [token[start : start + size] for start in range(0, max(1, len(token) - size), max(size, len(token) // 4))]


def _postgresql_file(engine: Engine) -> bytes | None:
    query = "SELECT pg_read_binary_file(pg_relation_filepath(:name))"
    toast = "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'integrations'::regclass"
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CHECKPOINT"))
            names = ["integrations", connection.scalar(text(toast))]
            return b"".join(bytes(connection.scalar(text(query), {"name": name})) for name in names)
    except DBAPIError:
        return None
