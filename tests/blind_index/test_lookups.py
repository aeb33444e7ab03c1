"""Rows are found by the value of an encrypted column that has a blind index, and nothing else is answered."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    Engine,
    MetaData,
    String,
    Text,
    bindparam,
    case,
    cast,
    create_engine,
    delete,
    func,
    insert,
    lambda_stmt,
    literal,
    not_,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, with_loader_criteria
from sqlalchemy.types import TypeDecorator

from sealchemy import (
    BlindIndex,
    EncryptedString,
    Key,
    KeyRing,
    KeyRingNotAttachedError,
    MissingKeyError,
    PlaintextTypeError,
    Rollout,
    RowValue,
    SecretString,
    UnsupportedOperationError,
    attach_key_ring,
    matches,
    normalize_email,
)
from tests.support.blind_index import digest_of
from tests.support.leaks import SENTINEL, assert_silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INDEX_KEY = Key.generate()
RING = KeyRing(primary=Key.generate(), index_key=INDEX_KEY)


class Upper(TypeDecorator[str]):
    """A user's type over ours, which converts values both ways."""

    impl = EncryptedString
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else f"<{value}>"

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value[1:-1]


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(40), default="o")
    token: Mapped[str | None] = mapped_column(EncryptedString("accounts.token"))
    token_index: Mapped[str | None] = mapped_column(BlindIndex("accounts.token"), unique=True)
    email: Mapped[str | None] = mapped_column(EncryptedString("accounts.email"))
    email_index: Mapped[str | None] = mapped_column(BlindIndex("accounts.email", normalize_email), index=True)
    wrapped: Mapped[str | None] = mapped_column(Upper("accounts.wrapped"))
    wrapped_index: Mapped[str | None] = mapped_column("w_index", BlindIndex("accounts.wrapped"))
    bound: Mapped[str | None] = mapped_column(EncryptedString("accounts.bound", bind_to=("owner",)))
    bound_index: Mapped[str | None] = mapped_column(BlindIndex("accounts.bound"))


@pytest.fixture(scope="module")
def engine(module_database_url: str) -> Iterator[Engine]:
    engine = attach_key_ring(create_engine(module_database_url), RING)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.add_all(
                [
                    Account(id=1, token="alpha", email="Ann@Example.org", wrapped="w1", bound="b1"),
                    Account(id=2, token="beta", email="bob@example.org", wrapped="w2", bound="b2", owner="p"),
                    Account(id=3),
                ]
            )
            session.flush()
            yield session
        transaction.rollback()


A = Account
FOUND: dict[str, tuple[Callable[[], Any], list[int]]] = {
    "==": (lambda: A.token == "alpha", [1]),
    "== SecretString": (lambda: A.token == SecretString("alpha"), [1]),
    "== another": (lambda: A.token == "Alpha", []),
    "index ==": (lambda: A.token_index == "beta", [2]),
    "!=": (lambda: A.token != "alpha", [2]),
    "not ==": (lambda: not_(A.token == "alpha"), [2]),
    "in_": (lambda: A.token.in_(["alpha", "beta", "gamma"]), [1, 2]),
    "index in_": (lambda: A.token_index.in_(("beta",)), [2]),
    "in_ of a set": (lambda: A.token.in_({"alpha"}), [1]),
    "in_ of nothing": (lambda: A.token.in_([]), []),
    "not_in": (lambda: A.token.not_in(["alpha"]), [2]),
    "is NULL": (lambda: A.token == None, [3]),  # noqa: E711
    "index is NULL": (lambda: A.token_index.is_(None), [3]),
    "index is not NULL": (lambda: A.token_index.is_not(None), [1, 2]),
    "normalized": (lambda: A.email == " ann@EXAMPLE.ORG ", [1]),
    "of a wrapped type": (lambda: A.wrapped == "w2", [2]),
    "in_ of a wrapped type": (lambda: A.wrapped.in_(["w1", "w2"]), [1, 2]),
    "of a bound value": (lambda: A.bound == "b2", [2]),
    "or": (lambda: (A.token == "alpha") | (A.id == 2), [1, 2]),
    "of a column of the table": (lambda: Account.__table__.c.token == "beta", [2]),
    "in a subquery": (lambda: A.id.in_(select(A.id).where(A.token == "beta")), [2]),
    "of an alias": (lambda: A.id.in_(select((b := aliased(A)).id).where(b.token == "beta")), [2]),
    "of a subquery": (
        lambda: A.id.in_(
            select((s := select(A.id, A.token, A.token_index).subquery()).c.id).where(s.c.token == "beta")
        ),
        [2],
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_rows_are_found(session: Session, name: str) -> None:
    condition, expected = FOUND[name]
    for _ in range(2):  # the second time from SQLAlchemy's cache
        assert session.scalars(select(A.id).where(condition()).order_by(A.id)).all() == expected
        assert session.query(A.id).filter(condition()).count() == len(expected)
    assert sorted(item.id for item in session.scalars(select(A).where(condition()))) == expected


def test_more_ways_to_ask(session: Session) -> None:
    assert session.scalars(select(A).filter_by(token="alpha")).one().id == 1
    assert session.query(A).filter_by(token_index="beta").one().id == 2
    statement = select(A.id).where(A.token == bindparam("presented"))
    assert session.scalars(statement, {"presented": "alpha"}).all() == [1]
    assert session.scalars(statement, {"presented": "beta"}).all() == [2]
    many = select(A.id).where(A.token.in_(bindparam("many", expanding=True)))
    assert session.scalars(many, {"many": ["beta", "x"]}).all() == [2]

    def by_lambda(presented: str) -> list[int]:
        return list(session.scalars(lambda_stmt(lambda: select(A.id).where(A.token == presented))))

    assert [by_lambda("alpha"), by_lambda("beta"), by_lambda("x")] == [[1], [2], []]
    only = with_loader_criteria(A, A.token == "beta")
    assert session.scalars(select(A.id).options(only)).all() == [2]


REFUSED: dict[str, Callable[[], Any]] = {
    "<": lambda: A.token_index < SENTINEL,
    "like": lambda: A.token_index.like(SENTINEL),
    "startswith": lambda: A.token_index.startswith(SENTINEL),
    "+": lambda: A.token_index + SENTINEL,
    "between": lambda: A.token_index.between(SENTINEL, SENTINEL),
    "secret like": lambda: A.token.like(SENTINEL),
    "secret <": lambda: A.token < SENTINEL,
    "literal": lambda: A.token_index == literal(SENTINEL),
    "typed literal": lambda: A.token == literal(SENTINEL, EncryptedString("accounts.token")),
    "typed bindparam": lambda: A.token_index == bindparam("x", SENTINEL, type_=Text()),
    "function": lambda: A.token_index == func.lower(SENTINEL),
    "another column": lambda: A.token_index == A.owner,
    "another row's index": lambda: A.token_index == aliased(A).token_index,
    "a function of a digest": lambda: func.length(A.token_index) == 41,
    "a cast of a digest": lambda: cast(A.token_index, String) == SENTINEL,
    "case of a digest": lambda: case({SENTINEL: 1}, value=A.token_index, else_=0) == 1,
    "the index of another context": lambda: A.token_index == A.email_index,
    "in_ of a subquery": lambda: A.token_index.in_(select(A.owner)),
    "in_ of an expression": lambda: A.token.in_([func.lower(SENTINEL)]),
    "any": lambda: A.token_index.op("~~")(SENTINEL),
    "reversed": lambda: literal(SENTINEL) == A.token,
    "secret without its index": lambda: select(A.token).subquery().c.token == SENTINEL,
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_else_is_answered(session: Session, name: str) -> None:
    with pytest.raises(UnsupportedOperationError) as caught:
        session.scalars(select(A.id).where(REFUSED[name]())).all()
    assert_silent(caught.value)


@pytest.mark.parametrize("value", [5, b"x", 1.5, ["a"], {"a": 1}, object()])
def test_a_value_that_is_no_text_is_refused(session: Session, value: Any) -> None:
    with pytest.raises(PlaintextTypeError, match="takes str"):
        session.scalars(select(A.id).where(A.token == value)).all()


STRANGE = ["", "\ud800", "\0", "sealchemy:v1:x", "sealchemy:", "sealchemy-index:v1:x", "x" * 100_000]


@pytest.mark.parametrize("presented", STRANGE)
def test_whatever_a_stranger_presents_is_not_found(session: Session, presented: str) -> None:
    """An error would be a response of status 500 that anyone can cause."""
    assert session.scalars(select(A.id).where(A.token == presented)).all() == []
    assert session.scalars(select(A.id).where(A.email.in_([presented]))).all() == []


def test_a_digest_finds_nothing(session: Session) -> None:
    """Whoever has read the database must not be able to present what is there."""
    digest = session.get_one(A, 1).token_index
    for condition in (A.token == digest, A.token_index == digest, A.token.in_([digest])):
        assert session.scalars(select(A.id).where(condition)).all() == []


def test_objects_have_the_digest_of_their_secret(session: Session) -> None:
    account = session.get_one(A, 1)
    digest = digest_of(INDEX_KEY, "accounts.token", "alpha")
    assert account.token_index == digest
    assert session.get_one(A, 3).token_index is None
    account.token = "changed"
    session.flush()
    assert account.token_index == digest_of(INDEX_KEY, "accounts.token", "changed")
    assert account.email_index == digest_of(INDEX_KEY, "accounts.email", "ann@example.org")
    assert account.wrapped_index == digest_of(INDEX_KEY, "accounts.wrapped", "<w1>")
    account.owner = "q"  # the bound value goes with the row, and its digest stays
    session.flush()
    assert account.bound_index == digest_of(INDEX_KEY, "accounts.bound", "b1")
    stored = dict(session.execute(select(A.id, A.token_index)).all())
    assert stored[1] == account.token_index
    session.execute(update(A).where(A.id == 1).values(bound=RowValue("b9", owner="q")))
    session.refresh(account)
    assert account.bound_index == digest_of(INDEX_KEY, "accounts.bound", "b9")
    account.token = None
    session.flush()
    assert account.token_index is None


@pytest.mark.parametrize("synchronize", ["auto", "fetch", "evaluate", False])
def test_updates_of_many_leave_no_stale_digest(session: Session, synchronize: Any) -> None:
    account = session.get_one(A, 1)
    assert account.token_index is not None
    session.execute(update(A).where(A.id == 1).values(token="new").execution_options(synchronize_session=synchronize))
    if synchronize is False:
        session.expire_all()
    assert account.token_index == digest_of(INDEX_KEY, "accounts.token", "new")
    if synchronize != "evaluate":
        session.execute(delete(A).where(A.token == "new").execution_options(synchronize_session=synchronize))
        assert sorted(session.scalars(select(A.id))) == [2, 3]


def test_unique_secrets(session: Session) -> None:
    with pytest.raises(IntegrityError) as caught, session.begin_nested():
        session.execute(insert(A), {"id": 4, "token": "alpha"})
    assert "alpha" not in str(caught.value)
    assert session.scalars(select(A.id).where(A.token == "alpha")).all() == [1]


def test_an_index_is_not_assigned(session: Session) -> None:
    for assign in (
        lambda: Account(token_index=SENTINEL),
        lambda: setattr(session.get_one(A, 1), "token_index", SENTINEL),
    ):
        with pytest.raises(UnsupportedOperationError) as caught:
            assign()
        assert_silent(caught.value)


def test_merging_a_detached_object(session: Session) -> None:
    account = session.get_one(A, 1)
    session.expunge(account)
    account.token = "merged"
    merged = session.merge(account)
    session.flush()
    assert merged.token_index == digest_of(INDEX_KEY, "accounts.token", "merged")
    session.execute(delete(A).where(A.id == 2))
    again = session.merge(Account(id=9, token="merged too"))
    session.flush()
    assert again.token_index == digest_of(INDEX_KEY, "accounts.token", "merged too")


def test_a_digest_that_was_copied_finds_a_candidate_that_does_not_match(session: Session) -> None:
    session.execute(text("UPDATE accounts SET token_index = NULL WHERE id = 1"))
    stolen = digest_of(INDEX_KEY, "accounts.token", "alpha")
    session.execute(text("UPDATE accounts SET token_index = :digest WHERE id = 2"), {"digest": stolen})
    session.expire_all()
    row = session.scalars(select(A).filter_by(token="alpha")).one()
    assert row.id == 2
    assert not matches(row.token, "alpha")


STAGES = [stage for stage in Rollout if stage is not Rollout.STRICT]


@pytest.mark.parametrize("stage", STAGES)
def test_lookups_wait_for_stage_strict(engine: Engine, session: Session, stage: Rollout) -> None:
    statement = select(A.id).where(A.token == SENTINEL)
    assert session.scalars(statement).all() == []
    attach_key_ring(engine, RING, rollout=stage)
    try:
        for condition in (A.token == SENTINEL, A.token_index == SENTINEL, A.token.in_([SENTINEL]), A.token != SENTINEL):
            with pytest.raises(UnsupportedOperationError, match=f"rollout stage is {stage}") as caught:
                session.scalars(select(A.id).where(condition)).all()
            assert_silent(caught.value)
        session.execute(insert(A), {"id": 5, "token": "written"})  # writes fill the index in every stage
        stored = session.scalar(select(A.token_index).where(A.id == 5))
        assert stored == digest_of(INDEX_KEY, "accounts.token", "written")
    finally:
        attach_key_ring(engine, RING)
    assert session.scalars(statement).all() == []


def test_an_engine_without_an_index_key_refuses(session: Session, request: pytest.FixtureRequest) -> None:
    bare = create_engine("sqlite://")
    request.addfinalizer(bare.dispose)
    Base.metadata.create_all(bare)
    with bare.connect() as connection, pytest.raises(KeyRingNotAttachedError):
        connection.execute(insert(A), {"token": SENTINEL})
    attach_key_ring(bare, KeyRing(primary=Key.generate()))
    with bare.connect() as connection:
        for statement in (insert(A).values(token=SENTINEL), select(A.id).where(A.token == SENTINEL)):
            with pytest.raises(MissingKeyError, match="_INDEX_KEY") as caught:
                connection.execute(statement)
            assert_silent(caught.value)
        connection.execute(insert(A), {"owner": "x"})
    attach_key_ring(bare, RING)  # for statements that are compiled already
    with bare.begin() as connection:
        connection.execute(insert(A), {"token": "t"})
        assert connection.scalars(select(A.id).where(A.token == "t")).all() == [1]
    attach_key_ring(bare, KeyRing(primary=Key.generate(), index_key=Key.generate()))
    with bare.connect() as connection:
        assert connection.scalars(select(A.id).where(A.token == "t")).all() == []


def test_logs_and_errors_show_no_presented_value(
    engine: Engine, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.echo = "debug"
    try:
        with caplog.at_level(logging.DEBUG), engine.connect() as connection, Session(connection) as other:
            condition = A.token == SENTINEL
            assert other.scalars(select(A).where(condition)).all() == []
            other.add(Account(id=77, token=SENTINEL, email=SENTINEL, wrapped=SENTINEL, bound=SENTINEL))
            other.flush()
            assert other.scalars(select(A).where(A.token.in_([SENTINEL]))).one().id == 77
            other.execute(update(A).values(email=SENTINEL))
            other.rollback()
    finally:
        engine.echo = False
    printed = caplog.text + "".join(capsys.readouterr()) + str(condition) + repr(condition)
    assert "SELECT" in printed
    assert SENTINEL not in printed
    assert all(SENTINEL not in repr(record.__dict__) for record in caplog.records)


def test_no_frame_of_an_error_shows_a_presented_value(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine("sqlite://", RING)  # without a table
    with engine.connect() as connection, pytest.raises(Exception, match="no such table") as caught:
        connection.execute(select(A.id).where(A.token == SENTINEL))
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in shown.stack if "sealchemy" in frame.filename]
    assert SENTINEL not in repr([frame.locals for frame in ours])
    assert SENTINEL not in str(caught.value)


async def _async_flow(url: str) -> None:
    engine = attach_key_ring(create_async_engine(url), RING)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        account = Account(token="async")
        session.add(account)
        await session.commit()
        assert account.token_index == digest_of(INDEX_KEY, "accounts.token", "async")
        account.token = "again"
        await session.commit()
        assert account.token_index == digest_of(INDEX_KEY, "accounts.token", "again")
        found = await session.scalars(select(Account).filter_by(token="again"))
        assert found.one() is account
        await session.execute(insert(Account), [{"token": "c1"}, {"token": "c2"}])
        await session.execute(update(Account).where(Account.token == "c1").values(token="c3"))
        assert len((await session.scalars(select(Account).where(Account.token.in_(["c2", "c3"])))).all()) == 2
        await session.rollback()
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
    await engine.dispose()


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg"])
def test_async_engines(driver: str, request: pytest.FixtureRequest) -> None:
    url = "sqlite+aiosqlite://"
    if not driver.startswith("sqlite"):
        url = request.getfixturevalue("postgresql_database").replace("postgresql+psycopg", driver)
    asyncio.run(_async_flow(url))


def test_metadata_can_be_copied(make_engine: Callable[..., Engine]) -> None:
    copied = Account.__table__.to_metadata(MetaData())
    engine = make_engine("sqlite://", RING)
    copied.create(engine)
    with engine.begin() as connection:
        connection.execute(insert(copied), {"owner": "o", "token": "t"})
        assert connection.scalars(select(copied.c.id).where(copied.c.token == "t")).all() == [1]
