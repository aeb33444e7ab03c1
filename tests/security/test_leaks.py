"""A planted token never shows in the errors, logs or reprs of SQLAlchemy or a driver."""

from __future__ import annotations

import asyncio
import logging
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Integer, create_engine, event, insert, inspect, literal, make_url, select, text, types, update
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlalchemy.schema import CreateTable

from sealchemy import (
    EncryptedString,
    Key,
    KeyRing,
    KeyRingNotAttachedError,
    PlaintextTypeError,
    Rollout,
    SealchemyError,
    UnsupportedOperationError,
    attach_key_ring,
    errors,
)
from tests.support.leaks import SENTINEL, assert_silent, shown_by
from tests.support.models import Account, create

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine


@pytest.fixture
def accounts(engine: Engine) -> Engine:
    return create(engine)


class Failing(types.TypeDecorator[int]):
    """The type of another column, whose bind fails."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: object, dialect: object) -> int:
        return int(value)  # type: ignore[call-overload,no-any-return]


def orm_with_failing_column() -> type[Any]:
    class Base(DeclarativeBase):
        pass

    class Model(Base):
        __tablename__ = "failing"
        id: Mapped[int] = mapped_column(primary_key=True)
        token: Mapped[str] = mapped_column(EncryptedString("failing.token"))
        number: Mapped[int | None] = mapped_column(Failing)

    return Model


def test_failed_bind_of_another_column_hides_the_token(engine: Engine) -> None:
    model = orm_with_failing_column()
    model.metadata.create_all(engine)
    with engine.connect() as connection, pytest.raises(StatementError) as caught:
        connection.execute(insert(model), {"token": SENTINEL, "number": "no number"})
    assert_silent(caught.value)
    assert "INSERT INTO failing" in str(caught.value)
    with Session(engine) as session, pytest.raises(StatementError) as caught:
        session.add(model(token=SENTINEL, number="no number"))
        session.flush()
    assert_silent(caught.value, package=None)


def test_missing_executemany_parameter_hides_the_token(accounts: Engine) -> None:
    with accounts.connect() as connection, pytest.raises(StatementError) as caught:
        connection.execute(insert(Account), [{"token": SENTINEL, "name": "a"}, {"token": SENTINEL}])
    assert_silent(caught.value)


def test_integrity_error_hides_the_token(accounts: Engine) -> None:
    rows = [{"token": SENTINEL, "name": "same"}, {"token": SENTINEL, "name": "same"}]
    with accounts.connect() as connection, pytest.raises(IntegrityError) as caught:
        connection.execute(insert(Account), rows)
    assert_silent(caught.value)
    assert caught.value.params is None


def test_failed_bind_of_the_encrypted_column_hides_the_token(accounts: Engine) -> None:
    with Session(accounts) as session:
        session.add(Account(token=f"{SENTINEL}\udfff"))
        with pytest.raises(PlaintextTypeError) as caught:
            session.flush()
    assert_silent(caught.value, package=None)


def test_parameters_are_removed_from_every_error(accounts: Engine) -> None:
    with accounts.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text("INSERT INTO no_such_table VALUES (:token)"), {"token": SENTINEL})
    assert_silent(caught.value)
    assert "no_such_table" in str(caught.value)


def test_row_reported_by_postgresql_is_hidden(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = create(make_engine(postgresql_url))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE accounts ADD CHECK (name <> 'bad')"))
    with engine.connect() as connection, pytest.raises(IntegrityError) as caught:
        connection.execute(text(f"INSERT INTO accounts (name, token) VALUES ('bad', '{SENTINEL}')"))
    assert "accounts_name_check" in str(caught.value)
    shown = str(caught.value.orig) + repr(caught.value.orig.args) + str(caught.value).split("[SQL")[0]  # type: ignore[union-attr]
    assert "SENTINEL" not in shown
    with engine.connect() as connection, pytest.raises(IntegrityError) as caught:
        connection.execute(text("INSERT INTO accounts (id, name) VALUES (1, :name)"), {"name": SENTINEL})
    assert "SENTINEL" not in str(caught.value) + repr(caught.value.orig.args)  # type: ignore[union-attr]


def test_error_details_of_postgresql_are_hidden(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = create(make_engine(postgresql_url, rollout=Rollout.PREPARE))
    with engine.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX ON accounts (token)"))
        connection.execute(text("ALTER TABLE accounts ADD CHECK (name <> 'bad')"))
    with engine.connect() as connection:
        connection.execute(text("SET log_parameter_max_length_on_error = -1"))
        connection.commit()
        for rows in ([{"token": SENTINEL}] * 2, [{"token": SENTINEL, "name": "bad"}]):
            with pytest.raises(IntegrityError, match="violates") as caught:
                connection.execute(insert(Account), rows)
            connection.rollback()
            original = caught.value.orig
            assert "SENTINEL" not in str(caught.value) + repr(caught.value.args) + str(original) + repr(original)


def test_error_details_of_asyncpg_are_hidden(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    with create(make_engine(postgresql_url)).begin() as connection:
        connection.execute(text("ALTER TABLE accounts ADD CHECK (name <> 'bad')"))
        schema = connection.scalar(text("SELECT current_schema()"))

    async def fail() -> None:
        url = make_url(postgresql_url).set(drivername="postgresql+asyncpg", query={})
        engine = create_async_engine(url, connect_args={"server_settings": {"search_path": schema}})
        attach_key_ring(engine, KeyRing(primary=Key.generate()), rollout=Rollout.PREPARE)
        try:
            async with engine.begin() as connection:
                await connection.execute(insert(Account), {"token": SENTINEL, "name": "bad"})
        finally:
            await engine.dispose()

    with pytest.raises(IntegrityError, match="accounts_name_check") as caught:
        asyncio.run(fail())
    assert_silent(caught.value)


def test_errors_of_every_engine_hide_the_token(make_engine: Callable[..., Engine]) -> None:
    kept = []
    for _ in range(60):
        engine = create_engine("sqlite://")
        attach_key_ring(engine, KeyRing(primary=Key.generate()))
        with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
            connection.execute(text("SELECT :token FROM nowhere"), {"token": SENTINEL})
        assert "SENTINEL" not in str(caught.value)
        kept.append(engine.dialect)  # a dialect that outlived its engine once disabled the listener of the next engine
        engine.dispose()
        del engine, connection, caught


@pytest.mark.parametrize("stage", [Rollout.PREPARE, Rollout.STRICT])
@pytest.mark.parametrize("hide", [False, True])
def test_debug_echo_hides_the_token(
    database_url: str,
    make_engine: Callable[..., Engine],
    caplog: pytest.LogCaptureFixture,
    hide: bool,
    stage: Rollout,
) -> None:
    engine = create(make_engine(database_url, echo="debug", hide_parameters=hide, rollout=stage))
    with Session(engine) as session:
        session.add_all([Account(token=SENTINEL, name="a"), Account(token=SENTINEL, refresh=SENTINEL)])
        session.commit()
        assert {account.token for account in session.scalars(select(Account))} == {SENTINEL}
        session.execute(update(Account).values(token=SENTINEL))
        session.execute(insert(Account).returning(Account.token), [{"token": SENTINEL}] * 3).all()
        session.commit()
    logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)
    assert "INSERT INTO accounts" in caplog.text
    assert "Row (" in caplog.text
    assert "SENTINEL" not in caplog.text


def test_reprs_hide_tokens_and_keys(accounts: Engine) -> None:
    ring = KeyRing(primary=Key.generate())
    account = Account(token=SENTINEL)
    with Session(accounts) as session:
        session.add(account)
        history = repr(inspect(account).attrs.token.history)
        session.commit()
        row = session.execute(select(Account.token, Account.id)).one()
        shown = [
            account,
            row,
            row._mapping,
            vars(account),
            history,
            ring,
            ring.primary,
            Account.__table__,
            Account.token.type,
        ]
        assert "SENTINEL" not in repr(shown)
        assert ring.primary.reveal()[20:] not in repr(shown)


def test_dataclass_repr_hides_the_token(make_engine: Callable[..., Engine]) -> None:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Model(Base):
        __tablename__ = "models"
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        token: Mapped[str] = mapped_column(EncryptedString("models.token"))

    engine = make_engine()
    Base.metadata.create_all(engine)
    assert "SENTINEL" not in repr(Model(token=SENTINEL))
    with Session(engine) as session:
        session.add(Model(token=SENTINEL))
        session.commit()
        assert "SENTINEL" not in repr(session.scalars(select(Model)).one())


def test_literal_binds_render_ciphertext(accounts: Engine) -> None:
    ring = KeyRing(primary=Key.generate())
    attach_key_ring(accounts, ring)
    statement = insert(Account).values(token=SENTINEL, name="it's")
    sql = str(statement.compile(accounts, compile_kwargs={"literal_binds": True}))
    assert "SENTINEL" not in sql
    stored = next(part for part in sql.split("'") if part.startswith("sealchemy:"))
    assert ring.decrypt(stored, "accounts.token") == SENTINEL
    with accounts.begin() as connection:
        connection.exec_driver_sql(sql)
        assert connection.scalars(select(Account.token)).all() == [SENTINEL]
    attach_key_ring(accounts, ring, rollout=Rollout.PREPARE)
    with accounts.begin() as connection:
        quoted = insert(Account).values(token="it's 100%")
        connection.exec_driver_sql(str(quoted.compile(accounts, compile_kwargs={"literal_binds": True})))
        assert connection.scalars(select(Account.token).where(Account.name.is_(None))).all() == ["it's 100%"]


@pytest.mark.parametrize(
    "value", [SENTINEL + "\ud800", SENTINEL.encode(), "sealchemy:" + SENTINEL], ids=["surrogate", "bytes", "prefix"]
)
def test_refused_literal_is_not_shown(accounts: Engine, value: Any) -> None:
    for statement in (insert(Account).values(token=value), select(literal(value, EncryptedString("a.b")))):
        with pytest.raises(SealchemyError) as caught:
            statement.compile(accounts, compile_kwargs={"literal_binds": True})
        assert_silent(caught.value)


def test_literal_without_a_ring_is_refused_and_not_shown() -> None:
    with pytest.raises(KeyRingNotAttachedError) as caught:
        insert(Account).values(token=SENTINEL).compile(compile_kwargs={"literal_binds": True})
    assert_silent(caught.value)


def test_literal_execute_is_refused_and_not_shown(accounts: Engine) -> None:
    from sqlalchemy import bindparam

    statement = select(bindparam("p", type_=EncryptedString("a.b"), literal_execute=True))
    with accounts.connect() as connection, pytest.raises(UnsupportedOperationError) as caught:
        connection.execute(statement, {"p": SENTINEL})
    assert_silent(caught.value)


def test_compiled_statement_without_literals_shows_no_value(accounts: Engine) -> None:
    compiled = insert(Account).values(token=SENTINEL).compile(accounts)
    assert "SENTINEL" not in str(compiled)


def test_driver_receives_only_ciphertext(accounts: Engine) -> None:
    sent: list[str] = []
    event.listen(accounts, "before_cursor_execute", lambda *arguments: sent.append(repr(arguments[2:4])))
    with Session(accounts) as session:
        session.add(Account(token=SENTINEL, refresh=SENTINEL))
        session.commit()
        session.execute(update(Account).values(token=SENTINEL))
    assert "sealchemy:v1:" in "".join(sent)
    assert "SENTINEL" not in "".join(sent)


def test_pickles_of_types_and_metadata_hold_no_key(accounts: Engine) -> None:
    ring = KeyRing(primary=Key.generate())
    with accounts.begin() as connection:
        connection.execute(insert(Account), {"token": "x"})
    pickled = pickle.dumps([Account.__table__.metadata, EncryptedString("a.b")])
    assert ring.primary.reveal()[20:].encode() not in pickled
    assert pickle.loads(pickled)[1].context == "a.b"  # noqa: S301 - pickled here
    assert str(CreateTable(Account.__table__).compile(accounts)).count("TEXT") == 2


@pytest.mark.parametrize("name", [name for name in dir(errors) if name.endswith("Error")])
def test_errors_can_be_pickled(name: str) -> None:
    error = getattr(errors, name)("what happened")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - pickled here
    assert (type(copy), str(copy), vars(copy)) == (type(error), "what happened", vars(error))
    assert "what happened" in shown_by(error)
