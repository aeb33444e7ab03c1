"""The command line and the packaged revisions work on URLs of async drivers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.util import await_only

from sealchemy import Key, SealchemyError, UnsupportedOperationError
from sealchemy._databases.access import open_table
from sealchemy._databases.async_drivers import NeedsEventLoopError, make_engine, run
from sealchemy._databases.table import TableColumns
from tests.support.cli import Project, run_in_this_process

ROOT = Path(__file__).parents[2]
OLD, NEW = Key.generate(), Key.generate()
MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sealchemy import BlindIndex, EncryptedString

class Base(DeclarativeBase):
    pass

class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str | None] = mapped_column(EncryptedString("a.token"))
    token_index: Mapped[str | None] = mapped_column(BlindIndex("a.token"))
"""


@pytest.fixture(params=["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg_async"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The URL with the async driver, and one of the same database with a driver that is not async."""
    if request.param.startswith("sqlite"):
        return f"sqlite+aiosqlite:///{tmp_path / 'x.db'}", f"sqlite:///{tmp_path / 'x.db'}"
    url = make_url(request.getfixturevalue("postgresql_database"))
    return url.set(drivername=request.param).render_as_string(hide_password=False), url.render_as_string(
        hide_password=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("place", ["variable", "option", "file"])
def test_a_rollout_on_an_async_driver(urls: tuple[str, str], tmp_path: Path, place: str) -> None:
    url, plain = urls
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/models.py").write_text(MODELS)
    engine = create_engine(plain)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE accounts (id INTEGER PRIMARY KEY, token TEXT, token_index VARCHAR(64))"))
        connection.execute(
            text("INSERT INTO accounts (id, token) VALUES (:id, :token)"),
            [{"id": key, "token": f"SENTINEL-{key}"} for key in range(1, 31)],
        )
    if place == "file":
        (tmp_path / ".env").write_text(f"DATABASE_URL={url}\n")

    def ok(name: str, *arguments: str, stage: str = "strict", keys: tuple[Key, ...] = (OLD,)) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
        environment |= {"SHOP_KEY": keys[0].reveal(), "SHOP_ROLLOUT": stage, "SHOP_INDEX_KEY": INDEX.reveal()}
        if keys[1:]:
            environment["SHOP_PREVIOUS_KEYS"] = keys[1].reveal()
        if place == "variable":
            environment["DATABASE_URL"] = url
        options = ["--url", url] if place == "option" else []
        command = [name, "--models", "shop.models:Base", "--prefix", "SHOP", *options, *arguments]
        done = run_in_this_process(command, tmp_path, environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SENTINEL" not in done.stdout + done.stderr
        return done.stdout

    try:
        assert "sealchemy encrypt" in ok("plan", stage="prepare")
        ok("widen", stage="prepare")
        assert "30 rows" in ok("reindex", stage="prepare")
        assert "30 rows" in ok("encrypt", stage="migrate")
        assert "every digest is that of its secret" in ok("verify")
        ok("check")
        assert "30 rows moved" in ok("rekey", keys=(NEW, OLD))
        assert "30" in ok("status", keys=(NEW,))
        ok("scrub", "--yes")
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE accounts"))
        engine.dispose()


INDEX = Key.generate()


@pytest.mark.slow
def test_the_packaged_revisions_on_an_async_driver(urls: tuple[str, str], tmp_path: Path) -> None:
    url, plain = urls
    environment = {**os.environ, "DATABASE_URL": url, "INTEGRATION_TOKEN_ENCRYPTION_KEY": NEW.reveal()}

    def alembic(*arguments: str) -> None:
        command = [sys.executable, "-m", "alembic", "-c", str(ROOT / "pyproject.toml"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    engine = create_engine(plain)
    try:
        alembic("upgrade", "0001")
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO integrations (user_id, provider, access_token) VALUES ('u', 'google', 'SENTINEL')")
            )
        alembic("upgrade", "head")
        alembic("check")
        with engine.connect() as connection:
            assert str(connection.scalar(text("SELECT access_token FROM integrations"))).startswith("sealchemy:v1:")
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE integrations"))
            connection.execute(text("DROP TABLE alembic_version"))
        engine.dispose()


@pytest.mark.slow
def test_an_interrupted_run_on_an_async_driver(urls: tuple[str, str], tmp_path: Path) -> None:
    url, plain = urls
    project = Project(tmp_path, plain, create_engine(plain))
    try:
        project.interrupt_and_continue(DATABASE_URL=url)
    finally:
        project.execute('DROP TABLE "Integration"')
        project.engine.dispose()


def test_a_second_interrupt_leaves_the_blocks_that_the_function_is_in() -> None:
    left: list[str] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    def wait() -> None:
        try:
            asyncio.get_running_loop().call_later(0.1, interrupt)
            await_only(asyncio.sleep(60))
        except asyncio.CancelledError:
            left.append("cancelled")
            raise
        finally:
            left.append("finally")

    with pytest.raises(KeyboardInterrupt):
        run(wait)
    assert left == ["cancelled", "finally"]


def test_inside_a_running_loop_the_way_out_is_named() -> None:
    async def main() -> None:
        with pytest.raises(UnsupportedOperationError, match=r"asyncio\.to_thread"):
            run(lambda: None)
        assert await asyncio.to_thread(run, lambda: 5) == 5

    asyncio.run(main())


def test_outside_of_a_loop_the_url_is_refused() -> None:
    with pytest.raises(NeedsEventLoopError, match="aiosqlite is an async driver"):
        make_engine("sqlite+aiosqlite://")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+asyncpg://user@127.0.0.1:1/shop", "127.0.0.1"),
        ("postgresql+asyncpg://user@127.0.0.1:1/shop?sslmode=require", "option of the URL.*sslmode"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named(url: str, says: str) -> None:
    def connect() -> None:
        engine = make_engine(url, hide_parameters=True)
        try:
            with open_table(engine, TableColumns("t", {"token": "t.token"})):
                pass
        finally:
            engine.dispose()

    with pytest.raises(SealchemyError, match=says):
        run(connect)
