"""`sealchemy integrations retry`: have providers asked again that said that a grant is dead, or failed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, column, false, inspect, or_, table, update

from sealchemy import ColumnDefinitionError

from .failures import Failures

_CLEARED: dict[str, Any] = Failures()._asdict()
_NEEDED = {"provider", "reauthorization_required", *_CLEARED}


def retry(engine: Engine, name: str = "integrations", *, provider: str | None = None, code: str | None = None) -> int:
    """Clear the marks and the pauses of integrations, in one transaction; the tokens are neither read nor changed.

    Args:
        engine: of the database; it needs no keys.
        name: of the table.
        provider: only those with this provider.
        code: only those whose `last_error` is this.

    Returns:
        the number of integrations that are asked again.

    Raises:
        ColumnDefinitionError: the table does not exist, or lacks the columns that revision 0007 adds.
    """
    names = {item["name"] for item in inspect(engine).get_columns(name)} if inspect(engine).has_table(name) else set()
    if missing := _NEEDED - names:
        raise ColumnDefinitionError(
            f"table {name} has no column {', '.join(sorted(missing))}; run `alembic upgrade head`, or name the table"
        )
    t = table(name, *map(column, _NEEDED))
    where = [or_(t.c.reauthorization_required, t.c.failures > 0, t.c.next_attempt_at.is_not(None))]
    where += [t.c.provider == provider] if provider is not None else []
    where += [t.c.last_error == code] if code is not None else []
    with engine.begin() as connection:
        done = connection.execute(update(t).where(*where).values(reauthorization_required=false(), **_CLEARED))
    return done.rowcount
