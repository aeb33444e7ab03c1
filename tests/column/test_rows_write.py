"""Every way to write a value that is bound to its row: it is readable in this row, or refused."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import (
    CHAR,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    bindparam,
    case,
    column,
    event,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    table,
    text,
    update,
    values,
)
from sqlalchemy import Index as SqlIndex
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, defer, deferred, mapped_column
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.types import TypeDecorator

from sealchemy import (
    DecryptionError,
    EncryptedBytes,
    EncryptedJSON,
    EncryptedString,
    Key,
    KeyRing,
    PlaintextTypeError,
    RowValue,
    SecretString,
    UnsupportedOperationError,
)
from tests.support.bound import BOUND, Account, Company, Device, User, connect
from tests.support.types import EncryptedDate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Dialect, Engine

RING = KeyRing(primary=Key.generate())
t = Account.__table__
assert isinstance(t, Table)
ROW = {"id": 9, "user_id": 1, "provider_name": "n"}


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, make_engine: Callable[..., Engine]) -> Engine:
    is_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'test.db'}" if is_file else request.getfixturevalue(f"{request.param}_url")
    engine = connect(make_engine(url, RING))
    with Session(engine) as session:
        session.add_all([User(id=1, name="a"), User(id=2, name="b"), User(id=3, name="c")])
        session.flush()
        session.add(Account(id=1, user_id=1, provider="g", token="T1", data=b"D1", profile={"a": "P1"}))
        session.add(Account(id=2, user_id=2, provider="m", token="T2", data=b"D2", profile={"a": "P2"}))
        if request.param == "postgresql":
            session.execute(text("SELECT setval('accounts_id_seq', 1000)"))
        session.commit()
    return engine


def upsert(engine: Engine, *rows: dict[str, Any]) -> Any:
    dialects: dict[str, Any] = {"sqlite": sqlite, "postgresql": postgresql, "mysql": mysql}
    if engine.dialect.name == "mysql":  # a row that says its key may conflict by that alone
        rows = tuple({key: value for key, value in row.items() if key != "id" or value == 1} for row in rows)
    return dialects[engine.dialect.name].insert(t).values(list(rows) if len(rows) > 1 else rows[0])


def on_conflict(statement: Any, new: dict[str, Any]) -> Any:
    if hasattr(statement, "on_duplicate_key_update"):
        return statement.on_duplicate_key_update(**new)
    return statement.on_conflict_do_update(index_elements=["user_id", "provider_name"], set_=new)


def upsert_of_inserted(engine: Engine) -> Any:
    statement = upsert(engine, {"user_id": 1, "provider_name": "g", "token": "NEW"})
    inserted = statement.inserted if engine.dialect.name == "mysql" else statement.excluded
    return on_conflict(statement, {"token": inserted.token, "user_id": inserted.user_id})


def upsert_of_rows(engine: Engine) -> Any:
    rows = [{"user_id": 1, "provider_name": name, "token": "NEW"} for name in ("g", "h")]
    statement = upsert(engine, *rows)
    inserted = statement.inserted if engine.dialect.name == "mysql" else statement.excluded
    return on_conflict(statement, {"token": inserted.token})


WRITES: dict[str, Callable[[Engine], Any]] = {
    "values": lambda _: insert(t).values(**ROW, token="NEW"),
    "values by column": lambda _: insert(t).values({t.c[key]: item for key, item in ROW.items()} | {t.c.token: "NEW"}),
    "ORM values": lambda _: insert(Account).values(id=9, user_id=1, provider="n", token="NEW"),
    "several rows": lambda _: insert(t).values(
        [{**ROW, "token": "NEW"}, {"id": 10, "user_id": 2, "provider_name": "o", "token": "NEW"}]
    ),
    "a parameter": lambda _: insert(t).values(
        **(ROW | {"user_id": bindparam("u", 1)}), token=bindparam("t", "NEW", type_=t.c.token.type)
    ),
    "RowValue": lambda _: insert(t).values(**ROW, token=RowValue("NEW", user_id=1, provider="n")),
    "SecretString": lambda _: insert(t).values(**ROW, token=SecretString("NEW")),
    "SecretStr": lambda _: insert(t).values(**ROW, token=SecretStr("NEW")),
    "update by its row": lambda _: update(t).where(t.c.user_id == 1, t.c.provider_name == "g").values(token="NEW"),
    "update, the other way round": lambda _: (
        update(t).where((literal(1) == t.c.user_id) & (t.c.provider_name == "g") & (t.c.id > 0)).values(token="NEW")
    ),
    "ORM update": lambda _: (
        update(Account).where(Account.user_id == 1).where(Account.provider == "g").values(token="NEW")
    ),
    "update of a moved row": lambda _: (
        update(t)
        .where(t.c.id == 1)
        .values(user_id=3, provider_name="z", token="NEW", data=b"new", profile={"a": "new"})
    ),
    "update with RowValue": lambda _: (
        update(t).where(t.c.id == 1).values(token=RowValue("NEW", user_id=1, provider="g"))
    ),
    "update with half a row": lambda _: (
        update(t).where(t.c.id == 1, t.c.user_id == 1).values(token=RowValue("NEW", user_id=1, provider="g"))
    ),
    "ORM update with RowValue": lambda _: (
        update(Account).where(Account.id == 1).values(token=RowValue("NEW", user_id=1, provider="g"))
    ),
    "ordered values": lambda _: (
        update(t).where(t.c.user_id == 1, t.c.provider_name == "g").ordered_values((t.c.free, "a"), (t.c.token, "NEW"))
    ),
    "update FROM": lambda engine: (
        update(t)
        .where(t.c.user_id == User.id, User.name == "a", t.c.provider_name == "g")
        .values(token=RowValue("NEW", user_id=1, provider="g"))
    ),
    "upsert": lambda engine: on_conflict(
        upsert(engine, {"user_id": 1, "provider_name": "g", "token": "NEW"}), {"token": "NEW"}
    ),
    "upsert of what was inserted": upsert_of_inserted,
    "upsert of several rows": upsert_of_rows,
    "upsert of a new row": lambda engine: on_conflict(upsert(engine, {**ROW, "token": "NEW"}), {"token": "NEW"}),
    "upsert with NULL": lambda engine: on_conflict(upsert(engine, {**ROW, "token": "NEW"}), {"token": None}),
}


@pytest.mark.parametrize("name", WRITES)
def test_every_write_is_read_in_its_row(engine: Engine, name: str) -> None:
    statement = WRITES[name](engine)
    for _ in range(2):  # the second one is from the cache of compiled statements
        with Session(engine) as session:
            session.execute(statement)
            stored = session.scalars(text("SELECT token FROM accounts")).all()
            assert all(item.split(":")[3] == "row" for item in stored)
            found = {item.id: item.token for item in session.scalars(select(Account))}
            assert "NEW" in found.values()
            assert set(found.values()) <= {"NEW", "T1", "T2"}
            assert all(item.data in {b"D1", b"D2", b"new", None} for item in session.scalars(select(Account)))
            session.rollback()


def test_null_needs_no_row(engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(update(t).values(token=None, data=null()))
        assert set(session.scalars(select(Account.token))) == {None}
        statement = update(t).where(t.c.id == bindparam("k"))
        session.execute(statement, [{"k": 1, "token": None}, {"k": 2, "token": None}])


def test_executemany_and_insertmanyvalues(engine: Engine) -> None:
    rows = [{"id": 100 + n, "user_id": 1 + n % 3, "provider_name": f"p{n}", "token": f"T{n}"} for n in range(60)]
    with Session(engine) as session:
        session.execute(insert(t), rows)
        mapped = [{**row, "id": 200 + n, "provider": f"q{n}"} for n, row in enumerate(rows)]
        for row in mapped:
            row.pop("provider_name")
        returned = session.scalars(insert(Account).returning(Account), mapped).all()
        assert sorted(item.token for item in returned) == sorted(row["token"] for row in mapped)
        session.expire_all()
        found = {item.id: item.token for item in session.scalars(select(Account).where(Account.id >= 100))}
        assert found == {row["id"]: row["token"] for row in [*rows, *mapped]}
        where = (t.c.user_id == bindparam("u"), t.c.provider_name == bindparam("p"))
        session.connection().execute(
            update(t).where(*where).values(token=bindparam("v")),
            [{"u": row["user_id"], "p": row["provider_name"], "v": f"new {row['id']}"} for row in rows],
        )
        session.expire_all()
        assert session.get_one(Account, 105).token == "new 105"


def test_orm_writes(engine: Engine) -> None:
    with Session(engine) as session:
        account = session.get_one(Account, 1)
        account.token = "A"
        account.data = b"B"
        account.profile = {"c": "C"}
        session.commit()
        assert (account.token, account.data, account.profile) == ("A", b"B", {"c": "C"})
        assert isinstance(account.__dict__["token"], SecretString)
        session.merge(Account(id=1, user_id=1, provider="g", token="M"))
        session.commit()
        assert account.token == "M"
        session.bulk_save_objects([Account(id=50, user_id=2, provider="b", token="bulk")])
        session.bulk_insert_mappings(Account, [{"id": 51, "user_id": 2, "provider": "c", "token": "mapping"}])
        session.commit()
        assert [session.get_one(Account, key).token for key in (50, 51)] == ["bulk", "mapping"]
        value = RowValue("by key", user_id=2, provider="c")
        session.execute(update(Account), [{"id": 51, "token": value}])
        assert session.scalar(select(Account.token).where(Account.id == 51)) == "by key"
        company = Company(user_id=3, provider="n", token="T", seal="S", id=60)
        session.add(company)
        session.commit()
        company.seal, company.token = "S2", "T2"
        session.commit()
        assert (company.seal, company.token) == ("S2", "T2")


def test_an_object_that_is_flushed_keeps_a_secret_string(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session:
        account = session.get_one(Account, 1)
        account.token = "A"
        session.flush()
        assert type(account.__dict__["token"]) is SecretString
        session.commit()
        assert type(account.__dict__["token"]) is SecretString
        statement = update(Account).where(Account.id == 1).values(token=RowValue("B", user_id=1, provider="g"))
        session.execute(statement, execution_options={"synchronize_session": "evaluate"})
        assert type(account.__dict__["token"]) is SecretString
        assert account.token == "B"


def test_a_key_that_python_makes(engine: Engine) -> None:
    with Session(engine) as session:
        session.add_all([Device(secret=f"S{n}") for n in range(5)])
        session.commit()
        session.execute(insert(Device).values(secret="one"))
        session.execute(insert(Device), [{"secret": "a"}, {"secret": "b"}])
        session.execute(insert(Device).values([{"secret": "c"}, {"secret": "d"}]))
        key = uuid.uuid4()
        session.execute(insert(Device).values(id=key, secret="e"))
        assert sorted(session.scalars(select(Device.secret))) == sorted([*"abcde", "one", *(f"S{n}" for n in range(5))])


def test_a_moved_row_takes_its_secrets_along(engine: Engine) -> None:
    with Session(engine) as session:
        account = session.get_one(Account, 1)
        assert "profile" not in account.__dict__
        account.user_id = 3
        session.flush()
        assert "profile" not in account.__dict__, "a secret that was not loaded stays unloaded"
        session.commit()
        assert (account.token, account.data, account.profile) == ("T1", b"D1", {"a": "P1"})
        account.provider = "elsewhere"
        account.token = "both"
        session.commit()
        assert (account.token, account.data, account.profile) == ("both", b"D1", {"a": "P1"})
        account.user = session.get_one(User, 2)
        session.commit()
        assert (account.user_id, account.token, account.data) == (2, "both", b"D1")
        account.token = None
        account.user_id = 1
        session.commit()
        assert (account.token, account.data) == (None, b"D1")
        account.user_id = 3
        session.rollback()
        assert (account.user_id, account.data) == (1, b"D1")


def test_a_moved_primary_key(engine: Engine) -> None:
    with Session(engine) as session:
        key = uuid.uuid4()
        device = Device(id=key, secret="S")
        session.add(device)
        session.commit()
        device.id = other = uuid.uuid4()
        session.commit()
        assert session.get_one(Device, other).secret == "S"


def test_objects_that_were_never_loaded_move(engine: Engine) -> None:
    with Session(engine) as session:
        account = session.get_one(Account, 1)
        session.commit()  # everything is expired
        account.user_id = 3
        session.commit()
        assert (account.token, account.profile) == ("T1", {"a": "P1"})
        session.expunge_all()
        other = session.get_one(Account, 1)
        session.expire(other)
        other.token = "new"
        session.commit()
        assert other.token == "new"


@pytest.mark.parametrize("change", ["token", "user_id"])
def test_a_row_that_another_session_moved_is_stale(engine: Engine, change: str) -> None:
    with Session(engine, expire_on_commit=False) as session:
        account = session.get_one(Account, 1)
        session.commit()
        with Session(engine) as other:
            moved = other.get_one(Account, 1)
            moved.provider = "moved"
            other.commit()
        setattr(account, change, "lost" if change == "token" else 3)
        with pytest.raises(StaleDataError):
            session.commit()
        session.rollback()
    with Session(engine) as session:
        account = session.get_one(Account, 1)
        assert (account.user_id, account.provider, account.token) == (1, "moved", "T1")


def test_two_rows_of_which_one_is_stale(engine: Engine) -> None:
    """Not every driver counts the rows of several statements."""
    with Session(engine, expire_on_commit=False) as session:
        accounts = [session.get_one(Account, key) for key in (1, 2)]
        session.commit()
        with Session(engine) as other:
            other.get_one(Account, 2).provider = "moved"
            other.commit()
        for account in accounts:
            account.token = "lost"
        with pytest.raises(StaleDataError):
            session.commit()


def test_a_moved_row_with_a_value_of_another_row_is_not_written_again(engine: Engine) -> None:
    with engine.begin() as connection:
        stolen = connection.scalar(text("SELECT token FROM accounts WHERE id = 2"))
        connection.execute(text("UPDATE accounts SET token = :v WHERE id = 1"), {"v": stolen})
    with Session(engine) as session:
        row = session.scalars(select(Account).where(Account.id == 1).options(defer(Account.token))).one()
        row.provider = "m"
        with pytest.raises(DecryptionError):
            session.commit()


def test_core_update_without_its_row_is_stale(engine: Engine) -> None:
    with engine.begin() as connection:
        for key, row in ((1, {"user_id": 2, "provider": "g"}), (77, {"user_id": 1, "provider": "g"})):
            with pytest.raises(StaleDataError, match=r"bound\.token"):
                connection.execute(update(t).where(t.c.id == key).values(token=RowValue("LOST", **row)))
        rows = [{"k": key, "v": RowValue("LOST", user_id=1, provider="g")} for key in (1, 2)]
        with pytest.raises(StaleDataError):
            connection.execute(update(t).where(t.c.id == bindparam("k")).values(token=bindparam("v")), rows)


REFUSED: dict[str, Callable[[Engine], Any]] = {
    "update without the row": lambda _: update(t).where(t.c.id == 1).values(token="SENTINEL"),
    "update with half of it": lambda _: update(t).where(t.c.user_id == 1).values(token="SENTINEL"),
    "update with IN": lambda _: (
        update(t).where(t.c.user_id.in_([1]), t.c.provider_name == "g").values(token="SENTINEL")
    ),
    "update with OR": lambda _: (
        update(t).where((t.c.user_id == 1) | (t.c.user_id == 2), t.c.provider_name == "g").values(token="SENTINEL")
    ),
    "update with NOT": lambda _: (
        update(t).where(~(t.c.user_id == 1), t.c.provider_name == "g").values(token="SENTINEL")
    ),
    "update with a column": lambda _: (
        update(t).where(t.c.user_id == t.c.id, t.c.provider_name == "g").values(token="SENTINEL")
    ),
    "update of another alias": lambda _: (
        update(t).where((b := t.alias()).c.user_id == 1, b.c.provider_name == "g").values(token="SENTINEL")
    ),
    "insert without a part": lambda _: insert(t).values(id=9, user_id=1, token="SENTINEL"),
    "insert with a NULL part": lambda _: insert(t).values(id=9, user_id=None, provider_name="n", token="SENTINEL"),
    "insert with an expression as part": lambda _: insert(t).values(
        id=9, user_id=select(func.max(User.id)).scalar_subquery(), provider_name="n", token="SENTINEL"
    ),
    "update with an expression as part": lambda _: (
        update(t)
        .where(t.c.id == 1)
        .values(user_id=t.c.user_id + 1, token="SENTINEL", data=b"SENTINEL", profile={"a": "SENTINEL"})
    ),
    "a key that the database makes": lambda _: insert(Company.__table__).values(seal="SENTINEL"),
    "a moved row": lambda _: update(t).where(t.c.id == 1).values(user_id=2),
    "a moved row, ORM": lambda _: update(Account).where(Account.id == 1).values(provider="x"),
    "a moved row with one of its secrets": lambda _: (
        update(t).where(t.c.id == 1).values(user_id=2, provider_name="m", token="SENTINEL")
    ),
    "a copy of a column": lambda _: update(t).values(token=t.c.token),
    "a copy of another row": lambda _: update(t).values(token=(b := t.alias()).c.token).where(b.c.id == 2),
    "a scalar subquery": lambda _: update(t).values(token=select(t.c.token).where(t.c.id == 2).scalar_subquery()),
    "INSERT ... SELECT": lambda _: insert(t).from_select(
        ["id", "user_id", "provider_name", "token"], select(t.c.id + 50, t.c.user_id, literal("x"), t.c.token)
    ),
    "VALUES": lambda _: insert(t).from_select(
        ["id", "user_id", "provider_name", "token"],
        select(
            values(
                column("id", Integer), column("u", Integer), column("p", String), column("k", t.c.token.type), name="v"
            ).data([(9, 1, "n", "SENTINEL")])
        ),
    ),
    "case": lambda _: update(t).values(token=case((t.c.id == 1, "SENTINEL"), else_=t.c.token)),
    "literal_column": lambda _: update(t).values(token=literal_column("'SENTINEL'")),
    "text": lambda _: text("UPDATE accounts SET token = :v").bindparams(
        bindparam("v", "SENTINEL", type_=t.c.token.type)
    ),
    "a parameter of an unbound type": lambda _: (
        update(t)
        .where(t.c.user_id == 1, t.c.provider_name == "g")
        .values(token=bindparam("v", "SENTINEL", type_=EncryptedString("bound.token")))
    ),
    "a bound parameter for an unbound column": lambda _: insert(t).values(
        **ROW, free=bindparam("v", "SENTINEL", type_=EncryptedString("bound.free", bind_to=BOUND))
    ),
    "a bound parameter in a SELECT": lambda _: select(literal("SENTINEL", t.c.token.type)),
    "another RowValue": lambda _: insert(t).values(**ROW, token=RowValue("SENTINEL", user_id=2, provider="n")),
    "a RowValue for another WHERE": lambda _: (
        update(t)
        .where(t.c.user_id == 1, t.c.provider_name == "g")
        .values(token=RowValue("SENTINEL", user_id=1, provider="h"))
    ),
    "a RowValue with other names": lambda _: (
        update(t).where(t.c.id == 1).values(token=RowValue("SENTINEL", user_id=1, provider_name="g"))
    ),
    "a RowValue with half a row": lambda _: update(t).where(t.c.id == 1).values(token=RowValue("SENTINEL", user_id=1)),
    "a part of another type": lambda _: insert(t).values(**(ROW | {"user_id": "1"}), token="SENTINEL"),
    "a part with a newline": lambda _: insert(t).values(**(ROW | {"provider_name": "a\nb"}), token="SENTINEL"),
    "a part with NUL": lambda _: insert(t).values(**(ROW | {"provider_name": "a\0b"}), token="SENTINEL"),
    "a part that is cut": lambda _: insert(t).values(**(ROW | {"provider_name": "x" * 65}), token="SENTINEL"),
    "upsert by the key": lambda engine: (
        upsert(engine, {**ROW, "id": 1, "token": "SENTINEL"}).on_duplicate_key_update(token="SENTINEL")
        if engine.dialect.name == "mysql"
        else upsert(engine, {**ROW, "id": 1, "token": "SENTINEL"}).on_conflict_do_update(
            index_elements=["id"], set_={"token": "SENTINEL"}
        )
    ),
    "upsert that moves": lambda engine: on_conflict(upsert(engine, {**ROW, "token": "SENTINEL"}), {"user_id": 2}),
    "upsert of several rows with a value": lambda engine: on_conflict(
        upsert(engine, {**ROW, "token": "x"}, {**ROW, "id": 10, "user_id": 2, "token": "x"}), {"token": "SENTINEL"}
    ),
    "upsert of an expression": lambda engine: on_conflict(
        upsert(engine, {**ROW, "token": "x"}), {"token": select(t.c.token).where(t.c.id == 2).scalar_subquery()}
    ),
}


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_a_write_that_could_not_be_read_is_refused(engine: Engine, name: str) -> None:
    with Session(engine) as session:
        before = session.execute(text("SELECT * FROM accounts ORDER BY id")).all()
        with pytest.raises((UnsupportedOperationError, StatementError)) as caught:
            session.execute(REFUSED[name](engine))
        assert type(caught.value) is UnsupportedOperationError, caught.value
        assert "SENTINEL" not in str(caught.value)
        session.rollback()
        assert session.execute(text("SELECT * FROM accounts ORDER BY id")).all() == before


def test_upsert_with_many_parameters_is_refused(engine: Engine) -> None:
    rows = [{"user_id": number, "provider_name": "n", "token": str(number), "free": "n"} for number in (1, 2)]
    dialects: dict[str, Any] = {"sqlite": sqlite, "postgresql": postgresql, "mysql": mysql}
    statement = on_conflict(dialects[engine.dialect.name].insert(t), {"token": "SENTINEL"})
    with engine.begin() as connection, pytest.raises(UnsupportedOperationError, match="several rows"):
        connection.execute(statement, rows)
    with engine.begin() as connection:
        insert_ = dialects[engine.dialect.name].insert(t)
        inserted = insert_.inserted if engine.dialect.name == "mysql" else insert_.excluded
        connection.execute(on_conflict(insert_, {"token": inserted.token}), rows)
        assert set(connection.scalars(select(t.c.token).where(t.c.provider_name == "n"))) == {"1", "2"}


def test_a_light_table_is_not_known(engine: Engine) -> None:
    """A table without types cannot be checked; what it moves is an error when it is read."""
    with engine.begin() as connection:
        connection.execute(update(table("accounts", column("user_id"))).values(user_id=1))
    with Session(engine) as session, pytest.raises(DecryptionError):
        session.scalars(select(Account.token)).all()


def test_literals_are_refused(engine: Engine) -> None:
    statement = insert(t).values(**ROW, token="SENTINEL")
    with pytest.raises(UnsupportedOperationError, match="bound") as caught:
        statement.compile(engine, compile_kwargs={"literal_binds": True})
    assert "SENTINEL" not in str(caught.value)


def test_a_statement_shows_no_value(engine: Engine) -> None:
    statement = insert(t).values(**ROW, token="SENTINEL")
    compiled = statement.compile(engine)
    assert "SENTINEL" not in repr(compiled.params)
    assert "SENTINEL" not in repr(RowValue("SENTINEL", user_id=1))
    for function in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            function(RowValue("SENTINEL", user_id=1))
    with pytest.raises(PlaintextTypeError, match="user_id is None"):
        RowValue("SENTINEL", user_id=None, provider="x")


class OwnBase(DeclarativeBase):
    pass


class Lower(TypeDecorator[str]):
    """A part that is not stored as it is given."""

    impl = String(64)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.lower()


class Person(OwnBase):
    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)
    login: Mapped[str] = mapped_column(Lower)
    born: Mapped[dt.date | None] = mapped_column(EncryptedDate("people.born", bind_to=("login",)))
    settings: Mapped[Any] = mapped_column(
        MutableDict.as_mutable(EncryptedJSON("people.settings", bind_to=("login",))), nullable=True
    )
    photo: Mapped[bytes | None] = deferred(mapped_column(EncryptedBytes("people.photo", bind_to=("login",))))
    digest: Mapped[str | None] = mapped_column(
        String(64), default=lambda context: context.get_current_parameters()["born"].get_secret_value().isoformat()
    )


def test_wrappers_and_converted_parts(engine: Engine) -> None:
    OwnBase.metadata.create_all(engine)
    day = dt.date(1984, 2, 29)
    with Session(engine) as session:
        person = Person(id=1, login="Ada", born=day, settings={"a": "x"}, photo=b"\0\n")
        session.add(person)
        session.commit()
        assert (person.born, person.settings, person.photo, person.digest) == (day, {"a": "x"}, b"\0\n", "1984-02-29")
        person.settings["a"] = "y"
        session.commit()
        assert person.settings == {"a": "y"}
        person.settings["b"] = "changed"
        person.login = "Bob"
        session.commit()
        assert (person.born, person.settings, person.photo) == (day, {"a": "y", "b": "changed"}, b"\0\n")
        session.execute(update(Person).where(Person.login == "BOB").values(born=dt.date(2000, 1, 1)))
        session.expire_all()
        assert person.born == dt.date(2000, 1, 1)
        statement = update(Person).where(Person.id == 1)
        session.execute(statement.values(born=RowValue(day, login="bob")))
        session.expire_all()
        assert person.born == day


def test_statements_of_unbound_columns_are_as_before(engine: Engine) -> None:
    compiled = insert(t).values(**ROW, free="x").compile(engine)
    assert compiled._bound_values == []  # type: ignore[attr-defined]
    plain = Table("plain", MetaData(), Column("id", Integer), Column("x", EncryptedString("plain.x")))
    assert "||" not in str(select(plain).compile(engine))
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with Session(engine) as session:
        session.get_one(Account, 1).free = "x"
        session.commit()
    assert "coalesce" not in statements[-1]


def test_an_upsert_whose_rows_are_parameters_is_checked_like_one_with_values(engine: Engine) -> None:
    """With the primary key among the parameters, it may find any row."""
    dialects: dict[str, Any] = {"sqlite": sqlite, "postgresql": postgresql, "mysql": mysql}
    statement = dialects[engine.dialect.name].insert(t)
    if engine.dialect.name == "mysql":
        statement = statement.on_duplicate_key_update(token=statement.inserted.token)
    else:
        statement = statement.on_conflict_do_update(index_elements=["id"], set_={"token": statement.excluded.token})
    row = {"id": 1, "user_id": 3, "provider_name": "x", "token": "LOST", "kind": "account"}
    for rows in (row, [row], [{**row, "id": 77}, row]):
        with engine.begin() as connection, pytest.raises(UnsupportedOperationError, match="may find a row"):
            connection.execute(statement, rows)
    with engine.begin() as connection:
        assert connection.scalar(select(t.c.token).where(t.c.id == 1)) == "T1"


def test_a_moved_document_stays_mutable(engine: Engine) -> None:
    OwnBase.metadata.create_all(engine)
    with Session(engine) as session:
        person = Person(id=1, login="ada", born=dt.date(1984, 2, 29), settings={"a": "x"})
        session.add(person)
        session.commit()
        assert person.settings == {"a": "x"}
        person.login = "bob"
        session.flush()
        assert isinstance(person.settings, MutableDict)
        person.settings["b"] = "y"
        session.commit()
        assert person.settings == {"a": "x", "b": "y"}


def test_a_default_that_computes_a_hash_sees_the_text(engine: Engine) -> None:
    metadata = MetaData()
    table = Table(
        "hashed",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("owner", Integer, nullable=False),
        Column("token", EncryptedString("hashed.token", bind_to=("owner",))),
        Column("digest", String(64), default=lambda context: "H" + str(context.get_current_parameters()["token"])),
        Column("copy", Integer, default=lambda context: context.get_current_parameters()["owner"]),
    )
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(table), [{"owner": 1, "token": "a"}, {"owner": 2, "token": "b"}])
        connection.execute(insert(table).values([{"owner": 3, "token": "c"}, {"owner": 4, "token": "d"}]))
        found = connection.execute(select(table.c.token, table.c.digest, table.c.copy).order_by(table.c.id)).all()
    assert found == [("a", "Ha", 1), ("b", "Hb", 2), ("c", "Hc", 3), ("d", "Hd", 4)]


class Lowering(TypeDecorator[str]):
    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.lower()


def test_a_part_is_converted_as_its_column_or_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        with pytest.raises(UnsupportedOperationError, match="another type"):
            connection.execute(
                insert(t).values(**(ROW | {"provider_name": bindparam("p", "N", Lowering())}), token="x")
            )
        where = (t.c.user_id == 1, t.c.provider_name == literal("G", Lowering()))
        with pytest.raises(UnsupportedOperationError, match="gives no value for provider"):
            connection.execute(update(t).where(*where).values(token="LOST"))
        own = [bindparam("p", "n", t.c.provider_name.type), bindparam("p", "n", String(9)), literal("n")]
        for number, parameter in enumerate(own):
            row = {"id": 20 + number, "user_id": number + 1, "provider_name": parameter, "kind": "account"}
            connection.execute(insert(t).values(**row, token="kept"))
        assert connection.scalars(select(t.c.token).where(t.c.id >= 20)).all() == ["kept"] * 3


def test_texts_of_uuids(engine: Engine) -> None:
    metadata = MetaData()
    table = Table(
        "by_text",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("device", Uuid(as_uuid=False), nullable=False),
        Column("token", EncryptedString("by_text.token", bind_to=("device",))),
    )
    metadata.create_all(engine)
    key = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    with engine.begin() as connection:
        connection.execute(insert(table).values(id=1, device=key, token="kept"))
        assert connection.scalar(select(table.c.token)) == "kept"
        with pytest.raises(UnsupportedOperationError, match="lower case"):
            connection.execute(insert(table).values(id=2, device=key.upper(), token="LOST"))


class Index:
    """Like the integers of numpy, which drivers do not store as integers."""

    def __index__(self) -> int:
        return 5


def test_a_number_that_is_no_int_is_no_part(engine: Engine) -> None:
    with engine.begin() as connection, pytest.raises(UnsupportedOperationError, match="Index"):
        connection.execute(insert(t).values(**(ROW | {"user_id": Index()}), token="LOST"))


def test_a_stale_row_value_is_noticed_with_returning_too(engine: Engine) -> None:
    value = RowValue("LOST", user_id=2, provider="g")
    with Session(engine) as session:
        session.get_one(Account, 1)
        for how in ("auto", "fetch", "evaluate", False):
            statement = update(Account).where(Account.id == 1, func.length(Account.provider) == 1).values(token=value)
            options = {"synchronize_session": how} if how != "evaluate" else {}
            with pytest.raises(StaleDataError):
                session.execute(statement, execution_options=options)
        if engine.dialect.update_returning:
            with pytest.raises(StaleDataError):
                session.execute(update(t).where(t.c.id == 1).values(token=value).returning(t.c.id))
            own = RowValue("new", user_id=1, provider="g")
            found = session.execute(update(t).where(t.c.id == 1).values(token=own).returning(t.c.id, t.c.token)).all()
            assert found == [(1, "new")]


def test_a_row_value_inside_of_another_statement_is_refused(postgresql_url: str, make_engine: Any) -> None:
    """The rows of a CTE are not counted."""
    engine = connect(make_engine(postgresql_url, RING))
    value = RowValue("LOST", user_id=2, provider="g")
    changed = update(t).where(t.c.id == 1).values(token=value).returning(t.c.id).cte("changed")
    with engine.begin() as connection, pytest.raises(UnsupportedOperationError, match="gives no value for user_id"):
        connection.execute(select(changed.c.id))


def test_a_key_that_is_deleted_and_added_again(engine: Engine) -> None:
    """SQLAlchemy makes an UPDATE of it, in which every secret has to have a value."""
    with Session(engine) as session:
        session.delete(session.get_one(Account, 1))
        session.add(Account(id=1, user_id=3, provider="n", token="new"))
        with pytest.raises(UnsupportedOperationError, match="leaves this column as it is"):
            session.commit()
        session.rollback()
        session.delete(session.get_one(Account, 1))
        session.add(Account(id=1, user_id=3, provider="n", token="new", data=None, profile=None))
        session.commit()
        assert session.get_one(Account, 1).token == "new"


def test_an_owner_that_is_taken_away_is_said(engine: Engine) -> None:
    with Session(engine) as session:
        user = session.get_one(User, 1)
        user.accounts.clear()
        with pytest.raises(UnsupportedOperationError, match=r"accounts\.user_id becomes NULL"):
            session.commit()
        session.rollback()
        assert session.get_one(Account, 1).token == "T1"


def test_a_listener_that_changes_a_part_in_the_flush(engine: Engine) -> None:
    def normalize(_mapper: Any, _connection: Any, account: Account) -> None:
        account.provider = account.provider.strip()

    event.listen(Account, "before_update", normalize)
    try:
        with Session(engine) as session:
            account = session.get_one(Account, 1)
            account.provider, account.token, account.profile = "g2 ", "new", None
            session.commit()
            assert (account.provider, account.token, account.data) == ("g2", "new", b"D1")
    finally:
        event.remove(Account, "before_update", normalize)


def test_a_value_without_its_row_shows_in_no_frame(engine: Engine) -> None:
    statement = update(t).where(t.c.id == 1).values(token="SENTINEL")
    for _ in range(2):
        with engine.connect() as connection, pytest.raises(UnsupportedOperationError) as caught:
            connection.execute(statement)
        frames = []
        traceback = caught.value.__traceback__
        while traceback is not None:
            if "test_rows_write" not in traceback.tb_frame.f_code.co_filename:
                frames.append(repr(traceback.tb_frame.f_locals))
            traceback = traceback.tb_next
        assert "SENTINEL" not in "".join(frames)


def test_a_moved_row_in_a_translated_schema(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'main.db'}", RING)

    class SchemaBase(DeclarativeBase):
        pass

    class Note(SchemaBase):
        __tablename__ = "notes"
        __table_args__ = {"schema": "tenant"}  # noqa: RUF012 - as documented
        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[int]
        text: Mapped[str | None] = mapped_column(EncryptedString("notes.text", bind_to=("owner",)))

    with engine.connect().execution_options(schema_translate_map={"tenant": None}) as connection:
        SchemaBase.metadata.create_all(connection)
        connection.commit()
        with Session(connection) as session:
            note = Note(id=1, owner=1, text="kept")
            session.add(note)
            session.commit()
            note.owner = 2
            session.commit()
            assert note.text == "kept"


def test_an_upsert_does_not_move_a_row_without_its_secrets(engine: Engine) -> None:
    statement = upsert(engine, {"id": 1, "user_id": 3, "provider_name": "g"})
    if engine.dialect.name == "mysql":
        statement = statement.on_duplicate_key_update(user_id=statement.inserted.user_id)
    else:
        new = {"user_id": statement.excluded.user_id}
        statement = statement.on_conflict_do_update(index_elements=["id"], set_=new)
    with engine.begin() as connection, pytest.raises(UnsupportedOperationError, match="may find a row"):
        connection.execute(statement)


def test_a_part_that_is_null_in_the_database_is_an_error(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    """Not a secret that is not there, over which NULL would be written."""
    engine = make_engine(f"sqlite:///{tmp_path / 'null.db'}", RING)
    metadata = MetaData()
    loose = Table(
        "loose",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("owner", Integer, nullable=False),
        Column("token", EncryptedString("loose.token", bind_to=("owner",))),
    )
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE loose (id INTEGER PRIMARY KEY, owner INTEGER, token TEXT)"))
        connection.execute(insert(loose).values(id=1, owner=1, token="kept"))
        connection.execute(text("UPDATE loose SET owner = NULL"))
    with engine.begin() as connection, pytest.raises(DecryptionError):
        connection.scalar(select(loose.c.token))


def test_a_row_value_of_an_object_is_compared_with_its_row(engine: Engine) -> None:
    with Session(engine) as session:
        account = session.get_one(Account, 1)
        account.token = RowValue("own", user_id=1, provider="g")
        session.commit()
        assert account.token == "own"
        assert type(account.__dict__["token"]) is SecretString
        account.token = RowValue("LOST", user_id=2, provider="g")
        with pytest.raises(StaleDataError):
            session.commit()
        session.rollback()
        row = {"user_id": 3, "provider": "new"}
        session.add(Account(id=70, **row, token=RowValue("LOST", user_id=1, provider="new")))
        with pytest.raises(UnsupportedOperationError, match="another user_id"):
            session.commit()
        session.rollback()
        new = Account(id=71, **row, token=RowValue("added", **row))
        session.add(new)
        session.flush()
        assert type(new.__dict__["token"]) is SecretString
        session.commit()
        assert session.get_one(Account, 71).token == "added"


def test_a_row_value_is_no_value_of_a_column_without_rows(engine: Engine) -> None:
    value = RowValue("SENTINEL", user_id=1)
    with pytest.raises(PlaintextTypeError, match="RowValue"):
        Account(id=70, free=value)
    with engine.begin() as connection, pytest.raises(PlaintextTypeError, match="RowValue"):
        connection.execute(insert(t).values(**ROW, free=value))
    with engine.begin() as connection, pytest.raises(PlaintextTypeError, match="RowValue"):
        connection.execute(insert(t), [{**ROW, "free": value, "kind": "account"}])


def test_each_of_many_statements_has_to_find_its_row(engine: Engine) -> None:
    """One that changes two rows does not make up for one that changes none."""
    with Session(engine) as session:
        session.add(Account(id=3, user_id=1, provider="other", data=b"D3"))
        session.commit()
    rows = [{"n": 3, "v": RowValue(b"X", user_id=1)}, {"n": 99, "v": RowValue(b"LOST", user_id=1)}]
    statement = update(t).where(t.c.id <= bindparam("n"), t.c.id != 99 - bindparam("n")).values(data=bindparam("v"))
    with engine.begin() as connection, pytest.raises(StaleDataError):
        connection.execute(statement.where(bindparam("n") < 50), rows)


def test_a_row_that_the_guard_left_out_does_not_show_the_value(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session:
        accounts = [session.get_one(Account, key) for key in (1, 2)]
        statement = update(Account).where(Account.kind == "account").values(data=RowValue(b"new", user_id=1))
        session.execute(statement, execution_options={"synchronize_session": "evaluate"})
        assert [account.data for account in accounts] == [b"new", b"D2"]
        session.commit()


def test_a_row_cannot_be_moved_by_parameters_alone(engine: Engine) -> None:
    with engine.begin() as connection, pytest.raises(UnsupportedOperationError, match="leaves this column"):
        connection.execute(update(t).where(t.c.id == 1), {"user_id": 3})
    with engine.begin() as connection, pytest.raises(UnsupportedOperationError, match="leaves this column"):
        connection.execute(update(t).where(t.c.id == bindparam("k")), [{"k": 1, "user_id": 3}, {"k": 2, "user_id": 3}])


def test_a_row_that_moved_meanwhile_does_not_move_again(engine: Engine) -> None:
    """Even though it would move by another part."""
    with Session(engine, expire_on_commit=False) as session:
        account = session.get_one(Account, 1)
        session.commit()
        with Session(engine) as other:
            other.get_one(Account, 1).user_id = 2
            other.commit()
        account.provider = "mine"
        with pytest.raises(StaleDataError, match="moved or deleted"):
            session.commit()
        session.rollback()
        assert session.get_one(Account, 1).token == "T1"


def test_blanks_that_a_database_cuts_off_are_no_part(engine: Engine) -> None:
    metadata = MetaData()
    padded = Table(
        "padded",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("code", CHAR(8).with_variant(CHAR(8, collation="utf8mb4_bin"), "mysql", "mariadb"), nullable=False),
        Column("token", EncryptedString("padded.token", bind_to=("code",))),
    )
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(padded).values(id=1, code="a", token="kept"))
        with pytest.raises(UnsupportedOperationError, match="blanks"):
            connection.execute(insert(padded).values(id=2, code="a ", token="LOST"))
        assert connection.scalars(select(padded.c.token)).all() == ["kept"]


def test_an_upsert_minds_unique_indexes(engine: Engine) -> None:
    metadata = MetaData()
    table = Table(
        "indexed",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("owner", Integer, nullable=False, unique=True),
        Column("code", Integer),
        Column("token", EncryptedString("indexed.token", bind_to=("owner",))),
        SqlIndex("by_code", "code", unique=True),
    )
    metadata.create_all(engine)
    if engine.dialect.name == "postgresql":
        statement: Any = postgresql.insert(table)
        statement = statement.on_conflict_do_update(index_elements=["code"], set_={"token": statement.excluded.token})
    elif engine.dialect.name == "sqlite":
        statement = sqlite.insert(table)
        statement = statement.on_conflict_do_update(set_={"token": statement.excluded.token})
    else:
        statement = mysql.insert(table)
        statement = statement.on_duplicate_key_update(token=statement.inserted.token)
    with engine.begin() as connection, pytest.raises(UnsupportedOperationError, match="may find a row"):
        connection.execute(statement, {"owner": 2, "code": 1, "token": "LOST"})
