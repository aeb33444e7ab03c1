"""What is refused: each is tried, shown, and undone. What is not refused after all ends the demonstration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.panel import Panel
from sqlalchemy import Column, Engine, Integer, MetaData, Table, select, text
from sqlalchemy.exc import IntegrityError

from sealchemy import DecryptionError, EncryptedString, SealchemyError
from sealchemy.cli.output import print_plan
from sealchemy.integrations.models import Integration
from sealchemy.plan import plan, steps

MODELS = MetaData()
"""The table of the first revision, as models declare it when it is about to be encrypted."""

Table(
    "integrations",
    MODELS,
    Column("id", Integer, primary_key=True),
    Column("access_token", EncryptedString("integrations.access_token")),
    Column("refresh_token", EncryptedString("integrations.refresh_token")),
)

_AUDIT = {
    "sqlite": (
        (
            "CREATE TRIGGER audit_tokens AFTER UPDATE ON integrations BEGIN"
            " INSERT INTO audit VALUES (OLD.access_token); END"
        ),
    ),
    "postgresql": (
        (
            "CREATE FUNCTION audit_tokens() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN INSERT INTO audit VALUES (OLD.access_token); RETURN NULL; END'"
        ),
        "CREATE TRIGGER audit_tokens AFTER UPDATE ON integrations FOR EACH ROW EXECUTE FUNCTION audit_tokens()",
    ),
}
_WITHOUT_AUDIT = {
    "sqlite": ("DROP TRIGGER audit_tokens",),
    "postgresql": ("DROP TRIGGER audit_tokens ON integrations", "DROP FUNCTION audit_tokens()"),
}


def show_audit_trigger(console: Console, engine: Engine, encrypt: Callable[[], None]) -> None:
    """Add a trigger that copies every token, and show what the plan and the migration say about it."""
    _run(engine, "CREATE TABLE audit (token text)", *_AUDIT[engine.dialect.name])
    found = plan(engine, MODELS)
    print_plan(console, found, list(steps(found, command_options="", prefix="INTEGRATION_TOKEN_ENCRYPTION")), [])
    with _refused(console, "alembic upgrade head, while an audit trigger copies every token", SealchemyError):
        encrypt()
    _run(engine, *_WITHOUT_AUDIT[engine.dialect.name], "DROP TABLE audit")


def _run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def show_moved_values(console: Console, engine: Engine) -> None:
    """Paste a value into another column and into another row, as someone without a key can."""
    other_column = "UPDATE integrations SET access_token = refresh_token WHERE id = 1"
    other_row = (
        "UPDATE integrations SET access_token = (SELECT access_token FROM integrations WHERE id = 2) WHERE id = 1"
    )
    for title, change in (
        ("a refresh token pasted into access_token", other_column),
        ("the token of another user pasted into this row", other_row),
    ):
        with engine.connect() as connection:
            connection.execute(text(change))
            with _refused(console, title, DecryptionError):
                connection.scalar(select(Integration.access_token).where(Integration.id == 1))
            connection.rollback()


def show_plaintext_insert(console: Console, engine: Engine) -> None:
    """Insert plaintext past the application."""
    statement = text(
        "INSERT INTO integrations (user_id, provider, access_token) VALUES ('user-x', 'google', 'ya29.plaintext')"
    )
    with (
        engine.connect() as connection,
        _refused(console, "INSERT of a plaintext token, bypassing the application", IntegrityError),
    ):
        connection.execute(statement)


@contextmanager
def _refused(console: Console, title: str, error_class: type[Exception]) -> Iterator[None]:
    """Show the error that what is inside has to raise."""
    try:
        yield
    except error_class as error:
        shown = error.orig if isinstance(error, IntegrityError) else f"{type(error).__name__}: {error}"
        console.print(Panel(str(shown), title=title))
    else:
        raise RuntimeError(f"{title}: this was not refused")
