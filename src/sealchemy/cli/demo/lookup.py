"""A table of API keys that are found by their value."""

from __future__ import annotations

from rich.console import Console
from sqlalchemy import Engine, MetaData, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sealchemy import BlindIndex, EncryptedString


class Base(DeclarativeBase):
    """The models of this table."""

    metadata = MetaData()


class ApiKey(Base):
    """A key that a client presents, such as `key-4711`."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    token: Mapped[str] = mapped_column(EncryptedString("api_keys.token"))
    token_index: Mapped[str] = mapped_column(BlindIndex("api_keys.token"), unique=True)


def show_lookup(console: Console, engine: Engine) -> None:
    """Store two API keys, and find one of them by its value."""
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all([ApiKey(owner="ann", token="key-4711"), ApiKey(owner="bob", token="key-9")])  # noqa: S106
    with Session(engine) as session:
        stored = session.execute(text("SELECT token, token_index FROM api_keys WHERE owner = 'ann'")).one()
        console.print("stored:", *(f"{value[:42]}…" for value in stored), highlight=False)
        query = select(ApiKey.owner).where(ApiKey.token == "key-4711")  # noqa: S105
        console.print('select(ApiKey.owner).where(ApiKey.token == "key-4711") finds', session.scalars(query).all())
