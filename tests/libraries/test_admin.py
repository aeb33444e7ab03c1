"""SQLAdmin and Flask-Admin show what they are not told to leave out."""

from __future__ import annotations

import asyncio
import html
import re
from typing import TYPE_CHECKING, Any

import flask_admin
import pytest
import sqladmin
from flask import Flask
from flask_admin.contrib.sqla import ModelView as FlaskModelView
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.applications import Starlette
from starlette.testclient import TestClient

from sealchemy import EncryptedJSON, EncryptedString, KeyRing, attach_key_ring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

TOKEN = "ya29.SENTINEL-token"


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    token: Mapped[str | None] = mapped_column(EncryptedString("accounts.token"))


class Document(Base):
    __tablename__ = "documents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    tokens: Mapped[Any] = mapped_column(EncryptedJSON("documents.tokens"), nullable=True)


@pytest.fixture
def engine(url: str, ring: KeyRing) -> Iterator[Engine]:
    found = attach_key_ring(create_engine(url), ring)
    Base.metadata.create_all(found)
    with Session(found) as session:
        session.add(Account(name="Ann", token=TOKEN))
        session.commit()
    yield found
    found.dispose()


def stored(engine: Engine) -> tuple[str, str]:
    with engine.connect() as connection:
        name, token = connection.execute(text("SELECT name, token FROM accounts")).one()
    with Session(engine) as session:
        return name, str(token) and str(session.scalars(select(Account.token)).one())


class Everything(sqladmin.ModelView, model=Account):
    column_list = "__all__"


class WithoutTokens(sqladmin.ModelView, model=Account):
    column_list = (Account.id, Account.name)
    column_details_exclude_list = (Account.token,)
    column_export_exclude_list = (Account.token,)
    form_excluded_columns = (Account.token,)
    can_export = True


def pages(browser: Any, *paths: str) -> str:
    answers = [browser.get(path) for path in paths]
    assert {answer.status_code for answer in answers} == {200}
    return "".join(answer.text for answer in answers)


def who_shows(browser: Any, *paths: str) -> list[str]:
    """Return the pages that show the token."""
    return [path for path in paths if TOKEN in pages(browser, path)]


SQLADMIN = ("/admin/account/list", "/admin/account/details/1", "/admin/account/edit/1", "/admin/account/export/csv")


@pytest.mark.parametrize("is_async", [False, True])
def test_sqladmin_leaves_out_what_it_is_told_to(engine: Engine, ring: KeyRing, is_async: bool) -> None:
    url = engine.url.set(drivername={"sqlite": "sqlite+aiosqlite"}.get(engine.dialect.name, "postgresql+psycopg"))
    used: Any = attach_key_ring(create_async_engine(url), ring) if is_async else engine
    shown = {}
    for view in (Everything, WithoutTokens):
        app = Starlette()
        sqladmin.Admin(app, used).add_view(view)
        with TestClient(app) as browser:
            shown[view] = who_shows(browser, *SQLADMIN)
            assert "Ann" in pages(browser, *SQLADMIN)
            if view is WithoutTokens:
                answer = browser.post("/admin/account/edit/1", data={"name": "Bob"}, follow_redirects=False)
                assert answer.status_code == 302
    assert shown == {Everything: list(SQLADMIN), WithoutTokens: []}
    assert stored(engine) == ("Bob", TOKEN)
    if is_async:
        asyncio.run(used.dispose())


class Documents(sqladmin.ModelView, model=Document):
    form_excluded_columns = (Document.tokens,)


class AllOfDocuments(sqladmin.ModelView, model=Document):
    pass


def test_a_form_of_sqladmin_must_leave_json_out(engine: Engine) -> None:
    """It shows three stars in place of the texts; storing these is refused, so it cannot be saved."""
    with Session(engine) as session:
        session.add(Document(tokens={"access_token": TOKEN}))
        session.commit()
    edit = "/admin/document/edit/1"
    for view, status in ((AllOfDocuments, 400), (Documents, 302)):
        app = Starlette()
        sqladmin.Admin(app, engine).add_view(view)
        with TestClient(app) as browser:
            form = {"name": "x"}
            for shown in re.findall(r'name="tokens"[^>]*>(.*?)</textarea>', pages(browser, edit), re.DOTALL):
                form["tokens"] = html.unescape(shown).strip()
                assert "***" in form["tokens"]
            assert browser.post(edit, data=form, follow_redirects=False).status_code == status
        with Session(engine) as session:
            assert session.get_one(Document, 1).tokens == {"access_token": TOKEN}


FLASK_ADMIN = (
    "/admin/account/",
    "/admin/account/details/?id=1",
    "/admin/account/edit/?id=1",
    "/admin/account/export/csv/",
)


def test_flask_admin_leaves_out_what_it_is_told_to(url: str, ring: KeyRing) -> None:
    app = Flask("admin")
    app.config.update(SECRET_KEY="test", SQLALCHEMY_DATABASE_URI=url)
    db = SQLAlchemy(app)

    class Account(db.Model):  # type: ignore[name-defined] # made above
        __tablename__ = "accounts"

        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        token: Mapped[str | None] = mapped_column(EncryptedString("accounts.token"))

    class FlaskEverything(FlaskModelView):
        can_view_details = can_export = True

    class FlaskWithoutTokens(FlaskEverything):
        column_exclude_list = column_details_exclude_list = column_export_exclude_list = ("token",)
        column_sortable_list = ("name",)
        form_excluded_columns = ("token",)

    with app.app_context():
        attach_key_ring(db.engine, ring)
        db.create_all()
        db.session.add(Account(name="Ann", token=TOKEN))
        db.session.commit()
    admin = flask_admin.Admin(app, url="/admin")
    admin.add_view(FlaskEverything(Account, db))
    admin.add_view(FlaskWithoutTokens(Account, db, endpoint="without"))
    browser = app.test_client()
    assert who_shows(browser, *FLASK_ADMIN) == [path for path in FLASK_ADMIN if "edit" not in path]
    without = pages(browser, *(path.replace("account", "without") for path in FLASK_ADMIN))
    assert "Ann" in without
    assert "SENTINEL" not in without
    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert browser.get("/admin/account/?sort=1").status_code == 500  # by the token, since every column is sortable
    assert browser.get("/admin/without/?sort=0").status_code == 200
    assert browser.post("/admin/without/edit/?id=1", data={"name": "Bob"}).status_code == 302
    with app.app_context():
        assert stored(db.engine) == ("Bob", TOKEN)
        db.engine.dispose()
