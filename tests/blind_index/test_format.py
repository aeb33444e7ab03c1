"""The digest, the index key, `matches`, `normalize_email`, and what cannot be declared."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    insert,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column
from sqlalchemy.types import ARRAY, TypeDecorator

from sealchemy import (
    BlindIndex,
    ColumnDefinitionError,
    EncryptedBytes,
    EncryptedJSON,
    EncryptedString,
    Key,
    KeyFormatError,
    KeyRing,
    PlaintextTypeError,
    SecretString,
    attach_key_ring,
    matches,
    normalize_email,
)
from tests.support.blind_index import digest_of
from tests.support.leaks import SENTINEL, assert_silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/blind-index-v1.json").read_text())


def digest(key: Key, context: str, text: str) -> str | None:
    engine = attach_key_ring(create_engine("sqlite://"), KeyRing(primary=Key.generate(), index_key=key))
    return BlindIndex(context).digester(engine.dialect)(text)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["context"])
def test_vectors(vector: dict[str, str]) -> None:
    key = Key.parse(vector["key"])
    assert digest(key, vector["context"], vector["text"]) == vector["digest"]
    assert digest_of(key, vector["context"], vector["text"]) == vector["digest"]


@given(text=st.text(max_size=200), secret=st.binary(min_size=32, max_size=32))
def test_an_independent_implementation_agrees(text: str, secret: bytes) -> None:
    try:
        key = Key(secret)
    except KeyFormatError:
        return
    assert digest(key, "a.b", text) == digest_of(key, "a.b", text)


def test_digests_depend_on_the_key_and_the_context() -> None:
    one, other = Key.generate(), Key.generate()
    found = {digest(key, context, "x") for key in (one, other) for context in ("a", "b")}
    assert len(found) == 4
    assert all(item and len(item) == 41 for item in found)


MATCHES = [
    ("a", "a", True),
    (SecretString("a"), "a", True),
    ("a", SecretString("a"), True),
    ("a", "b", False),
    ("a", "a ", False),
    ("ä", "ä", True),
    ("\ud800", "\ud800", True),
    ("", "", True),
    (None, "a", False),
    ("a", None, False),
    (None, None, False),
    (b"a", b"a", False),
    (1, 1, False),
]


@pytest.mark.parametrize(("secret", "presented", "expected"), MATCHES)
def test_matches(secret: Any, presented: Any, *, expected: bool) -> None:
    assert matches(secret, presented) is expected


def test_matches_takes_what_holds_a_secret() -> None:
    class Holder:
        def get_secret_value(self) -> str:
            return "a"

    assert matches("a", Holder())  # type: ignore[arg-type]


def test_normalize_email() -> None:
    assert normalize_email("  Ann@EXAMPLE.org\n") == "ann@example.org"
    # Under Unicode's rules, these would be equal to the addresses of others.
    for one, other in (
        ("\u212aen@x.org", "ken@x.org"),
        ("\u0131@x.org", "i@x.org"),
        ("stra\u00dfe@x.org", "strasse@x.org"),
    ):
        assert normalize_email(one) != normalize_email(other)


class TestKeys:
    """Where the index key comes from, and which keys it may be."""

    def environment(self, **more: str) -> dict[str, str]:
        return {"P_KEY": Key.generate().reveal(), **more}

    def test_it_is_read_from_the_environment_or_a_file(self, tmp_path: Path) -> None:
        key = Key.generate()
        assert KeyRing.from_env("P", self.environment()).index_key is None
        assert KeyRing.from_env("P", self.environment(P_INDEX_KEY=key.reveal())).index_key == key
        (tmp_path / "key").write_text(key.reveal() + "\n")
        ring = KeyRing.from_env("P", self.environment(P_INDEX_KEY_FILE=str(tmp_path / "key")))
        assert ring.index_key == key
        assert f"index_key={key.id!r}" in repr(ring)
        assert "index_key" not in repr(KeyRing(primary=key))

    @pytest.mark.parametrize("role", ["P_KEY", "P_PREVIOUS_KEYS"])
    def test_it_is_no_key_that_encrypts(self, role: str) -> None:
        key = Key.generate()
        with pytest.raises(KeyFormatError, match="P_INDEX_KEY"):
            KeyRing.from_env("P", self.environment(**{role: key.reveal(), "P_INDEX_KEY": key.reveal()}))
        with pytest.raises(KeyFormatError, match="index key"):
            KeyRing(primary=key, index_key=key)
        with pytest.raises(KeyFormatError, match="index key"):
            KeyRing(primary=Key.generate(), previous=[key], index_key=key)

    def test_what_is_no_key_is_refused_and_not_shown(self) -> None:
        with pytest.raises(KeyFormatError) as caught:
            KeyRing(primary=Key.generate(), index_key=SENTINEL)  # type: ignore[arg-type]
        assert_silent(caught.value)
        with pytest.raises(KeyFormatError, match="P_INDEX_KEY") as caught:
            KeyRing.from_env("P", self.environment(P_INDEX_KEY=SENTINEL))
        assert_silent(caught.value)


class Inside(TypeDecorator[str]):
    """A type over the index, whose columns would not be filled."""

    impl = BlindIndex
    cache_ok = True


def own(text: str) -> str:
    return text.lower()


def broken(text: str) -> str:
    raise ValueError(text)


def no_text(text: str) -> Any:
    return text.encode()


def no_result(text: str) -> Any:
    text.lower()


SECRET = partial(Column, "s", EncryptedString("t.s"))
DECLARATIONS: dict[str, tuple[str, Callable[[], Any]]] = {
    "no secret": ("has no column", lambda: table(Column("i", BlindIndex("t.s")))),
    "another context": ("has no column", lambda: table(SECRET(), Column("i", BlindIndex("t.other")))),
    "two secrets": (
        "more than one column",
        lambda: table(SECRET(), Column("s2", EncryptedString("t.s")), Column("i", BlindIndex("t.s"))),
    ),
    "two indexes": (
        "keep one",
        lambda: table(SECRET(), Column("i", BlindIndex("t.s")), Column("j", BlindIndex("t.s", own))),
    ),
    "of JSON": (
        "only an EncryptedString",
        lambda: table(Column("s", EncryptedJSON("t.s")), Column("i", BlindIndex("t.s"))),
    ),
    "of bytes": (
        "only an EncryptedString",
        lambda: table(Column("s", EncryptedBytes("t.s")), Column("i", BlindIndex("t.s"))),
    ),
    "a default of the secret": (
        "default in Python",
        lambda: table(SECRET(default="x"), Column("i", BlindIndex("t.s"))),
    ),
    "an onupdate of the secret": (
        "default in Python",
        lambda: table(SECRET(onupdate=lambda: "x"), Column("i", BlindIndex("t.s"))),
    ),
    "primary key": ("primary_key", lambda: Column("i", BlindIndex("t.s"), primary_key=True)),
    "foreign key": ("ForeignKey", lambda: table(SECRET(), Column("i", BlindIndex("t.s"), ForeignKey("x.y")))),
    "a default": ("a default", lambda: table(SECRET(), Column("i", BlindIndex("t.s"), default="x"))),
    "a server default": ("a default", lambda: table(SECRET(), Column("i", BlindIndex("t.s"), server_default="x"))),
    "onupdate": ("onupdate", lambda: table(SECRET(), Column("i", BlindIndex("t.s"), onupdate="x"))),
    "inside a type": ("inside", lambda: table(SECRET(), Column("i", Inside("t.s")))),
    "inside an array": ("inside", lambda: table(SECRET(), Column("i", ARRAY(BlindIndex("t.s"))))),
    "a variant": ("variant", lambda: BlindIndex("t.s").with_variant(Text(), "sqlite")),
    "as a variant": ("inside", lambda: table(SECRET(), Column("i", Text().with_variant(BlindIndex("t.s"), "sqlite")))),
    "a malformed context": ("context", lambda: BlindIndex("no spaces")),
    "a lambda": ("normalize", lambda: BlindIndex("t.s", lambda text: text)),
    "a method": ("normalize", lambda: BlindIndex("t.s", str.lower)),
    "a bound method": ("normalize", lambda: BlindIndex("t.s", "x".join)),
    "a partial": ("normalize", lambda: BlindIndex("t.s", partial(own))),
    "no function": ("normalize", lambda: BlindIndex("t.s", SENTINEL)),  # type: ignore[arg-type]
    "another during_rollout": ("during_rollout", lambda: BlindIndex("t.s", during_rollout="x")),  # type: ignore[arg-type]
    "a subclass": ("use BlindIndex itself", lambda: type("Mine", (BlindIndex,), {"cache_ok": True})),
}


def table(*columns: Column[Any]) -> Table:
    return Table("t", MetaData(), Column("id", Integer, primary_key=True), *columns)


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_declaration_that_would_not_be_filled_is_refused(name: str) -> None:
    message, declare = DECLARATIONS[name]
    with pytest.raises(ColumnDefinitionError, match=message) as caught:
        declare()
    assert_silent(caught.value)


def test_an_index_in_a_mixin_and_in_an_inherited_table(make_engine: Callable[..., Engine]) -> None:
    class Base(DeclarativeBase):
        pass

    class WithToken:
        @declared_attr
        def token(cls) -> Mapped[str | None]:  # noqa: N805
            return mapped_column(EncryptedString(f"{cls.__tablename__}.token"))  # type: ignore[attr-defined]

        @declared_attr
        def token_index(cls) -> Mapped[str | None]:  # noqa: N805
            return mapped_column(BlindIndex(f"{cls.__tablename__}.token"))  # type: ignore[attr-defined]

    class One(WithToken, Base):
        __tablename__ = "one"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "one"}  # noqa: RUF012

    class Child(One):
        __mapper_args__ = {"polymorphic_identity": "child"}  # noqa: RUF012
        extra: Mapped[str | None] = mapped_column(EncryptedString("one.extra"))
        extra_index: Mapped[str | None] = mapped_column(BlindIndex("one.extra"))

    class Joined(One):
        __tablename__ = "joined"
        id: Mapped[int] = mapped_column(ForeignKey("one.id"), primary_key=True)
        more: Mapped[str | None] = mapped_column(EncryptedString("joined.more"))
        more_index: Mapped[str | None] = mapped_column(BlindIndex("joined.more"))
        __mapper_args__ = {"polymorphic_identity": "joined"}  # noqa: RUF012

    from sqlalchemy.orm import Session, with_polymorphic

    engine = make_engine("sqlite://", KeyRing(primary=Key.generate(), index_key=Key.generate()))
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Child(token="a", extra="b"), Joined(token="c", more="d"), One(token="e")])
        session.commit()
        assert session.scalars(select(Child).filter_by(extra="b", token="a")).one().extra_index
        assert session.scalars(select(Joined).filter_by(more="d", token="c")).one().more_index
        every = with_polymorphic(One, "*", flat=True)
        assert session.scalars(select(every).where(every.Joined.more == "d", every.token == "c")).one().id == 2
        assert session.scalars(select(One).where(One.token.in_(["a", "c", "e"]))).all()[2].kind == "one"
        assert session.query(Joined).filter(Joined.token == "c").one().more == "d"


@pytest.mark.parametrize(
    ("function", "problem"), [(broken, "raised ValueError"), (no_text, "returned bytes"), (no_result, "returned None")]
)
def test_a_normalize_function_that_fails_shows_nothing(
    function: Any, problem: str, make_engine: Callable[..., Engine]
) -> None:
    found = table(SECRET(), Column("i", BlindIndex("t.s", function)))
    engine = make_engine("sqlite://", KeyRing(primary=Key.generate(), index_key=Key.generate()))
    found.create(engine)
    with engine.connect() as connection:
        for statement in (insert(found).values(s=SENTINEL), select(found.c.id).where(found.c.s == SENTINEL)):
            with pytest.raises(PlaintextTypeError, match=problem) as caught:
                connection.execute(statement)
            assert_silent(caught.value)


def test_statements_of_two_indexes_are_cached_apart(make_engine: Callable[..., Engine]) -> None:
    """The types differ in their function alone."""
    one = table(SECRET(), Column("i", BlindIndex("t.s")))
    other = Table(
        "t", MetaData(), Column("id", Integer, primary_key=True), SECRET(), Column("i", BlindIndex("t.s", own))
    )
    engine = make_engine("sqlite://", KeyRing(primary=Key.generate(), index_key=Key.generate()))
    one.create(engine)
    with engine.connect() as connection:
        for found in (one, other, one, other):
            connection.execute(insert(found), {"s": "A"})
        stored = connection.execute(select(one.c.i)).scalars().all()
        assert stored[0] == stored[2] != stored[1] == stored[3]
        assert connection.scalars(select(other.c.id).where(other.c.s == "a")).all() == [2, 4]


def test_a_type_can_be_pickled_and_shows_its_declaration() -> None:
    for type_ in (BlindIndex("t.s"), BlindIndex("t.s", own), BlindIndex("t.s", during_rollout="plaintext")):
        again = pickle.loads(pickle.dumps(type_))  # noqa: S301 - our own
        assert repr(again) == repr(type_)
        assert again._static_cache_key == type_._static_cache_key
    assert repr(BlindIndex("t.s", own)) == "BlindIndex('t.s', own)"


def test_an_index_alone_is_checked_in_a_new_process() -> None:
    program = (
        "from sqlalchemy import *; from sealchemy import BlindIndex\n"
        "Table('t', MetaData(), Column('id', Integer, primary_key=True), Column('i', BlindIndex('t.s')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "has no column with the context" in done.stderr
