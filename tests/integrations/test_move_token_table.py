"""The guide from an application's own table of tokens to the integration functions, followed on a table in use."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sealchemy import Key, KeyRing, Rollout, attach_key_ring
from sealchemy.integrations import TokenGrant, disconnect_integration, get_valid_token, upsert_integration
from tests.support.alembic import Application

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.support.provider import Provider

PAGE = (Path(__file__).parents[2] / "docs/how-to/move-a-token-table.md").read_text()
MODEL, *REVISIONS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TABLE = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0]


def write_revisions(project: Application) -> None:
    """Write the revisions of the guide, each with the lines of the earlier ones that it needs."""
    names = "import sqlalchemy as sa\nfrom alembic import op\n" + REVISIONS[2].split("\n\n")[0]
    for number, revision in enumerate(REVISIONS, 1):
        heading = f'revision = "{number}"\ndown_revision = {str(number - 1) if number > 1 else None!r}\n'
        (project.folder / "versions" / f"{number}.py").write_text(f"{names}\n{heading}\n{revision}")


def read_model() -> Any:
    namespace: dict[str, Any] = {"__name__": "models"}
    exec(compile(MODEL, "models.py", "exec", dont_inherit=True), namespace)  # noqa: S102 - code from this documentation
    return namespace["UserToken"]


class OldBase(DeclarativeBase):
    pass


class OldToken(OldBase):
    """The model of the old release, whose times have no zone."""

    __tablename__ = "user_tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    expires: Mapped[datetime]


INSERT = "INSERT INTO user_tokens (user_id, service, token, refresh_token, expires) VALUES"


def make_old_table(engine: Engine, access_token: str, refresh_token: str | None) -> None:
    """Make the table of the guide with an expired token of user 1, and a valid one of user 2."""
    valid = (datetime.now(UTC) + timedelta(hours=2)).replace(tzinfo=None).isoformat(" ")
    on_sqlite = TABLE.replace("SERIAL", "INTEGER NOT NULL").replace("TIMESTAMP", "DATETIME")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY)"))
        connection.execute(text(on_sqlite if engine.dialect.name == "sqlite" else TABLE))
        connection.execute(text("INSERT INTO users VALUES (1), (2), (3)"))
        values = {"t": access_token, "r": refresh_token}
        connection.execute(text(f"{INSERT} (1, 'google', :t, :r, '2020-01-01 00:00:00.000000')"), values)
        connection.execute(text(f"{INSERT} (2, 'google', 'SENTINEL-2', NULL, '{valid}')"))


def test_a_table_in_use_becomes_one_that_the_functions_keep(
    database_url: str, tmp_path: Path, oauth_provider: Provider
) -> None:
    model, ring, token = read_model(), KeyRing(primary=Key.generate()), oauth_provider.grant()
    old_release, engine = create_engine(database_url), create_engine(database_url)
    make_old_table(old_release, token.access_token, token.refresh_token)

    def old(user: int) -> Any:
        with old_release.connect() as connection:
            query = text("SELECT token, refresh_token FROM user_tokens WHERE user_id = :u")
            return connection.execute(query, {"u": user}).one()

    def has_expired(user: int) -> bool:
        with Session(old_release) as session:
            expires = session.scalars(select(OldToken.expires).where(OldToken.user_id == user)).one()
            return expires < datetime.now(UTC).replace(tzinfo=None)

    sessions = sessionmaker(engine)
    common = {"provider": "google", "client": oauth_provider.client(), "model": model}
    attach_key_ring(engine, ring, rollout=Rollout.PREPARE)
    project = Application(tmp_path, engine, model.metadata)
    write_revisions(project)

    project.upgrade("2")
    assert has_expired(1)
    refreshed = get_valid_token(sessions, user_id=1, **common)
    assert not has_expired(1)
    assert oauth_provider.counts["/token"] == 1
    assert old(1)[0] == refreshed != token.access_token
    assert get_valid_token(sessions, user_id=2, **common) == "SENTINEL-2"
    with old_release.begin() as connection:  # connects a user, as it always did
        connection.execute(text(f"{INSERT} (3, 'google', 'SENTINEL-3', NULL, NULL)"))
    assert get_valid_token(sessions, user_id=3, **common) == "SENTINEL-3"

    attach_key_ring(engine, ring, rollout=Rollout.MIGRATE)
    project.upgrade("3")
    attach_key_ring(engine, ring, rollout=Rollout.STRICT)
    project.upgrade("4")
    assert project.is_clean()
    assert all(value is None or value.startswith("sealchemy:v1:") for user in (1, 2, 3) for value in old(user))
    with old_release.connect() as connection, pytest.raises(IntegrityError):
        connection.execute(text("UPDATE user_tokens SET token = 'plaintext'"))

    assert get_valid_token(sessions, user_id=1, **common) == refreshed
    again = get_valid_token(sessions, user_id=1, **common, rejected=refreshed)
    assert oauth_provider.counts["/token"] == 2
    for _ in range(2):
        with sessions.begin() as session:
            made = upsert_integration(
                session, user_id=3, provider="google", grant=TokenGrant(access_token="SENTINEL-new"), model=model
            )
            assert made.provider == "google"
    assert get_valid_token(sessions, user_id=3, **common) == "SENTINEL-new"
    assert get_valid_token(sessions, user_id=1, **common) == again
    disconnect_integration(sessions, user_id=1, **common)
    with old_release.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM user_tokens")) == 2
    engine.dispose()
    old_release.dispose()
