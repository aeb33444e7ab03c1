"""The `Integration` model loads tokens only on access."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import DeclarativeBase, Session, undefer_group

from sealchemy import EncryptedString
from sealchemy.integrations.models import Base, Integration, IntegrationMixin
from tests.support.leaks import SENTINEL

if TYPE_CHECKING:
    from sqlalchemy import Engine


@pytest.fixture
def integrations(engine: Engine) -> Engine:
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Integration(user_id="u1", provider="google", access_token=SENTINEL, refresh_token=SENTINEL))
        session.add(Integration(user_id="u2", provider="google", access_token=SENTINEL))
        session.commit()
    return engine


def test_listing_neither_fetches_nor_decrypts_tokens(integrations: Engine) -> None:
    with integrations.begin() as connection:
        connection.execute(text("UPDATE integrations SET access_token = 'sealchemy:damaged'"))
    statements: list[str] = []
    event.listen(integrations, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    with Session(integrations) as session:
        listed = session.scalars(select(Integration).order_by(Integration.id)).all()
        assert [(item.has_access_token, item.has_refresh_token) for item in listed] == [(True, True), (True, False)]
        assert "user_id='u1'" in repr(listed[0])
    assert len(statements) == 1
    assert "integrations.access_token," not in statements[0].replace("IS NOT NULL", "")


def test_tokens_are_loaded_together_on_access(integrations: Engine) -> None:
    statements: list[str] = []
    with Session(integrations) as session:
        item = session.scalars(select(Integration).where(Integration.user_id == "u1")).one()
        event.listen(integrations, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
        assert (item.access_token, item.refresh_token) == (SENTINEL, SENTINEL)
        assert len(statements) == 1
        query = select(Integration).options(undefer_group("tokens")).where(Integration.user_id == "u2")
        assert session.scalars(query).one().access_token == SENTINEL


def test_repr_runs_no_query_and_shows_no_token(integrations: Engine) -> None:
    with Session(integrations) as session:
        item = session.scalars(select(Integration).options(undefer_group("tokens"))).first()
        assert item is not None
        assert "SENTINEL" not in repr(item)
        session.expire(item)
        session.connection().close()
        assert repr(item) == "Integration(id=None, user_id=None, provider=None)"


def test_user_and_provider_are_unique_together(integrations: Engine) -> None:
    with Session(integrations) as session, pytest.raises(IntegrityError):
        session.add(Integration(user_id="u1", provider="google"))
        session.flush()


def test_times_are_utc_and_naive_times_are_refused(integrations: Engine) -> None:
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    with Session(integrations) as session:
        session.add(Integration(user_id="u3", provider="google", expires_at=moment))
        session.commit()
        loaded = session.scalars(select(Integration).where(Integration.user_id == "u3")).one()
        assert loaded.expires_at == moment
        assert loaded.expires_at.tzinfo is UTC
        assert abs(datetime.now(UTC) - loaded.created_at) < timedelta(minutes=5)
        loaded.expires_at = datetime(2030, 1, 2)  # noqa: DTZ001 - refused below
        with pytest.raises(StatementError, match="time zone"):
            session.flush()


def test_mixin_works_with_another_base(engine: Engine) -> None:
    class OtherBase(DeclarativeBase):
        pass

    class Connection(IntegrationMixin, OtherBase):
        __tablename__ = "connections"

    OtherBase.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Connection(user_id="u", provider="p", access_token=SENTINEL))
        session.commit()
        item = session.scalars(select(Connection)).one()
        assert (item.has_access_token, item.has_refresh_token, item.access_token) == (True, False, SENTINEL)
    assert isinstance(Connection.__table__.c.access_token.type, EncryptedString)
