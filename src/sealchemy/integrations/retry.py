"""`sealchemy integrations retry`: have providers asked again that said that a grant is dead, or failed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, column, false, inspect, or_, table, update

from sealchemy import ColumnDefinitionError

from .failures import Failures

_CLEARED: dict[str, Any] = Failures()._asdict()


def retry(engine: Engine, name: str = "integrations", *, provider: str | None = None, code: str | None = None) -> int:
    """Clear the marks and the pauses of integrations, in one transaction; the tokens are neither read nor changed.

    Args:
        engine: of the database; it needs no keys.
        name: of the table, with its schema if that is not the default one: `app.integrations`.
        provider: only those with this provider.
        code: only those whose `last_error` is this.

    Returns:
        the number of integrations that are asked again.

    Raises:
        ColumnDefinitionError: the table does not exist, or lacks one of these columns.
    """
    schema, _, bare = name.rpartition(".")
    inspector = inspect(engine)
    if not inspector.has_table(bare, schema=schema or None):
        raise ColumnDefinitionError(f"table {name} has no columns, since it does not exist; name an existing one")
    needed = {"reauthorization_required", *_CLEARED, *(["provider"] if provider is not None else [])}
    if missing := needed - {item["name"] for item in inspector.get_columns(bare, schema=schema or None)}:
        raise ColumnDefinitionError(
            f"table {name} has no column {', '.join(sorted(missing))}; run `alembic upgrade head` if it is the"
            " ready-made table, and leave out the provider if the column has another name"
        )
    t = table(bare, *map(column, needed), schema=schema or None)
    where = [or_(t.c.reauthorization_required, t.c.failures > 0, t.c.next_attempt_at.is_not(None))]
    where += [t.c.provider == provider] if provider is not None else []
    where += [t.c.last_error == code] if code is not None else []
    with engine.begin() as connection:
        done = connection.execute(update(t).where(*where).values(reauthorization_required=false(), **_CLEARED))
    return done.rowcount
