"""Every way to read a value that is bound to its row: the right value, or an error if it was moved."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, insert, lambda_stmt, literal_column, null, select, text, union, union_all, update
from sqlalchemy.orm import (
    Session,
    aliased,
    contains_eager,
    defer,
    joinedload,
    load_only,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    undefer,
    undefer_group,
    with_polymorphic,
)

from sealchemy import (
    DecryptionError,
    EncryptedString,
    Key,
    KeyRing,
    SecretString,
    UnsupportedOperationError,
    UnsupportedVersionError,
)
from tests.support.bound import Account, Base, Company, Device, User, connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

# After an error, a result is not read to its end, of which PyMySQL and psycopg warn.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Previous unbuffered result"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RING = KeyRing(primary=Key.generate())
t = Account.__table__
DEVICE = uuid.UUID(int=7)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, make_engine: Callable[..., Engine]) -> Engine:
    is_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'test.db'}" if is_file else request.getfixturevalue(f"{request.param}_url")
    engine = connect(make_engine(url, RING))
    with Session(engine) as session:
        session.add_all([User(id=1, name="a"), User(id=2, name="b")])
        session.flush()
        session.add_all(
            [
                Account(id=1, user_id=1, provider="g", token="T1", data=b"D1", profile={"a": "P1"}, free="F1"),
                Account(id=2, user_id=2, provider="m", token="T2", data=b"D2", profile={"a": "P2"}, free="F2"),
                Company(id=3, user_id=2, provider="x", token="T3", data=b"D2", profile={"a": "P3"}, seal="S3"),
            ]
        )
        session.commit()
    return engine


def orm(statement: Any, attribute: str = "token") -> Callable[[Session], list[Any]]:
    return lambda session: [getattr(item, attribute) for item in session.scalars(statement).unique()]


def cores(statement: Any) -> Callable[[Session], list[Any]]:
    return lambda session: [row[-1] for row in session.execute(statement)]


def row_by_row(session: Session) -> list[Any]:
    """Close the cursor of the server when a row cannot be read: psycopg warns when it is collected open."""
    with session.scalars(select(Account).order_by(Account.id).execution_options(yield_per=1)) as items:
        return [item.token for item in items]


def through_users(*options: Any) -> Callable[[Session], list[Any]]:
    def read(session: Session) -> list[Any]:
        users = session.scalars(select(User).options(*options).order_by(User.id)).unique()
        return [account.token for user in users for account in user.accounts]

    return read


a = aliased(Account, name="a")
sub = select(t).subquery()
cte = select(t.c.id, t.c.user_id, t.c.provider_name, t.c.token).cte("c")
both = union_all(
    select(t.c.token, t.c.user_id, t.c.provider_name, t.c.id).where(t.c.id == 1),
    select(t.c.token, t.c.user_id, t.c.provider_name, t.c.id).where(t.c.id > 1),
).subquery()
with_null = union_all(
    select(t.c.token, t.c.user_id, t.c.provider_name, t.c.id),
    select(null(), t.c.user_id, t.c.provider_name, t.c.id + 100).where(t.c.id == 1),
).subquery()
renamed = select(t.c.id, t.c.token.label("x"), t.c.user_id.label("y"), t.c.provider_name.label("z")).subquery()
any_kind = with_polymorphic(Account, "*")
flat = with_polymorphic(Account, "*", flat=True)
entities = select(Account).subquery()
of_subquery = aliased(Account, entities)

READS: dict[str, Callable[[Session], list[Any]]] = {
    "entity": orm(select(Account).order_by(Account.id)),
    "get": lambda session: [session.get_one(Account, key).token for key in (1, 2, 3)],
    "query": lambda session: [item.token for item in session.query(Account).order_by(Account.id)],
    "column": cores(select(Account.token).order_by(Account.id)),
    "Core": cores(select(t.c.token).order_by(t.c.id)),
    "label": cores(select(Account.token.label("x")).order_by(Account.id)),
    "alias": cores(select(a.token).order_by(a.id)),
    "entity of an alias": orm(select(a).order_by(a.id)),
    "Core alias": lambda session: cores(select((x := t.alias("x")).c.token).order_by(x.c.id))(session),
    "join": cores(select(User.name, Account.token).join(User.accounts).order_by(Account.id)),
    "two of one table": cores(select(a.token, Account.token).join(a, a.id == Account.id).order_by(a.id)),
    "joinedload": through_users(joinedload(User.accounts)),
    "selectinload": through_users(selectinload(User.accounts)),
    "subqueryload": through_users(subqueryload(User.accounts)),
    "lazy": through_users(),
    "contains_eager": lambda session: [
        account.token
        for user in session.scalars(
            select(User).join(User.accounts).options(contains_eager(User.accounts)).order_by(User.id, Account.id)
        ).unique()
        for account in user.accounts
    ],
    "load_only": orm(select(Account).options(load_only(Account.token)).order_by(Account.id)),
    "deferred by option": orm(select(Account).options(defer(Account.token)).order_by(Account.id)),
    "undefer": lambda session: [
        str(SecretString(f"T{item.profile['a'][1]}"))
        for item in session.scalars(select(Account).options(undefer(Account.profile)).order_by(Account.id))
    ],
    "refresh": lambda session: [
        (session.refresh(item), item.token)[1] for item in session.scalars(select(Account).order_by(Account.id))
    ],
    "expired": lambda session: [
        (session.expire(item, ["token"]), item.token)[1]
        for item in session.scalars(select(Account).order_by(Account.id)).all()
    ],
    "yield_per": row_by_row,
    "subquery": cores(select(sub.c.token).order_by(sub.c.id)),
    "renamed in a subquery": cores(select(renamed.c.x).order_by(renamed.c.id)),
    "CTE": cores(select(cte.c.token).order_by(cte.c.id)),
    "UNION ALL": cores(select(both.c.token).order_by(both.c.id)),
    "UNION ALL with NULL": lambda session: cores(select(with_null.c.token).order_by(with_null.c.id))(session)[:3],
    "UNION ALL, outermost": lambda session: sorted(
        cores(union_all(select(t.c.token).where(t.c.id == 1), select(t.c.token).where(t.c.id > 1)))(session)
    ),
    "UNION": lambda session: sorted(cores(union(select(t.c.id, t.c.token), select(t.c.id, t.c.token)))(session)),
    "wrapped LIMIT": lambda session: [
        item.token
        for item in session.scalars(
            select(Account).options(joinedload(Account.user).joinedload(User.accounts)).order_by(Account.id).limit(3)
        ).unique()
    ],
    "wrapped LIMIT of the other side": lambda session: [
        account.token
        for user in session.scalars(select(User).options(joinedload(User.accounts)).order_by(User.id).limit(2)).unique()
        for account in user.accounts
    ],
    "with_polymorphic": orm(select(any_kind).order_by(any_kind.id)),
    "flat": orm(select(flat).order_by(flat.id)),
    "selectin_polymorphic": orm(select(Account).options(selectin_polymorphic(Account, [Company])).order_by(Account.id)),
    "entity of a subquery": orm(select(of_subquery).order_by(of_subquery.id)),
    "from_statement": orm(select(Account).from_statement(select(Account).order_by(Account.id))),
    "DISTINCT": cores(select(t.c.id, t.c.token).distinct().order_by(t.c.id)),
    "lambda": cores(lambda_stmt(lambda: select(Account.token)) + (lambda s: s.order_by(Account.id))),
    "merge": lambda session: [session.merge(Account(id=key), load=True).token for key in (1, 2, 3)],
}


def swap(engine: Engine, column: str, table: str = "accounts") -> None:
    """Give the first row the value of the second, and the other way round, as a writer without a key can."""
    with engine.begin() as connection:
        query = text(f"SELECT {column} FROM {table} WHERE id IN (1, 2) ORDER BY id")
        first, second = connection.scalars(query).all()
        for key, value in ((1, second), (2, first)):
            connection.execute(text(f"UPDATE {table} SET {column} = :v WHERE id = :k"), {"v": value, "k": key})


@pytest.mark.parametrize("name", READS)
def test_every_read_returns_the_value_of_its_row_or_refuses(engine: Engine, name: str) -> None:
    with Session(engine) as session:
        assert [str(item) for item in READS[name](session)] == ["T1", "T2", "T3"]
    swap(engine, "profile" if name == "undefer" else "token")
    with Session(engine) as session, pytest.raises(DecryptionError, match=r"bound\.(token|profile)") as caught:
        READS[name](session)
    assert "another row" in str(caught.value)


def test_returning(engine: Engine) -> None:
    if not engine.dialect.update_returning:
        with engine.begin() as connection:
            row = {"id": 9, "user_id": 1, "provider_name": "n", "token": "N"}
            assert connection.scalar(insert(t).values(row).returning(t.c.token)) == "N"
        return
    with engine.begin() as connection:
        row = {"id": 9, "user_id": 1, "provider_name": "n", "token": "N"}
        assert connection.scalar(insert(t).values(row).returning(t.c.token)) == "N"
        own = update(t).where(t.c.id == 9).values(kind="z").returning(t.c.token)
        assert connection.scalar(own) == "N"
        deleted = t.delete().where(t.c.id == 9).returning(t.c.token)
        assert connection.scalar(deleted) == "N"
        if engine.dialect.name == "postgresql":
            changed = update(t).where(t.c.id == 1).values(kind="z").returning(t).cte("changed")
            assert connection.scalar(select(changed.c.token)) == "T1"
    swap(engine, "token")
    with engine.begin() as connection, pytest.raises(DecryptionError):
        connection.scalar(update(t).where(t.c.id == 1).values(kind="z").returning(t.c.token))


def test_deferred_group(engine: Engine) -> None:
    with Session(engine) as session:
        account = session.get_one(Account, 1)
        assert "profile" not in account.__dict__
        assert account.profile == {"a": "P1"}
        loaded = session.scalars(select(Account).options(undefer_group("late")).where(Account.id == 2)).one()
        assert loaded.profile == {"a": "P2"}
        assert loaded.data == b"D2"
    swap(engine, "profile")
    with Session(engine) as session:
        query = select(Account).where(Account.id == 2)
        late = session.scalars(query).one()
        with pytest.raises(DecryptionError, match=r"bound\.profile"):
            _ = late.profile
        with pytest.raises(DecryptionError, match=r"bound\.profile"):
            session.scalars(query.options(undefer_group("late")).execution_options(populate_existing=True)).all()


def test_a_column_of_a_row_with_fewer_parts(engine: Engine) -> None:
    """`data` is bound to the user alone: it may be copied between the rows of one user."""
    swap(engine, "data")
    with Session(engine) as session, pytest.raises(DecryptionError, match=r"bound\.data"):
        session.scalars(select(Account.data)).all()
    with engine.begin() as connection:
        value = connection.scalar(text("SELECT data FROM accounts WHERE id = 3"))
        connection.execute(text("UPDATE accounts SET data = :v WHERE id = 2"), {"v": value})
    with Session(engine) as session:
        assert session.scalar(select(Account.data).where(Account.id == 2)) == b"D2"


def test_joined_inheritance_and_uuid(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Device(id=DEVICE, secret="S"))
        session.commit()
        assert session.scalars(select(Company.seal)).all() == ["S3"]
        assert session.scalars(select(Company)).one().seal == "S3"
        every = with_polymorphic(Account, [Company])
        assert session.scalars(select(every.Company.seal).where(every.id == 3)).all() == ["S3"]
        assert session.scalars(select(Device.secret)).all() == ["S"]
        session.add(Device(secret="other"))
        session.commit()
        assert sorted(session.scalars(select(Device.secret))) == ["S", "other"]
        value = session.scalar(text("SELECT secret FROM devices WHERE id = :k").bindparams(k=key_of(engine, DEVICE)))
        session.execute(text("UPDATE devices SET secret = :v"), {"v": value})
        with pytest.raises(DecryptionError):
            session.scalars(select(Device.secret)).all()


def key_of(engine: Engine, key: uuid.UUID) -> Any:
    return key if engine.dialect.name == "postgresql" else str(key) if engine.dialect.name == "mariadb" else key.hex


NOT_READ: dict[str, Any] = {
    "scalar subquery": lambda: select(User.id, select(Account.token).where(Account.id == 1).scalar_subquery()),
    "a subquery without the row": lambda: select(select(t.c.id, t.c.token).subquery().c.token),
    "a CTE without the row": lambda: select(select(t.c.id, t.c.token, t.c.user_id).cte().c.token),
    "the row of another alias": lambda: select(
        select(t.c.token, (b := t.alias("b")).c.user_id, b.c.provider_name).where(b.c.id == t.c.id).subquery().c.token
    ),
    "UNION of another order": lambda: select(
        union_all(
            select(t.c.token, t.c.user_id, t.c.provider_name),
            select(t.c.token, t.c.id, t.c.provider_name),
        )
        .subquery()
        .c.token
    ),
    "text with columns": lambda: text("SELECT token FROM accounts").columns(Account.token),
    "an entity from text": lambda: select(Account).from_statement(text("SELECT * FROM accounts")),
    "a literal column": lambda: select(literal_column("token", EncryptedString("bound.token", bind_to=("a", "b")))),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_does_not_carry_the_row_is_refused(engine: Engine, name: str) -> None:
    with Session(engine) as session, pytest.raises(UnsupportedOperationError, match=r"bound\.token"):
        session.execute(NOT_READ[name]()).all()


def test_questions_that_need_no_value(engine: Engine) -> None:
    with Session(engine) as session:
        assert session.scalar(select(func.count(Account.token))) == 3
        assert session.scalar(select(func.count()).where(Account.token.is_not(None))) == 3
        assert session.scalar(select(select(Account.token).exists())) in (True, 1)


def test_a_column_that_is_not_declared_so_says_how(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(UnsupportedVersionError, match="bind_to"):
        free = text("SELECT token FROM accounts").columns(token=EncryptedString("bound.token"))
        connection.execute(free).all()


@pytest.mark.parametrize("name", ["user_id", "provider_name"])
def test_a_row_that_is_changed_by_hand_is_an_error(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE accounts SET {name} = {name} WHERE id = 1"))
        connection.execute(text(f"UPDATE accounts SET {name} = '2' WHERE id = 1"))
    with Session(engine) as session, pytest.raises(DecryptionError):
        session.get_one(Account, 1)


def test_metadata_is_complete() -> None:
    assert {"accounts", "companies", "devices", "users"} == set(Base.metadata.tables)
