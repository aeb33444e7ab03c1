"""The rows of the demonstration: made-up tokens of every kind, and where they are in the database's files."""

from __future__ import annotations

import base64
import json
import random
import secrets
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

ROWS = 400
SHOWN = (1, 2, 3, 5, 33, 40)
"""One token of each kind."""

Tokens = dict[int, tuple[str, str | None]]
"""The two tokens of each integration, by its id."""


def insert_plaintext(engine: Engine) -> Tokens:
    """Insert integrations as an application without encryption does."""
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


def count_on_disk(engine: Engine, path: Path | None, tokens: Tokens) -> str:
    """Search the files of the table for the plaintext of the tokens, and say what was found.

    Args:
        engine: of the database.
        path: its file; on PostgreSQL, the server reads those of the table.
        tokens: to look for.
    """
    content = path.read_bytes() if path else _postgresql_file(engine)
    if content is None:
        return "Only a superuser can read PostgreSQL's files, so they were not searched."
    known = [token.encode() for pair in tokens.values() for token in pair if token]
    found = sum(any(part in content for part in _parts(token)) for token in known)
    return f"{found} of {len(known)} plaintext tokens found in the {len(content):,} bytes of the table's files."


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
