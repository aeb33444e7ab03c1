"""The steps of the demonstration, in order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.orm import Session, undefer_group

from sealchemy import Key, KeyRing, attach_key_ring
from sealchemy.integrations.models import Integration
from sealchemy.integrations.settings import IntegrationSettings
from sealchemy.rewrite import Progress as RowsDone
from sealchemy.scrub import scrub

from .database import KEPT, open_database
from .lookup import show_lookup
from .refusals import show_audit_trigger, show_moved_values, show_plaintext_insert
from .tokens import SHOWN, Tokens, count_on_disk, insert_plaintext

_WIDTH = 27


def run(console: Console, url: str | None = None, *, keep: bool = False) -> None:
    """Show every step from plaintext to ciphertext.

    Args:
        console: where to print.
        url: a PostgreSQL database, in which a temporary schema is created and dropped again; by default a SQLite
            file in a temporary folder.
        keep: leave the SQLite file and its key in the folder `sealchemy-demo`.
    """
    keys = {"KEY": Key.generate(), "INDEX_KEY": Key.generate()}
    key_ring = KeyRing(primary=keys["KEY"], index_key=keys["INDEX_KEY"])
    with open_database(url, keys, keep=keep) as (database_url, path):
        engine = create_engine(database_url)
        logging.getLogger("sealchemy").addFilter(_is_no_reminder)
        settings = IntegrationSettings.model_construct(  # not from this shell's environment
            database_url=engine.url.render_as_string(hide_password=False),
            integration_token_encryption_key=SecretStr(keys["KEY"].reveal()),
        )
        try:
            _show_everything(console, engine, settings, key_ring, path)
        finally:
            logging.getLogger("sealchemy").removeFilter(_is_no_reminder)
            engine.dispose()
    if keep:
        console.print(f"\nThe database and its keys are in {KEPT}/. Try: cd {KEPT} && sealchemy status")


def _show_everything(
    console: Console, engine: Engine, settings: IntegrationSettings, key_ring: KeyRing, path: Path | None
) -> None:
    _upgrade(settings, "0001")
    tokens = insert_plaintext(engine)
    _title(console, f"1. {len(tokens)} integrations in {engine.dialect.name}, tokens in plaintext")
    _show_raw(console, engine)
    console.print(count_on_disk(engine, path, tokens))

    _title(console, "2. sealchemy plan: what is in the way, and which steps are left")
    show_audit_trigger(console, engine, partial(_upgrade, settings, "head"))

    _title(console, "3. Without the trigger, alembic upgrade head encrypts in place")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("encrypting rows", total=len(tokens))
        _upgrade(settings, "head", lambda rows: bar.update(task, completed=rows.done, total=rows.total))
    _show_raw(console, engine)

    _title(console, "4. The application reads them as before")
    attach_key_ring(engine, key_ring)
    _show_through_orm(console, engine, tokens)

    _title(console, "5. Refused")
    show_moved_values(console, engine)
    show_plaintext_insert(console, engine)

    _title(console, "6. Found by its value, through a blind index")
    show_lookup(console, engine)

    _title(console, "7. The files on disk, after `sealchemy scrub`")
    scrub(engine, "integrations")
    console.print(count_on_disk(engine, path, tokens))


def _is_no_reminder(record: logging.LogRecord) -> bool:
    """Leave out the reminder to scrub, which is the last step here, and would go through the progress bar."""
    return "sealchemy scrub" not in record.getMessage()


def _title(console: Console, title: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")


def _upgrade(settings: IntegrationSettings, revision: str, progress: Callable[[RowsDone], None] | None = None) -> None:
    package = Path(str(files("sealchemy.integrations")))
    folders = (package / "migrations", package.parents[2] / "migrations")
    config = Config(attributes={"settings": settings, **({"sealchemy_progress": progress} if progress else {})})
    config.set_main_option("script_location", str(next(folder for folder in folders if folder.is_dir())))
    command.upgrade(config, revision)


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
    return repr(token) if len(token) <= _WIDTH else f"{token[: _WIDTH - 8]}… [dim]{len(token)}[/dim]"


def _show_through_orm(console: Console, engine: Engine, tokens: Tokens) -> None:
    table = Table("integration", "access_token", "repr(access_token)", title="session.scalars(select(Integration))")
    same = 0
    with Session(engine) as session:
        for item in session.scalars(select(Integration).options(undefer_group("tokens")).order_by(Integration.id)):
            same += (item.access_token, item.refresh_token) == tokens[item.id]
            if item.id in SHOWN:
                table.add_row(f"{item.id} {item.provider}", _cut(str(item.access_token)), repr(item.access_token))
    console.print(table)
    console.print(f"{same} of {len(tokens)} rows have the same two tokens as before.")
