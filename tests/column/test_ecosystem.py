"""Ordinary features of SQLAlchemy, and of its extensions, work with encrypted columns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy_continuum as continuum
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    event,
    exists,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.ext.declarative import AbstractConcreteBase
from sqlalchemy.ext.horizontal_shard import ShardedSession, set_shard_id
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    DynamicMapped,
    Mapped,
    Session,
    WriteOnlyMapped,
    aliased,
    attribute_keyed_dict,
    column_property,
    composite,
    configure_mappers,
    contains_eager,
    defer,
    immediateload,
    joinedload,
    lazyload,
    load_only,
    mapped_column,
    polymorphic_union,
    query_expression,
    raiseload,
    registry,
    relationship,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    undefer_group,
    with_expression,
    with_loader_criteria,
    with_polymorphic,
)
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.sql.expression import ClauseElement, Executable, FunctionElement

from sealchemy import EncryptedString, Key, KeyRing, SecretString, UnsupportedOperationError, attach_key_ring


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owners"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(50), unique=True)
    token: Mapped[str | None] = mapped_column(EncryptedString("owners.token"))
    rotations: Mapped[int] = mapped_column(default=0)
    extra: Mapped[str | None] = query_expression()
    grants: Mapped[list[Grant]] = relationship(
        back_populates="owner", cascade="all, delete-orphan", order_by="Grant.id"
    )
    written: WriteOnlyMapped[Grant] = relationship(viewonly=True, order_by="Grant.id")
    dynamic: DynamicMapped[Grant] = relationship(viewonly=True, order_by="Grant.id")
    by_label: Mapped[dict[str, Grant]] = relationship(viewonly=True, collection_class=attribute_keyed_dict("label"))
    secrets: AssociationProxy[list[str]] = association_proxy(
        "grants", "secret", creator=lambda secret: Grant(label="made", secret=secret)
    )

    @hybrid_property
    def current(self) -> str | None:
        return self.token

    @current.inplace.setter
    def _set_current(self, value: str | None) -> None:
        self.token, self.rotations = value, self.rotations + 1

    @current.inplace.expression
    @classmethod
    def _select_current(cls) -> Any:
        return cls.token.label("current")  # for an attribute, SQLAlchemy ignores the update_expression

    @current.inplace.update_expression
    @classmethod
    def _update_current(cls, value: Any) -> list[tuple[Any, Any]]:
        return [(cls.token, value), (cls.rotations, cls.rotations + 1)]

    @hybrid_property
    def has_token(self) -> bool:
        return self.token is not None

    @has_token.inplace.expression
    @classmethod
    def _has_token(cls) -> Any:
        return cls.token.is_not(None)


class Grant(Base):
    __tablename__ = "grants"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("owners.id"))
    label: Mapped[str] = mapped_column(String(50))
    secret: Mapped[str] = mapped_column(EncryptedString("grants.secret"))
    spare: Mapped[str | None] = mapped_column(EncryptedString("grants.secret"), deferred=True, deferred_group="spare")
    owner: Mapped[Owner] = relationship(back_populates="grants")


class Ledger(Base):
    """The owners again, each with its grants: old releases fail on RETURNING with such properties."""

    __table__ = Owner.__table__

    latest: Mapped[str | None] = column_property(
        select(Grant.secret)
        .where(Grant.owner_id == Owner.__table__.c.id)
        .order_by(Grant.id.desc())
        .limit(1)
        .correlate_except(Grant)
        .scalar_subquery()
    )
    grant_count: Mapped[int] = column_property(
        select(func.count(Grant.secret))
        .where(Grant.owner_id == Owner.__table__.c.id)
        .correlate_except(Grant)
        .scalar_subquery()
    )
    is_granted: Mapped[bool] = column_property(
        exists().where(Grant.owner_id == Owner.__table__.c.id, Grant.secret.is_not(None)).correlate_except(Grant)
    )


class Versioned(Base):
    __tablename__ = "versioned"

    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    token: Mapped[str] = mapped_column(EncryptedString("versioned.token"))
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


@dataclass
class Credential:
    login: str
    secret: str


class Holder(Base):
    __tablename__ = "holders"

    id: Mapped[int] = mapped_column(primary_key=True)
    credential: Mapped[Credential] = composite(
        mapped_column("login", String(50)), mapped_column("secret", EncryptedString("holders.secret"))
    )


class Grantee(Base):
    """The root of a joined hierarchy, below which there is a single one."""

    __tablename__ = "grantees"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "grantee"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    token: Mapped[str] = mapped_column(EncryptedString("grantees.token"))


class Robot(Grantee):
    __tablename__ = "robots"
    __mapper_args__ = {"polymorphic_identity": "robot"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(ForeignKey("grantees.id"), primary_key=True)
    secret: Mapped[str] = mapped_column(EncryptedString("robots.secret"))


class Person(Grantee):
    __mapper_args__ = {"polymorphic_identity": "person"}  # noqa: RUF012

    pin: Mapped[str | None] = mapped_column(EncryptedString("persons.pin"))


class Animal(AbstractConcreteBase, Base):
    token: Mapped[str] = mapped_column(EncryptedString("animals.token"))


class Cat(Animal):
    __tablename__ = "cats"
    __mapper_args__ = {"polymorphic_identity": "cat", "concrete": True}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)


class Dog(Animal):
    __tablename__ = "dogs"
    __mapper_args__ = {"polymorphic_identity": "dog", "concrete": True}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
    secret: Mapped[str] = mapped_column(EncryptedString("dogs.secret"))


def concrete_models() -> Any:
    """A concrete hierarchy by hand, over `polymorphic_union`."""
    mapper_registry = registry()
    tables = [
        Table(
            name,
            mapper_registry.metadata,
            Column("id", Integer, primary_key=True),
            Column("token", EncryptedString("concrete.token")),
            *([Column("secret", EncryptedString("manager.secret"))] if name == "managers" else []),
        )
        for name in ("workers", "managers")
    ]
    union = polymorphic_union({"worker": tables[0], "manager": tables[1]}, "kind", "people")

    class Worker:
        pass

    class Manager(Worker):
        pass

    mapper_registry.map_imperatively(
        Worker, tables[0], with_polymorphic=("*", union), polymorphic_on=union.c.kind, polymorphic_identity="worker"
    )
    mapper_registry.map_imperatively(Manager, tables[1], inherits=Worker, concrete=True, polymorphic_identity="manager")
    return mapper_registry, Worker, Manager


def assert_encrypted(engine: Engine, *columns: str) -> None:
    """Assert that every value of these `table.column` is stored encrypted."""
    with engine.connect() as connection:
        for name in columns:
            table, _, column = name.rpartition(".")
            stored = connection.scalars(text(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL")).all()
            assert stored
            assert all(value.startswith("sealchemy:v1:") for value in stored)


@pytest.fixture
def tables(engine: Engine) -> Engine:
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def filled(tables: Engine) -> Engine:
    """Owners 1 to 3, with two grants each."""
    with Session(tables) as session:
        for number in (1, 2, 3):
            grants = [Grant(label=label, secret=f"{label}{number}", spare=f"spare{number}") for label in ("a", "b")]
            session.add(Owner(id=number, name=f"n{number}", token=f"t{number}", grants=grants))
        session.commit()
    return tables


LOADERS = {
    "joined": joinedload,
    "inner joined": lambda attribute: joinedload(attribute, innerjoin=True),
    "selectin": selectinload,
    "subquery": subqueryload,
    "immediate": immediateload,
    "lazy": lazyload,
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("is_distinct", [False, True])
def test_relationships_load_with_limit_offset_and_distinct(filled: Engine, loader: str, is_distinct: bool) -> None:
    statement = select(Owner).options(LOADERS[loader](Owner.grants)).order_by(Owner.id).limit(2).offset(1)
    with Session(filled) as session:
        owners = session.scalars(statement.distinct() if is_distinct else statement).unique().all()
        assert [(owner.token, [grant.secret for grant in owner.grants]) for owner in owners] == [
            ("t2", ["a2", "b2"]),
            ("t3", ["a3", "b3"]),
        ]
    assert_encrypted(filled, "owners.token", "grants.secret")


@pytest.mark.parametrize("loader", LOADERS)
def test_many_to_one_loads(filled: Engine, loader: str) -> None:
    statement = select(Grant).options(LOADERS[loader](Grant.owner)).order_by(Grant.id).limit(3)
    with Session(filled) as session:
        grants = session.scalars(statement).all()
        assert [(grant.secret, grant.owner.token) for grant in grants] == [("a1", "t1"), ("b1", "t1"), ("a2", "t2")]
    assert_encrypted(filled, "owners.token", "grants.secret")


def test_raiseload_raises_and_loads_the_rest(filled: Engine) -> None:
    with Session(filled) as session:
        owner = session.scalars(select(Owner).options(raiseload("*")).order_by(Owner.id).limit(1)).one()
        assert owner.token == "t1"
        with pytest.raises(InvalidRequestError, match="raise"):
            _ = owner.grants
    assert_encrypted(filled, "owners.token")


def test_contains_eager_and_a_join_made_distinct(filled: Engine) -> None:
    with Session(filled) as session:
        joined = select(Owner).join(Owner.grants).where(Grant.label == "b")
        owners = session.scalars(joined.options(contains_eager(Owner.grants)).order_by(Owner.id)).unique().all()
        assert [(owner.token, owner.grants[0].secret) for owner in owners] == [("t1", "b1"), ("t2", "b2"), ("t3", "b3")]
        distinct = select(Owner).join(Owner.grants).distinct().order_by(Owner.id)
        assert [owner.token for owner in session.scalars(distinct)] == ["t1", "t2", "t3"]
        assert session.query(Owner).join(Owner.grants).distinct().count() == 3
    assert_encrypted(filled, "owners.token", "grants.secret")


def test_write_only_dynamic_and_keyed_collections(filled: Engine) -> None:
    with Session(filled) as session:
        owner = session.get_one(Owner, 2)
        assert [grant.secret for grant in session.scalars(owner.written.select().limit(1))] == ["a2"]
        assert [grant.secret for grant in owner.dynamic.filter(Grant.label == "b")] == ["b2"]
        assert owner.by_label["a"].secret == "a2"
    assert_encrypted(filled, "grants.secret")


def test_aliased_subqueries_ctes_and_bundles_of_entities(filled: Engine) -> None:
    with Session(filled) as session:
        alias = aliased(Owner, select(Owner).where(Owner.id > 1).limit(1).subquery())
        assert session.scalars(select(alias)).one().token in {"t2", "t3"}
        cte = aliased(Owner, select(Owner).where(Owner.id == 3).cte())
        assert session.scalars(select(cte)).one().token == "t3"
        united = aliased(Owner, select(Owner).where(Owner.id == 1).union(select(Owner).where(Owner.id == 2)).subquery())
        assert [owner.token for owner in session.scalars(select(united).order_by(united.id))] == ["t1", "t2"]
        bundle = Bundle("pair", Owner.name, Owner.token)
        assert session.scalars(select(bundle).where(Owner.id == 1)).one() == ("n1", "t1")
        assert session.query(Owner).filter(Owner.id > 1).count() == 2
        assert session.query(session.query(Owner).exists()).scalar() is True
    assert_encrypted(filled, "owners.token")


def test_lateral_and_window_function_beside_the_column(filled: Engine) -> None:
    numbered = select(Grant.owner_id, Grant.secret, func.row_number().over(order_by=Grant.id).label("at")).subquery()
    with Session(filled) as session:
        rows = session.execute(select(numbered.c.secret).where(numbered.c.at == 2)).all()
        assert rows == [("b1",)]
        if filled.dialect.name == "postgresql":
            lateral = select(Grant.secret).where(Grant.owner_id == Owner.id).order_by(Grant.id).limit(1).lateral()
            joined = select(Owner.token, lateral.c.secret).join(lateral, literal(1) == 1).order_by(Owner.id)
            assert session.execute(joined).all() == [("t1", "a1"), ("t2", "a2"), ("t3", "a3")]
            is_new = hasattr(postgresql, "distinct_on")  # SQLAlchemy 2.1
            first = select(Owner).ext(postgresql.distinct_on(Owner.id)) if is_new else select(Owner).distinct(Owner.id)
            first = first.order_by(Owner.id)
            assert [owner.token for owner in session.scalars(first)] == ["t1", "t2", "t3"]
    assert_encrypted(filled, "grants.secret")


def test_defer_load_only_undefer_group_and_for_update(filled: Engine) -> None:
    with Session(filled) as session:
        grant = session.scalars(select(Grant).options(defer(Grant.secret)).order_by(Grant.id).limit(1)).one()
        assert (grant.secret, grant.spare) == ("a1", "spare1")
        session.expunge_all()
        grant = session.scalars(select(Grant).options(load_only(Grant.secret)).order_by(Grant.id).limit(1)).one()
        assert (grant.secret, grant.label) == ("a1", "a")
        session.expunge_all()
        locked = select(Grant).options(undefer_group("spare")).order_by(Grant.id).limit(1).with_for_update()
        assert session.scalars(locked).one().spare == "spare1"
    assert_encrypted(filled, "grants.secret", "grants.spare")


def test_merge_refresh_and_expire(filled: Engine) -> None:
    with Session(filled) as session:
        merged = session.merge(Owner(id=1, token="merged", rotations=1))
        session.flush()
        session.refresh(merged, ["token"])
        assert merged.token == "merged"
        session.execute(text("UPDATE owners SET token = (SELECT token FROM owners WHERE id = 2) WHERE id = 1"))
        session.expire(merged, ["token"])
        assert merged.token == "t2"
        session.refresh(merged, with_for_update=True)
        assert isinstance(merged.token, SecretString)
        assert session.merge(Owner(id=9, name="new", token="added")).token == "added"
        session.commit()
        assert session.get_one(Owner, 9).token == "added"
    assert_encrypted(filled, "owners.token")


def test_get_with_populate_existing(filled: Engine) -> None:
    with Session(filled) as session:
        owner = session.get_one(Owner, 1)
        session.execute(text("UPDATE owners SET token = (SELECT token FROM owners WHERE id = 2) WHERE id = 1"))
        assert session.get(Owner, 1) is owner
        assert owner.token == "t1"
        session.get(Owner, 1, populate_existing=True)
        assert owner.token == "t2"
        assert session.get(Owner, 3, options=[joinedload(Owner.grants)], with_for_update={"of": Owner}) is not None
    assert_encrypted(filled, "owners.token")


def test_legacy_bulk_operations(tables: Engine) -> None:
    with Session(tables) as session:
        session.bulk_insert_mappings(Owner, [{"id": -2, "token": "a"}, {"id": -1, "token": "b"}])  # type: ignore[arg-type]
        session.bulk_insert_mappings(Owner, [{"name": "c", "token": "c"}], return_defaults=True)  # type: ignore[arg-type]
        session.bulk_update_mappings(Owner, [{"id": -2, "token": "changed"}])  # type: ignore[arg-type]
        session.bulk_save_objects([Owner(id=-4, token="saved"), Owner(id=-3, token="too")])
        session.commit()
        owners = {owner.id: owner.token for owner in session.scalars(select(Owner)) if owner.name is None}
        assert owners == {-2: "changed", -1: "b", -4: "saved", -3: "too"}
        assert session.scalars(select(Owner.token).where(Owner.name == "c")).one() == "c"
    assert_encrypted(tables, "owners.token")


def test_bulk_insert_returns_rows_in_the_order_of_the_parameters(tables: Engine) -> None:
    rows = [{"name": f"n{number}", "token": f"t{number}"} for number in range(1500)]
    statement = insert(Owner).returning(Owner.token, Owner.name, sort_by_parameter_order=True)
    with Session(tables) as session:
        assert session.execute(statement, rows).all() == [(row["token"], row["name"]) for row in rows]
        entities = insert(Owner).returning(Owner, sort_by_parameter_order=True)
        assert [owner.token for owner in session.scalars(entities, [{"token": "x"}, {"token": "y"}])] == ["x", "y"]
        session.commit()
    assert_encrypted(tables, "owners.token")


@pytest.mark.parametrize("synchronize", ["evaluate", "fetch", False])
def test_orm_update_and_delete(filled: Engine, synchronize: Any) -> None:
    options = {"synchronize_session": synchronize}
    with Session(filled) as session:
        grant = session.scalars(select(Grant).order_by(Grant.id).limit(1)).one()
        changed = update(Grant).where(Grant.label == "a", Grant.secret.is_not(None)).values(secret="new")
        session.execute(changed, execution_options=options)
        if synchronize is False:
            session.expire(grant)
        assert grant.secret == "new"
        session.execute(update(Grant).values({Grant.spare: Grant.secret}), execution_options=options)
        session.expire(grant)
        assert grant.spare == "new"
        gone = delete(Grant).where(Grant.label == "b", Grant.spare.is_not(None))
        session.execute(gone, execution_options=options)
        session.commit()
        assert session.scalars(select(Grant.secret)).all() == ["new"] * 3
    assert_encrypted(filled, "grants.secret", "grants.spare")


def test_orm_update_and_delete_returning(filled: Engine) -> None:
    with Session(filled) as session:
        changed = update(Owner).where(Owner.id == 1).values(token="new").returning(Owner)
        assert session.scalars(changed, execution_options={"populate_existing": True}).one().token == "new"
        session.commit()
        session.execute(update(Owner), [{"id": 2, "token": "bulk"}])
        by_parameter = update(Owner.__table__).where(Owner.__table__.c.id == bindparam("at"))
        session.connection().execute(by_parameter.values(token=bindparam("to")), [{"at": 3, "to": "core"}])
        assert session.scalars(select(Owner.token).order_by(Owner.id)).all() == ["new", "bulk", "core"]
        session.commit()
        deleted = session.execute(delete(Grant).where(Grant.owner_id == 1).returning(Grant.secret)).all()
        assert sorted(deleted) == [("a1",), ("b1",)]
    assert_encrypted(filled, "owners.token")


@pytest.mark.parametrize("loader", ["joined", "selectin", "subquery", "lazy"])
def test_with_loader_criteria(filled: Engine, loader: str) -> None:
    with Session(filled) as session:
        statement = select(Owner).options(
            LOADERS[loader](Owner.grants),
            with_loader_criteria(Grant, lambda cls: cls.label == "b"),
            with_loader_criteria(Owner, Owner.token.is_not(None)),
        )
        owners = session.scalars(statement.order_by(Owner.id)).unique().all()
        assert [(owner.token, [grant.secret for grant in owner.grants]) for owner in owners] == [
            (f"t{number}", [f"b{number}"]) for number in (1, 2, 3)
        ]
    assert_encrypted(filled, "owners.token", "grants.secret")


def test_association_proxy(filled: Engine) -> None:
    with Session(filled) as session:
        owner = session.get_one(Owner, 1)
        owner.secrets.append("c1")
        session.commit()
        assert list(owner.secrets) == ["a1", "b1", "c1"]
        assert session.scalars(select(Owner.token).where(Owner.id == 1, Owner.secrets != None)).all() == ["t1"]  # noqa: E711
        owner.secrets[0] = "set"
        owner.secrets.remove("b1")
        session.commit()
        assert list(owner.secrets) == ["set", "c1"]
    assert_encrypted(filled, "grants.secret")


def test_column_property_that_is_an_encrypted_scalar_subquery(filled: Engine) -> None:
    with Session(filled) as session:
        session.add(Owner(id=4, token="t4"))
        session.commit()
        ledgers = session.scalars(select(Ledger).order_by(Ledger.id).offset(2).limit(2)).all()
        assert [(ledger.token, ledger.latest) for ledger in ledgers] == [("t3", "b3"), ("t4", None)]
        assert isinstance(ledgers[0].latest, SecretString)
    assert_encrypted(filled, "owners.token", "grants.secret")


def test_column_property_with_count_and_exists(filled: Engine) -> None:
    with Session(filled) as session:
        session.add(Owner(id=4, token="t4"))
        session.commit()
        owners = session.scalars(select(Ledger).where(Ledger.is_granted).order_by(Ledger.id)).all()
        assert [(owner.token, owner.grant_count) for owner in owners] == [("t1", 2), ("t2", 2), ("t3", 2)]
        ungranted = session.scalars(select(Ledger).order_by(Ledger.grant_count).limit(1)).one()
        assert (ungranted.token, ungranted.is_granted) == ("t4", False)
    assert_encrypted(filled, "owners.token", "grants.secret")


def test_query_expression(filled: Engine) -> None:
    with Session(filled) as session:
        statement = select(Owner).join(Owner.grants).where(Grant.label == "a", Owner.id == 1)
        owner = session.scalars(statement.options(with_expression(Owner.extra, Grant.secret))).one()
        assert (owner.token, owner.extra) == ("t1", "a1")
        assert session.get_one(Owner, 2).extra is None
    assert_encrypted(filled, "owners.token", "grants.secret")


def test_yield_per_and_partitions(filled: Engine) -> None:
    with Session(filled) as session:
        statement = select(Owner).order_by(Owner.id).options(selectinload(Owner.grants))
        pages = session.scalars(statement.execution_options(yield_per=2)).partitions()
        assert [[(o.token, o.grants[0].secret) for o in page] for page in pages] == [
            [("t1", "a1"), ("t2", "a2")],
            [("t3", "a3")],
        ]
        rows = session.execute(select(Owner.token).order_by(Owner.id), execution_options={"stream_results": True})
        assert [row.token for row in rows] == ["t1", "t2", "t3"]
    assert_encrypted(filled, "owners.token")


def test_hybrid_property_with_an_update_expression(filled: Engine) -> None:
    with Session(filled) as session:
        session.execute(update(Owner).where(Owner.has_token, Owner.id == 1).values({Owner.current: "new"}))
        owner = session.get_one(Owner, 2)
        owner.current = "set"
        session.commit()
        rows = session.execute(select(Owner.current, Owner.rotations).where(Owner.id < 3).order_by(Owner.id)).all()
        assert rows == [("new", 1), ("set", 1)]
    assert_encrypted(filled, "owners.token")


def test_version_id_col(tables: Engine) -> None:
    with Session(tables) as session:
        item = Versioned(id=1, token="first")
        session.add(item)
        session.commit()
        item.token = "second"
        session.commit()
        assert (item.token, item.version) == ("second", 2)
        session.execute(text("UPDATE versioned SET version = 7"))
        item.token = "third"
        with pytest.raises(StaleDataError):
            session.flush()
    assert_encrypted(tables, "versioned.token")


def test_composite(tables: Engine) -> None:
    with Session(tables) as session:
        session.add_all([Holder(id=1, credential=Credential("u", "s")), Holder(id=2, credential=Credential("v", "x"))])
        session.commit()
        session.execute(update(Holder).where(Holder.id == 1).values({Holder.credential: Credential("u", "s2")}))
        session.get_one(Holder, 2).credential = Credential("v", "x2")
        session.commit()
        assert session.get_one(Holder, 1).credential == Credential("u", "s2")
        assert session.scalars(select(Holder.credential).order_by(Holder.id)).all()[1] == Credential("v", "x2")
    assert_encrypted(tables, "holders.secret")


@pytest.fixture
def grantees(tables: Engine) -> Engine:
    with Session(tables) as session:
        session.add_all(
            [
                Grantee(id=1, token="t1"),
                Robot(id=2, token="t2", secret="s2"),
                Person(id=3, token="t3", pin="p3"),
            ]
        )
        session.commit()
    return tables


@pytest.mark.parametrize("is_flat", [True, False])
def test_with_polymorphic_of_joined_and_single_inheritance(grantees: Engine, is_flat: bool) -> None:
    anyone = with_polymorphic(Grantee, "*", flat=is_flat, aliased=True)
    with Session(grantees) as session:
        found: list[Any] = list(session.scalars(select(anyone).order_by(anyone.id).limit(3)))
        assert [item.token for item in found] == ["t1", "t2", "t3"]
        assert (found[1].secret, found[2].pin) == ("s2", "p3")
        rows = session.execute(select(anyone.token, anyone.Robot.secret).where(anyone.Robot.secret.is_not(None)))
        assert rows.all() == [("t2", "s2")]
    assert_encrypted(grantees, "grantees.token", "grantees.pin", "robots.secret")


def test_subclasses_of_joined_and_single_inheritance(grantees: Engine) -> None:
    with Session(grantees) as session:
        everyone = select(Grantee).options(selectin_polymorphic(Grantee, [Robot, Person])).order_by(Grantee.id)
        found: list[Any] = list(session.scalars(everyone))
        assert (found[1].secret, found[2].pin) == ("s2", "p3")
        session.execute(update(Person).values(pin="p4", token="t4"))
        rows = [{"id": 5, "token": "t5", "secret": "s5"}, {"id": 6, "token": "t6", "secret": "s6"}]
        session.execute(insert(Robot), rows)
        found[1].secret = "changed"
        session.commit()
        robots = session.scalars(select(Robot).order_by(Robot.id)).all()
        assert [(robot.token, robot.secret) for robot in robots] == [("t2", "changed"), ("t5", "s5"), ("t6", "s6")]
        assert session.execute(select(Person.token, Person.pin)).all() == [("t4", "p4")]
    assert_encrypted(grantees, "grantees.token", "grantees.pin", "robots.secret")


def test_concrete_inheritance_with_polymorphic_union(engine: Engine) -> None:
    mapper_registry, worker, manager = concrete_models()
    mapper_registry.metadata.create_all(engine)
    first, second = worker(), manager()
    first.id, first.token = 1, "t1"
    second.id, second.token, second.secret = 2, "t2", "s2"
    with Session(engine) as session:
        session.add_all([first, second])
        session.commit()
        session.expunge_all()
        found = session.scalars(select(worker).order_by(worker.id)).all()
        assert [(type(item), item.token) for item in found] == [(worker, "t1"), (manager, "t2")]
        assert found[1].secret == "s2"
        assert session.scalars(select(manager)).one().secret == "s2"
    mapper_registry.dispose()
    assert_encrypted(engine, "workers.token", "managers.token", "managers.secret")


def test_abstract_concrete_base(tables: Engine) -> None:
    with Session(tables) as session:
        session.add_all([Cat(id=1, token="t1"), Dog(id=2, token="t2", secret="s2")])
        session.commit()
        found: Any = session.scalars(select(Animal)).all()
        assert {item.id: item.token for item in found} == {1: "t1", 2: "t2"}
        assert session.scalars(select(Dog)).one().secret == "s2"
    assert_encrypted(tables, "cats.token", "dogs.token", "dogs.secret")


def test_schema_translate_map(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()

    @event.listens_for(engine, "connect")
    def attach(connection: Any, _record: object) -> None:
        connection.execute("ATTACH ':memory:' AS one")
        connection.execute("ATTACH ':memory:' AS two")

    columns = Column("id", Integer, primary_key=True), Column("token", EncryptedString("tenant.token"))
    table = Table("tenants", MetaData(schema="tenant"), *columns)
    for schema in ("one", "two"):
        options = {"schema_translate_map": {"tenant": schema}}
        with engine.connect().execution_options(**options) as connection:
            table.create(connection)
            connection.execute(insert(table), [{"token": schema}, {"token": "other"}])
            connection.execute(
                update(table)
                .where(table.c.id == 2)
                .values(token=select(table.c.token).where(table.c.id == 1).scalar_subquery())
            )
            connection.commit()
            assert connection.scalars(select(table.c.token)).all() == [schema, schema]
        assert_encrypted(engine, f"{schema}.tenants.token")


class Twice(FunctionElement[int]):
    type = Integer()
    inherit_cache = True


@compiles(Twice)
def _compile_twice(element: Twice, compiler: Any, **kwargs: Any) -> str:
    return f"(2 * {compiler.process(element.clauses, **kwargs)})"


class InsertFrom(Executable, ClauseElement):
    """The recipe of SQLAlchemy's documentation."""

    inherit_cache = False

    def __init__(self, table: Any, source: Any) -> None:
        self.table, self.source = table, source


@compiles(InsertFrom)
def _compile_insert_from(element: InsertFrom, compiler: Any, **kwargs: Any) -> str:
    source = compiler.process(element.source, **kwargs)
    return f"INSERT INTO {compiler.process(element.table, asfrom=True, **kwargs)} (id, rotations, token) {source}"


class Explain(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement


@compiles(Explain)
def _compile_explain(element: Explain, compiler: Any, **kwargs: Any) -> str:
    return "EXPLAIN " + str(compiler.process(element.statement, **kwargs))


def test_custom_elements_beside_encrypted_columns(filled: Engine) -> None:
    with Session(filled) as session:
        statement = select(Owner.token, Twice(Owner.id)).where(Twice(Owner.id) > 2).order_by(Twice(Owner.id))
        assert session.execute(statement).all() == [("t2", 4), ("t3", 6)]
        source = select(Owner.id + 10, Owner.rotations, Owner.token).where(Twice(Owner.id) == 2)
        session.execute(InsertFrom(Owner.__table__, source))
        session.execute(update(Owner).where(Twice(Owner.id) == 22).values(rotations=Twice(Owner.id), name="copy"))
        session.commit()
        copy = session.get_one(Owner, 11)
        assert (copy.token, copy.rotations) == ("t1", 22)
        assert session.execute(Explain(select(Owner).where(Owner.id == 1))).all()
        with pytest.raises(UnsupportedOperationError, match=r"owners\.token"):
            session.execute(select(Twice(Owner.token)))
    assert_encrypted(filled, "owners.token")


def test_horizontal_sharding(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    shards = {name: make_engine(f"sqlite:///{tmp_path / name}.db") for name in ("odd", "even")}
    for shard in shards.values():
        Base.metadata.create_all(shard)

    def make_session() -> ShardedSession:
        return ShardedSession(
            shards=shards,
            shard_chooser=lambda _mapper, instance, _clause=None: "odd" if instance.id % 2 else "even",
            identity_chooser=lambda _mapper, key, **_options: ["odd" if key[0] % 2 else "even"],
            execute_chooser=lambda _context: list(shards),
        )

    with make_session() as session:
        session.add_all([Owner(id=number, name=str(number), token=f"t{number}") for number in range(1, 5)])
        session.commit()
    with make_session() as session:
        assert {owner.id: owner.token for owner in session.scalars(select(Owner))} == {n: f"t{n}" for n in range(1, 5)}
        assert session.get_one(Owner, 3).token == "t3"
        session.execute(update(Owner).where(Owner.id > 2).values(token="new"))
        session.commit()
        only = session.scalars(select(Owner).options(set_shard_id("odd")).order_by(Owner.id)).all()
        assert [owner.token for owner in only] == ["t1", "new"]
        with pytest.raises(UnsupportedOperationError, match=r"owners\.token"):
            session.execute(select(func.lower(Owner.token)))
    for shard in shards.values():
        assert_encrypted(shard, "owners.token")


async def use_async_session(url: str) -> None:
    engine = attach_key_ring(create_async_engine(url), KeyRing(primary=Key.generate()))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Owner), [{"id": 1, "name": "n1", "token": "t1"}])
    async with AsyncSession(engine, expire_on_commit=False) as session:
        session.add(Owner(id=2, name="n2", token="t2", grants=[Grant(label="a", secret="s")]))
        await session.commit()
        new = sqlite.insert(Owner).values(id=1, name="n1", token="again")
        upsert = new.on_conflict_do_update(index_elements=[Owner.id], set_={"token": new.excluded.token})
        assert (await session.scalars(upsert.returning(Owner.token))).all() == ["again"]
        returned = await session.scalars(insert(Owner).returning(Owner), [{"token": "t3"}, {"token": "t4"}])
        assert [owner.token for owner in returned] == ["t3", "t4"]
        await session.commit()
        owners = (await session.scalars(select(Owner).options(selectinload(Owner.grants)).order_by(Owner.id))).all()
        assert [owner.token for owner in owners] == ["again", "t2", "t3", "t4"]
        assert owners[1].grants[0].secret == "s"
        await session.refresh(owners[0])
        streamed = await session.stream_scalars(select(Owner.token).order_by(Owner.id))
        assert [token async for token in streamed] == ["again", "t2", "t3", "t4"]
        with pytest.raises(UnsupportedOperationError, match=r"owners\.token"):
            await session.execute(select(func.lower(Owner.token)))
    async with engine.connect() as connection:
        stored = (await connection.scalars(text("SELECT token FROM owners"))).all()
        assert len(stored) == 4
        assert all(value.startswith("sealchemy:v1:") for value in stored)
    await engine.dispose()


def test_async_session(tmp_path: Path) -> None:
    asyncio.run(use_async_session(f"sqlite+aiosqlite:///{tmp_path / 'async.db'}"))


def test_versions_of_sqlalchemy_continuum_are_encrypted(make_engine: Callable[..., Engine]) -> None:
    continuum.make_versioned(user_cls=None)

    class LocalBase(DeclarativeBase):
        pass

    class Document(LocalBase):
        __tablename__ = "documents"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        token: Mapped[str] = mapped_column(EncryptedString("documents.token"))

    engine = make_engine()
    try:
        configure_mappers()
        LocalBase.metadata.create_all(engine)
        with Session(engine) as session:
            document: Any = Document(id=1, token="first")
            session.add(document)
            session.commit()
            document.token = "second"
            session.commit()
            assert [version.token for version in document.versions] == ["first", "second"]
            assert document.versions[1].changeset["token"] == ["first", "second"]
            document.versions[0].revert()
            session.commit()
            assert document.token == "first"
            session.delete(document)
            session.commit()
        assert_encrypted(engine, "documents_version.token")
    finally:
        continuum.remove_versioning()
        LocalBase.registry.dispose()
