"""Servers and factories for the whole suite. Tests do not share tables, keys or engines."""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import create_engine, make_url

from sealchemy import Key, KeyRing, Rollout, attach_key_ring

from .support import mariadb, oidc_provider, postgresql, processes, provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

SERVER = pytest.StashKey[postgresql.Server]()
MARIADB = pytest.StashKey[postgresql.Server]()


def pytest_configure(config: pytest.Config) -> None:
    # A background shell ignores SIGINT, and the processes that the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    server = postgresql.find_server()
    if server is None:
        raise pytest.UsageError(postgresql.WHAT_TO_INSTALL)
    config.stash[SERVER] = server
    config.add_cleanup(server.stop)
    if (other := mariadb.find_server()) is not None:
        config.stash[MARIADB] = other
        config.add_cleanup(other.stop)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    return max(3, os.cpu_count() or 1)  # many tests wait for leases, processes or providers


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    if SERVER in node.config.stash:
        node.workerinput["postgresql"] = node.config.stash[SERVER].url
    if MARIADB in node.config.stash:
        node.workerinput["mariadb"] = node.config.stash[MARIADB].url


def pytest_report_header(config: pytest.Config) -> str | None:
    if SERVER not in config.stash:
        return None  # a worker, or nothing is run
    other = config.stash[MARIADB].description if MARIADB in config.stash else "none, its tests are skipped"
    node = (
        "with node" if oidc_provider.is_available() else f"none, its tests are skipped: {oidc_provider.WHAT_TO_INSTALL}"
    )
    return f"PostgreSQL: {config.stash[SERVER].description}\nMariaDB: {other}\noidc-provider: {node}"


@pytest.fixture(scope="session")
def postgresql_server(request: pytest.FixtureRequest) -> str:
    """The URL of a database on the server that accepts connections."""
    config = request.config
    return config.workerinput["postgresql"] if hasattr(config, "workerinput") else config.stash[SERVER].url


@pytest.fixture(scope="session")
def postgresql_database(postgresql_server: str) -> Iterator[str]:
    """The URL of a database for this worker only."""
    url = make_url(postgresql_server).set(drivername="postgresql+psycopg")
    name = f"sealchemy_{secrets.token_hex(6)}"
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def _empty_schema(database: str) -> Iterator[str]:
    schema = f"t_{secrets.token_hex(6)}"
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    url = make_url(database).update_query_dict({"options": f"-csearch_path={schema}"})
    yield url.render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    engine.dispose()


@pytest.fixture
def postgresql_url(postgresql_database: str) -> Iterator[str]:
    """The URL of an empty schema."""
    with _empty_schema(postgresql_database) as url:
        yield url


@pytest.fixture(scope="module")
def module_postgresql_url(postgresql_database: str) -> Iterator[str]:
    """The URL of a schema that the tests of a module share."""
    with _empty_schema(postgresql_database) as url:
        yield url


@contextmanager
def _empty_database(config: pytest.Config) -> Iterator[str]:
    if hasattr(config, "workerinput"):
        server = config.workerinput.get("mariadb")
    else:
        server = config.stash[MARIADB].url if MARIADB in config.stash else None
    # No package of PyPI brings this server. The header of the run says so too; .ci/run installs it where apt-get can.
    if server is None:
        pytest.skip(f"only root can install MariaDB, so its tests are optional. {mariadb.WHAT_TO_INSTALL}")
    name = f"t_{secrets.token_hex(6)}"
    engine = create_engine(server)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")
    engine.dispose()


@pytest.fixture
def mariadb_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database on MariaDB."""
    with _empty_database(request.config) as url:
        yield url


@pytest.fixture(scope="module")
def module_mariadb_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database on MariaDB that the tests of a module share."""
    with _empty_database(request.config) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once per database kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mariadb"])
def module_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a database that the tests of a module share, once per database kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('module') / 'test.db'}"
    return request.getfixturevalue(f"module_{request.param}_url")


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    """Create engines with a key ring, and dispose of them afterwards."""
    engines: list[Engine] = []

    def make(
        url: str = "sqlite://", ring: KeyRing | None = None, *, rollout: Rollout = Rollout.STRICT, **options: object
    ) -> Engine:
        engine = create_engine(url, **options)
        engines.append(engine)
        return attach_key_ring(engine, ring or KeyRing(primary=Key.generate()), rollout=rollout)

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(database_url: str, make_engine: Callable[..., Engine]) -> Engine:
    """An engine with a key ring, once per database kind."""
    return make_engine(database_url)


@pytest.fixture
def oauth_provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[provider.Provider]:
    """A running OAuth provider."""
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")  # for the server, which runs on loopback without TLS
    with provider.running() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_processes_behind() -> Iterator[None]:
    """End the processes of a test that failed."""
    yield
    processes.end_all()


@pytest.fixture(autouse=True)
def _no_keys_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's environment out of the tests."""
    for name in [name for name in os.environ if name.startswith("INTEGRATION_TOKEN_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)
