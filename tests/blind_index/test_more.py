"""Declarations and uses around blind indexes that are out of the ordinary."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    event,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    column_property,
    joinedload,
    make_transient,
    mapped_column,
    relationship,
    selectinload,
    subqueryload,
    with_loader_criteria,
)
from sqlalchemy.types import TypeDecorator

from sealchemy import (
    BlindIndex,
    ColumnDefinitionError,
    EncryptedString,
    Key,
    KeyRing,
    RewriteError,
    Rollout,
    UnsupportedOperationError,
    attach_key_ring,
)
from sealchemy._column.statements import protect
from sealchemy.plan import plan
from sealchemy.status import check_encryption
from tests.support.blind_index import digest_of
from tests.support.leaks import SENTINEL, assert_silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INDEX_KEY = Key.generate()
RING = KeyRing(primary=Key.generate(), index_key=INDEX_KEY)
SHARED = {"pii": True}
SQLALCHEMY_20 = sqlalchemy.__version__.startswith("2.0")


class Base(DeclarativeBase):
    pass


class M(Base):
    __tablename__ = "m"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str | None] = mapped_column(String(100))
    token: Mapped[str | None] = mapped_column(EncryptedString("m.token"), info=SHARED)
    token_index: Mapped[str | None] = mapped_column(BlindIndex("m.token"), unique=True, info=SHARED)
    email: Mapped[str | None] = mapped_column(EncryptedString("m.email"), info=SHARED)
    email_index: Mapped[str | None] = mapped_column(BlindIndex("m.email"), info=SHARED)


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    engine = make_engine("sqlite://", RING)
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        session.add_all([M(id=1, token="a", email="b"), M(id=2, token="b", email="c"), M(id=3, note="x")])
        session.commit()
        yield session


def test_columns_that_share_their_info(session: Session) -> None:
    assert session.scalars(select(M.id).where(M.token == "b")).all() == [2]
    assert session.scalars(select(M.id).where(M.email == "b")).all() == [1]
    assert session.get_one(M, 1).token_index == digest_of(INDEX_KEY, "m.token", "a")
    assert SHARED == {"pii": True}


def test_iterators(session: Session) -> None:
    assert session.scalars(select(M.id).where(M.token.not_in(map(str, ["a"])))).all() == [2]
    assert sorted(session.scalars(select(M.id).where(M.token.in_(item for item in ["a", "b"])))) == [1, 2]
    assert session.scalars(select(M.id).where(M.token_index.in_(dict.fromkeys(["a"])))).all() == [1]


COMPARISONS: dict[str, Callable[[], Any]] = {
    "literal ==": lambda: literal(SENTINEL) == M.token_index,
    "function ==": lambda: func.lower(SENTINEL) == M.token_index,
    "bindparam ==": lambda: bindparam("q", SENTINEL) == M.token_index,
    "literal in_": lambda: literal(SENTINEL).in_([M.__table__.c.token_index]),
    "literal in_ subquery": lambda: literal(SENTINEL).in_(select(M.token_index)),
    "literal == subquery": lambda: literal(SENTINEL) == select(M.token_index).limit(1).scalar_subquery(),
    "plain column ==": lambda: M.note == M.token_index,
    "literal_column ==": lambda: literal_column("'x'") == M.token_index,
    "tuple": lambda: tuple_(M.id, M.token_index).in_([(1, SENTINEL)]),
    "concatenation": lambda: (M.note + M.token_index) == SENTINEL,
    "typed parameter": lambda: func.coalesce(bindparam("q", SENTINEL, type_=BlindIndex("m.token")), "") != "",
}


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("stage", [Rollout.STRICT, Rollout.MIGRATE])
def test_no_plaintext_is_compared_with_digests(session: Session, name: str, stage: Rollout) -> None:
    engine = session.get_bind()
    assert isinstance(engine, Engine)
    attach_key_ring(engine, RING, rollout=stage)
    seen: list[Any] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: seen.append(arguments[2:4]))
    with pytest.raises(UnsupportedOperationError) as caught:
        session.scalars(select(M.id).where(COMPARISONS[name]())).all()
    assert_silent(caught.value)
    assert SENTINEL not in repr(seen)


def test_keys_of_columns_differ_from_their_names(make_engine: Callable[..., Engine]) -> None:
    metadata = MetaData()
    t = Table(
        "m",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("tok_c", EncryptedString("t.token"), key="tok"),
        Column("idx_c", BlindIndex("t.token"), key="tix"),
    )
    engine = make_engine("sqlite://", RING)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(t), {"id": 1, "tok": "a"})
        connection.execute(update(t).values(tok="b"))
        assert connection.scalar(select(t.c.tix)) == digest_of(INDEX_KEY, "t.token", "b")
        assert connection.scalars(select(t.c.id).where(t.c.tok == "b")).all() == [1]
    dialect = mysql.dialect()
    protect(dialect)
    statement = mysql.insert(t).values(id=1, tok="b")
    for made in (
        statement.on_duplicate_key_update(tok="c"),
        statement.on_duplicate_key_update([("tok", "c")]),
        statement.on_duplicate_key_update(tok=statement.inserted.tok),
    ):
        assert "idx_c = " in str(made.compile(dialect=dialect))


def test_a_column_that_is_added_later(make_engine: Callable[..., Engine]) -> None:
    metadata = MetaData()
    t = Table("m", metadata, Column("id", Integer, primary_key=True), Column("token", EncryptedString("t.token")))
    t.append_column(Column("token_index", BlindIndex("t.token")))
    engine = make_engine("sqlite://", RING)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(t), {"token": "a"})
        assert connection.scalars(select(t.c.id).where(t.c.token_index == "a")).all() == [1]
    assert plan(engine, metadata)[0].indexes[0].missing == 0
    t.append_column(Column("other_index", BlindIndex("t.other")))
    with engine.begin() as connection, pytest.raises(ColumnDefinitionError, match="cannot be filled"):
        connection.execute(insert(t).values(id=9, token="b"))


def test_updates_of_an_alias(session: Session) -> None:
    t = M.__table__
    x = t.alias("x")
    session.execute(update(x).values(token="new").where(x.c.id == 1))
    a = aliased(M)
    session.execute(update(a).where(a.id == 2).values(token="newer"))
    session.query(a).filter(a.id == 3).update({a.token: "newest"}, synchronize_session=False)
    for key, token in ((1, "new"), (2, "newer"), (3, "newest")):
        assert session.scalars(select(M.id).where(M.token == token)).all() == [key]


class Adapted(DeclarativeBase):
    pass


class Owner(Adapted):
    __tablename__ = "owners"
    id: Mapped[int] = mapped_column(primary_key=True)
    keys: Mapped[list[OwnedKey]] = relationship(order_by="OwnedKey.id")
    indexed: Mapped[list[OwnedKey]] = relationship(
        primaryjoin="and_(Owner.id == foreign(OwnedKey.owner_id), OwnedKey.token_index.is_not(None))", viewonly=True
    )
    ys: Mapped[list[OwnedKey]] = relationship(
        primaryjoin="and_(Owner.id == foreign(OwnedKey.owner_id), OwnedKey.token == 'y')", viewonly=True
    )


class OwnedKey(Adapted):
    __tablename__ = "owned"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id"))
    name: Mapped[str] = mapped_column(String(10))
    token: Mapped[str | None] = mapped_column(EncryptedString("owned.token"))
    token_index: Mapped[str | None] = mapped_column(BlindIndex("owned.token", during_rollout="plaintext"))


OwnedKey.has_digest = column_property(OwnedKey.__table__.c.token_index.is_not(None))  # type: ignore[attr-defined]
OwnedKey.is_y = column_property(OwnedKey.__table__.c.token == "y")  # type: ignore[attr-defined]


@pytest.mark.parametrize("stage", [Rollout.STRICT, Rollout.MIGRATE, Rollout.PREPARE])
def test_lookups_that_sqlalchemy_adapts_to_an_alias(stage: Rollout, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine("sqlite://", RING, rollout=stage)
    Adapted.metadata.create_all(engine)
    K = OwnedKey  # noqa: N806 - as models are called
    kept = K.token == "y"
    with Session(engine) as session:
        session.add(Owner(id=1, keys=[K(token=item, name=item) for item in "xyz"]))
        session.commit()
        for _ in range(3):  # SQLAlchemy must not remember the column of the first time
            for condition in (K.token == "y", K.token_index == "y", K.token.in_(["y"]), kept):
                assert [item.name for item in session.scalars(select(K).where(condition))] == ["y"]
                for option in (joinedload, selectinload, subqueryload):
                    query = select(Owner).options(option(Owner.keys.and_(condition)))
                    (owner,) = session.scalars(query.execution_options(populate_existing=True)).unique().all()
                    assert [item.name for item in owner.keys] == ["y"]
                alias = aliased(K)
                only = with_loader_criteria(K, condition, include_aliases=True)
                assert session.scalars(select(alias.name).options(only)).all() == ["y"]
                both = select(alias.name).join(K, K.owner_id == alias.owner_id).options(only)
                assert session.scalars(both).all() == ["y"]
            session.expire_all()
            (owner,) = session.scalars(select(Owner).options(joinedload(Owner.ys), joinedload(Owner.indexed))).unique()
            assert [item.name for item in owner.ys] == ["y"]
            assert len(owner.indexed) == 3
            assert session.query(K).union(session.query(K)).filter(K.token == "y").one().name == "y"
            alias = aliased(K)
            found = session.execute(select(alias.name, alias.is_y, alias.has_digest).order_by(alias.name)).all()
            assert found == [("x", False, True), ("y", True, True), ("z", False, True)]
            names = session.scalars(select(K.name).join(Owner.ys).where(K.token != "x")).all()
            assert names == ["y"]


def test_indexes_of_the_database_may_be_ordered(engine: Engine) -> None:
    metadata = MetaData()
    t = Table(
        "t",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("token", EncryptedString("t.t")),
        Column("token_index", BlindIndex("t.t")),
    )
    Index("ordered", t.c.token_index.desc(), t.c.id)
    metadata.create_all(engine)
    with engine.connect() as connection, pytest.raises(UnsupportedOperationError):
        connection.execute(select(t.c.id).order_by(t.c.token_index.desc()))


def test_columns_of_a_model_are_found_in_lists(engine: Engine) -> None:
    """SQLAlchemy tests whether a column is in a list, which compares it with others."""

    class Other(DeclarativeBase):
        pass

    class A(Other):
        __tablename__ = "a"
        id: Mapped[int] = mapped_column(primary_key=True)
        token: Mapped[str | None] = mapped_column(EncryptedString("a.token"))
        token_index: Mapped[str | None] = mapped_column(BlindIndex("a.token"))
        owner: Mapped[str | None] = mapped_column(String(10))

    Other.metadata.create_all(engine)
    assert list(A.__table__.c).index(A.__table__.c.owner) == 3
    with Session(engine) as session:
        found = session.scalars(insert(A).returning(A), [{"token": "a"}, {"token": "b"}]).all()
        assert [item.token_index for item in found] == [digest_of(INDEX_KEY, "a.token", item) for item in "ab"]


SUBQUERIES: dict[str, Callable[[], Any]] = {
    "a random row": lambda: select(old2.c.token).order_by(func.random()).limit(1).scalar_subquery(),
    "the first row": lambda: select(old2.c.token).scalar_subquery(),
    "a row by a function": lambda: (
        select(old2.c.token).where(old2.c.id == func.abs(func.random()) % 3).scalar_subquery()
    ),
    "a random row of a subquery": lambda: select(
        select(old2).order_by(func.random()).limit(1).subquery().c.token
    ).scalar_subquery(),
    "a row by another column": lambda: select(old2.c.token).where(old2.c.token_index.is_not(None)).scalar_subquery(),
}
old2 = Table(
    "m2",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("token", EncryptedString("m.token")),
    Column("token_index", BlindIndex("m.token"), index=True),
)


@pytest.mark.parametrize("name", SUBQUERIES)
def test_a_subquery_that_may_take_two_rows_is_refused(session: Session, name: str) -> None:
    session.execute(insert(old2), [{"id": key, "token": f"s{key}"} for key in (1, 2)])
    for statement in (update(M).where(M.id == 1), insert(M)):
        with pytest.raises(UnsupportedOperationError, match="comes without a digest"):
            session.execute(statement.values(token=SUBQUERIES[name]()))
    by_key = select(old2.c.token).where(old2.c.id == M.id).scalar_subquery()
    session.execute(update(M).where(M.id <= 2).values(token=by_key))
    assert session.scalars(select(M.id).where(M.token == "s2")).all() == [2]


class Lower(TypeDecorator[str]):
    """A user's type, which stores another text than it is given."""

    impl = EncryptedString
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value and value.lower()


def test_a_parameter_with_a_type_of_its_own(session: Session) -> None:
    session.execute(insert(M).values(id=9, token=literal("AbC", Lower("m.token"))))
    row = session.get_one(M, 9)
    assert row.token == "abc"
    assert row.token_index == digest_of(INDEX_KEY, "m.token", "abc")


def test_literal_execute_is_refused(session: Session) -> None:
    for stage in (Rollout.STRICT, Rollout.MIGRATE):
        engine = session.get_bind()
        assert isinstance(engine, Engine)
        attach_key_ring(engine, RING, rollout=stage)
        for condition in (
            M.token == bindparam("x", literal_execute=True),
            M.token_index.in_(bindparam("x", expanding=True, literal_execute=True)),
        ):
            with pytest.raises(UnsupportedOperationError, match="literal_execute") as caught:
                session.execute(select(M.id).where(condition), {"x": SENTINEL})
            assert SENTINEL not in str(caught.value)


def test_a_statement_that_was_compiled_for_all_columns(engine: Engine) -> None:
    t = old2
    with engine.begin() as connection:
        compiled = insert(t).compile(engine)
        if SQLALCHEMY_20:
            connection.execute(compiled, {"id": 1, "token": "a"})
        else:
            connection.execute(insert(t), {"id": 1, "token": "a"})
        assert connection.scalars(select(t.c.id).where(t.c.token == "a")).all() == [1]


def test_an_object_is_written_again(session: Session) -> None:
    again = M(token="one")
    session.add(again)
    session.flush()
    session.rollback()
    again.token = "two"
    session.add(again)
    session.commit()
    assert session.scalars(select(M).filter_by(token="two")).one() is again
    session.expunge(again)
    make_transient(again)
    again.id, again.token = None, "three"  # type: ignore[assignment]
    session.add(again)
    session.commit()
    assert again.token_index == digest_of(INDEX_KEY, "m.token", "three")
    again.note = "n"
    session.bulk_save_objects([again], update_changed_only=False)
    session.commit()
    session.bulk_update_mappings(M, [{"id": again.id, "token": "four"}])
    session.bulk_insert_mappings(M, [{"id": 50, "token": "five"}, {"id": 51, "note": "n"}])
    for key in (again.id, 50, 51):
        row = session.get_one(M, key)
        session.refresh(row)
        assert row.token_index == (row.token and digest_of(INDEX_KEY, "m.token", row.token))


def test_a_relationship_over_digests_is_refused_when_it_is_loaded(session: Session) -> None:
    class Other(DeclarativeBase):
        pass

    class A(Other):
        __tablename__ = "m"
        id: Mapped[int] = mapped_column(primary_key=True)
        token: Mapped[str | None] = mapped_column(EncryptedString("m.token"))
        token_index: Mapped[str | None] = mapped_column(BlindIndex("m.token"))
        twins: Mapped[list[A]] = relationship(
            "A", primaryjoin="foreign(A.token_index) == remote(A.token_index)", viewonly=True, uselist=True
        )

    with pytest.raises(Exception, match=r"blind index|relationship|Could not locate"):
        assert session.scalars(select(A)).first().twins  # type: ignore[union-attr]


async def _bulk_update() -> None:
    engine = attach_key_ring(create_async_engine("sqlite+aiosqlite://"), RING)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        found = M(token="a")
        session.add(found)
        await session.commit()
        await session.execute(update(M).where(M.id == found.id).values(token="b"))
        assert found.token_index == digest_of(INDEX_KEY, "m.token", "b")
    await engine.dispose()


def test_a_digest_is_renewed_without_a_query_in_async_sessions() -> None:
    asyncio.run(_bulk_update())


def add_blind_index(engine: Engine, **options: Any) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction():
            Operations(context).add_blind_index("m", {"token": "m.token"}, **options)  # type: ignore[attr-defined]


old = Table("m", MetaData(), Column("id", Integer, primary_key=True), Column("token", EncryptedString("m.token")))
SWAPS = [
    [(2, None), (1, "b")],
    [(2, "c"), (1, "b")],
    [(1, None), (2, "a")],
    [(1, "b"), (2, "a")],
]


@pytest.mark.parametrize("writes", SWAPS)
def test_stale_digests_of_a_unique_index_do_not_stand_in_the_way(
    engine: Engine, session: Session, writes: list[tuple[int, str | None]]
) -> None:
    with engine.begin() as connection:
        for key, token in writes:
            connection.execute(update(old).where(old.c.id == key).values(token=token))
    add_blind_index(engine, batch_size=1)
    session.expire_all()
    for row in session.scalars(select(M)):
        assert row.token_index == (row.token and digest_of(INDEX_KEY, "m.token", row.token))


def test_equal_secrets_in_a_unique_index_are_named(engine: Engine, session: Session) -> None:
    session.execute(update(old).values(token=SENTINEL))
    session.commit()
    with pytest.raises(RewriteError, match="two rows have the same") as caught:
        add_blind_index(engine)
    assert_silent(caught.value)


def test_another_column_is_not_overwritten(engine: Engine, session: Session) -> None:
    with pytest.raises(ColumnDefinitionError, match="no digests"):
        add_blind_index(engine, index="note")
    assert session.scalar(text("SELECT note FROM m WHERE id = 3")) == "x"
    with pytest.raises(ColumnDefinitionError, match="is a secret"):
        add_blind_index(engine, index="token")


def test_a_script_of_sql_is_refused_with_the_reason() -> None:
    context = MigrationContext.configure(dialect_name="sqlite", opts={"as_sql": True, "output_buffer": io.StringIO()})
    with pytest.raises(UnsupportedOperationError, match="without --sql"):
        Operations(context).add_blind_index("m", {"token": "m.token"})  # type: ignore[attr-defined]


def test_check_looks_at_digests_in_stage_strict_alone(engine: Engine, session: Session) -> None:
    session.execute(text("UPDATE m SET token_index = NULL"))
    session.commit()
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    check_encryption(engine, Base.metadata)
    attach_key_ring(engine, RING)
    with pytest.raises(UnsupportedOperationError, match="2 rows have no digest"):
        check_encryption(engine, Base.metadata)


def test_a_literal_in_another_stage_says_why(engine: Engine) -> None:
    attach_key_ring(engine, RING, rollout=Rollout.MIGRATE)
    with pytest.raises(UnsupportedOperationError, match="rollout stage is migrate") as caught:
        select(M.id).where(M.token == SENTINEL).compile(engine, compile_kwargs={"literal_binds": True})
    assert_silent(caught.value)
