"""Every channel that can leak a token, for every way to pass a token to SQLAlchemy.

Each cell plants a sentinel token, triggers the channel, and searches its output. A leak that this library cannot
prevent is in OPEN, with the reason and the remedy; the test fails if such a cell stops leaking. The documentation
contains the table that `python -m tests.evidence` generates from this module.
"""

from __future__ import annotations

import io
import logging
import pickle
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pytest
import sentry_sdk
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.transport import Transport
from sqlalchemy import (
    CheckConstraint,
    Integer,
    String,
    bindparam,
    create_engine,
    event,
    insert,
    inspect,
    select,
    text,
    types,
    update,
)
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from sealchemy import EncryptedString, Key, KeyRing, Rollout, SecretString, attach_key_ring
from sealchemy.operations import render_item
from tests.support import postgresql
from tests.support.leaks import SENTINEL, chain, frames_of, said_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())


class Failing(types.TypeDecorator[int]):
    """The type of another column, whose bind fails."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: object, dialect: object) -> int | None:
        if value == "fails":
            message = "another column's bind"
            raise ValueError(message)
        return value  # type: ignore[return-value]


class Base(MappedAsDataclass, DeclarativeBase):
    """The declarative base of this module."""


class Grant(Base):
    """A mapped dataclass, whose `repr` shows its fields."""

    __tablename__ = "leaks"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    token: Mapped[str | None] = mapped_column(EncryptedString("leaks.token"), default=None)
    name: Mapped[str | None] = mapped_column(String(50), unique=True, default=None)
    number: Mapped[int | None] = mapped_column(Failing, default=None)
    __table_args__ = (CheckConstraint("name <> 'bad'", name="leaks_name"),)


class Place:
    """An engine with the table and one row that holds the token."""

    def __init__(self, url: str, **options: Any) -> None:
        rollout = options.pop("rollout", Rollout.STRICT)
        self.engine: Engine = attach_key_ring(create_engine(url, **options), RING, rollout=rollout)
        Base.metadata.create_all(self.engine)
        with Session(self.engine) as session:
            session.add(Grant(token=SENTINEL, name="there"))
            session.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.dispose()


def _orm(place: Place, value: str, **others: Any) -> None:
    with Session(place.engine) as session:
        session.add(Grant(token=value, **others))
        session.flush()


def assigned(place: Place, suffix: str = "", **others: Any) -> None:
    """Assign a plain `str` to an ORM attribute."""
    _orm(place, SENTINEL + suffix, **others)


def assigned_secret(place: Place, suffix: str = "", **others: Any) -> None:
    """Assign a `SecretString` to an ORM attribute."""
    _orm(place, SecretString(SENTINEL + suffix), **others)


def loaded(place: Place, suffix: str = "", **others: Any) -> None:
    """Use a value loaded from the database."""
    with Session(place.engine) as session:
        found = session.scalars(select(Grant).where(Grant.name == "there")).one()
        assert found.token
        session.add(Grant(token=found.token + suffix, **others))
        session.flush()


def core(place: Place, suffix: str = "", **others: Any) -> None:
    """Pass a plain `str` as a parameter of a Core statement."""
    with place.engine.connect() as connection:
        connection.execute(insert(Grant), {"token": SENTINEL + suffix, **others})


def core_secret(place: Place, suffix: str = "", **others: Any) -> None:
    """Pass a `SecretString` as a parameter of a Core statement."""
    with place.engine.connect() as connection:
        connection.execute(insert(Grant), {"token": SecretString(SENTINEL + suffix), **others})


def bulk(place: Place, suffix: str = "", **others: Any) -> None:
    """Pass a plain `str` in a row of an ORM bulk INSERT."""
    with Session(place.engine) as session:
        session.execute(insert(Grant), [{"token": SENTINEL + suffix, **others}])


def updated(place: Place, suffix: str = "", **others: Any) -> None:
    """Pass a plain `str` as a value of an ORM-enabled UPDATE."""
    with Session(place.engine) as session:
        session.add(Grant(name="another"))
        session.flush()
        session.execute(update(Grant).where(Grant.name == "another").values(token=SENTINEL + suffix, **others))


WAYS = {
    "ORM, `str` assigned": assigned,
    "ORM, `SecretString`": assigned_secret,
    "ORM, loaded": loaded,
    "Core, `str`": core,
    "ORM bulk, `str`": bulk,
    "ORM `update()`, `str`": updated,
    "Core, `SecretString`": core_secret,
}
ALL = tuple(WAYS)
CORE = ("Core, `str`", "Core, `SecretString`")
ANY = ("ORM, loaded",)
FAILURES: dict[str, tuple[Callable[[Place, Any], None], tuple[str, ...]]] = {}


def failure(name: str, ways: tuple[str, ...] = ALL) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        FAILURES[name] = (function, ways)
        return function

    return add


@failure("failed bind of the encrypted column")
def _own_bind(place: Place, way: Any) -> None:
    way(place, suffix="\udfff")  # cannot be encoded as UTF-8


@failure("failed bind of another column")
def _other_bind(place: Place, way: Any) -> None:
    way(place, number="fails")


@failure("missing executemany parameter", CORE)
def _missing(place: Place, way: Any) -> None:
    token = {core: SENTINEL}.get(way, SecretString(SENTINEL))
    with place.engine.connect() as connection:
        connection.execute(insert(Grant), [{"token": token, "name": "a"}, {"token": token}])


@failure("IntegrityError")
def _integrity(place: Place, way: Any) -> None:
    way(place, name="there")


@failure("violated CHECK constraint")
def _check(place: Place, way: Any) -> None:
    way(place, name="bad")


@failure("DataError")
def _data(place: Place, way: Any) -> None:
    way(place, number=2**70)


@failure("reading a damaged value", ANY)
def _damaged(place: Place, way: Any) -> None:
    with place.engine.begin() as connection:
        connection.execute(text("INSERT INTO leaks (token) VALUES ('sealchemy:v1:damaged')"))
    with Session(place.engine) as session:
        session.scalars(select(Grant).order_by(Grant.id)).all()


def fail(name: str, way: Any, url: str) -> BaseException:
    """Return the exception that a failure raises."""
    with Place(url) as place:
        try:
            FAILURES[name][0](place, way)
        except Exception as error:  # noqa: BLE001 - any exception is searched
            return error
    message = f"{name} did not fail"
    raise AssertionError(message)


class _Memory(Transport):
    """Record what the SDK would send."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.sent: list[Any] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.sent.append(envelope.serialize().decode())


@contextmanager
def _sentry(**options: Any) -> Iterator[_Memory]:
    memory = _Memory()
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1",
        transport=memory,
        traces_sample_rate=1.0,
        auto_enabling_integrations=True,
        **options,
    )
    try:
        yield memory
    finally:
        sentry_sdk.flush()
        sentry_sdk.init()


@dataclass(frozen=True)
class Channel:
    """A place where a token could leak.

    Attributes:
        name: its name in the table.
        speak: triggers the channel and returns its output.
        databases: the databases that have this channel.
        ways: the ways that can make a difference.
    """

    name: str
    speak: Callable[[str, Any, pytest.FixtureRequest], str]
    databases: tuple[str, ...] = ("sqlite", "postgresql")
    ways: tuple[str, ...] = ALL


CHANNELS: list[Channel] = []


def channel(name: str, *databases: str, ways: tuple[str, ...] = ALL) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        CHANNELS.append(Channel(name, function, databases or ("sqlite", "postgresql"), ways))
        return function

    return add


for _name, (_, _ways) in FAILURES.items():
    channel(f"{_name}: the exception", "sqlite", "postgresql", "mariadb", ways=_ways)(
        lambda url, way, _request, name=_name: said_by(fail(name, way, url))
    )
    channel(f"{_name}: frame variables", ways=_ways)(
        lambda url, way, _request, name=_name: frames_of(fail(name, way, url), but="/tests/")
    )


@channel("engine log, INFO")
def _info(url: str, way: Any, request: pytest.FixtureRequest) -> str:
    return _logged(url, way, request, echo=True)


@channel("engine log, DEBUG")
def _debug(url: str, way: Any, request: pytest.FixtureRequest) -> str:
    return _logged(url, way, request, echo="debug")


@channel("engine log, DEBUG, `hide_parameters`")
def _debug_hidden(url: str, way: Any, request: pytest.FixtureRequest) -> str:
    return _logged(url, way, request, echo="debug", hide_parameters=True)


@channel("engine log, DEBUG, stage prepare")
def _debug_prepare(url: str, way: Any, request: pytest.FixtureRequest) -> str:
    return _logged(url, way, request, echo="debug", rollout=Rollout.PREPARE)


def _logged(url: str, way: Any, request: pytest.FixtureRequest, **options: Any) -> str:
    caplog = request.getfixturevalue("caplog")
    with Place(url, **options) as place, Session(place.engine) as session:
        way(place)
        assert session.scalars(select(Grant.token)).all()
    logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)
    assert "INSERT INTO leaks" in caplog.text
    return str(caplog.text)


@channel(
    "`repr` of objects, rows and attribute history",
    ways=tuple(way for way in ALL if way not in {*CORE, "ORM bulk, `str`"}),
)
def _reprs(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    value = {assigned: SENTINEL}.get(way, SecretString(SENTINEL))
    with Place(url) as place, Session(place.engine) as session:
        item = Grant(token=value, name="new")
        shown = [item, vars(item), inspect(item).attrs.token.history]
        session.add(item)
        session.flush()
        row = session.execute(select(Grant.token, Grant.id)).first()
        assert row is not None
        if way is updated:
            session.execute(update(Grant).where(Grant.name == "new").values(token=SENTINEL))
            return repr([item, vars(item), inspect(item).attrs.token.history])
        item.token = "another"
        shown += [row, row._mapping, item, inspect(item).attrs.token.history, session.identity_map.values()]
        return repr(shown)


@channel("`compile()`", ways=CORE)
def _compile(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    with Place(url) as place:
        statement = insert(Grant).values(token=_given(way))
        return f"{statement} {statement!r} {statement.compile(place.engine)}"


@channel("`compile()` with `literal_binds`", ways=CORE)
def _literal(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    with Place(url) as place:
        statement = insert(Grant).values(token=_given(way))
        return str(statement.compile(place.engine, compile_kwargs={"literal_binds": True}))


@channel("`params` of a compiled statement", ways=CORE)
def _compiled_parameters(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    with Place(url) as place:
        compiled = insert(Grant).values(token=_given(way)).compile(place.engine)
        return repr(compiled.params)


def _given(way: Any) -> str:
    """Return the value to pass; the ORM passes the value of the attribute, which is a `SecretString`."""
    return SENTINEL if way is core else SecretString(SENTINEL)


@channel("`repr` and pickle of MetaData, types and the ring", ways=ANY)
def _metadata(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    with Place(url) as place:
        way(place)
        things = [Base.metadata, Grant.__table__, Grant.__table__.c.token.type]
        return repr(things) + repr(pickle.dumps(things[:1])) + repr([RING, RING.primary, place.engine])


@channel("`repr` of a bindparam, statement cache key", ways=CORE)
def _internals(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    with Place(url):
        statement = insert(Grant).values(token=_given(way))
        parameter = bindparam("p", _given(way), type_=EncryptedString("leaks.token"))
        return f"{parameter!r} {statement._generate_cache_key()!r}"


@channel("pickle of a row", ways=ANY)
def _pickled_row(url: str, _way: Any, _request: pytest.FixtureRequest) -> str:
    with Place(url) as place, Session(place.engine) as session:
        return repr(pickle.dumps(session.execute(select(Grant.token)).first()))


@channel("`handle_error` listener", ways=(*CORE, "ORM, `str` assigned"))
def _listener(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    heard: list[str] = []

    def listen(context: Any) -> None:
        error = context.sqlalchemy_exception
        heard.append(f"{error} {error.params} {context.parameters} {vars(context.execution_context)}")

    with Place(url) as place:
        event.listen(place.engine, "handle_error", listen)
        with pytest.raises(StatementError):
            way(place, name="there")
    return "".join(heard)


@channel("pickle of an ORM object", ways=ANY)
def _pickled(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    with Place(url) as place, Session(place.engine) as session:
        way(place)
        return repr(pickle.dumps(session.scalars(select(Grant)).first()))


@channel("Alembic, autogenerated revision", ways=ANY)
def _autogenerated(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    with Place(url) as place, place.engine.connect() as connection:
        way(place)
        connection.execute(text("ALTER TABLE leaks DROP COLUMN token"))
        context = MigrationContext.configure(
            connection, opts={"render_item": render_item, "target_metadata": Base.metadata}
        )
        script = produce_migrations(context, Base.metadata)
        assert script.upgrade_ops
        return render_python_code(script.upgrade_ops, render_item=render_item)


@channel("Alembic, `--sql`", ways=CORE)
def _offline(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    out = io.StringIO()
    with Place(url) as place:
        way(place)
        context = MigrationContext.configure(
            dialect=place.engine.dialect, opts={"as_sql": True, "output_buffer": out, "literal_binds": True}
        )
        operations = Operations(context)
        operations.bulk_insert(Grant.__table__, [{"token": _given(way)}])
        return out.getvalue()


@channel("sentry-sdk, default options")
def _sentry_default(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    return _captured(url, way)


@channel("sentry-sdk, `include_local_variables=False`")
def _sentry_without_variables(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    return _captured(url, way, include_local_variables=False, include_source_context=False)


def _captured(url: str, way: Any, **options: Any) -> str:
    with _sentry(**options) as memory:
        with sentry_sdk.start_transaction(name="t"), Place(url) as place:
            for others in ({}, {"name": "there"}, {"number": "fails"}):
                try:
                    way(place, **others)
                except StatementError:
                    sentry_sdk.capture_exception()
        sentry_sdk.flush()
        assert len(memory.sent) >= 2
        return "".join(memory.sent)


@channel("OpenTelemetry instrumentation of SQLAlchemy")
def _traced(url: str, way: Any, _request: pytest.FixtureRequest) -> str:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = SQLAlchemyInstrumentor()
    with Place(url) as place:
        instrumentor.instrument(
            engine=place.engine, tracer_provider=provider, enable_commenter=True, skip_dep_check=True
        )
        try:
            way(place)
            for others in ({"name": "there"}, {"number": "fails"}):
                with pytest.raises(StatementError):
                    way(place, **others)
        finally:
            instrumentor.uninstrument()
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    assert any("INSERT INTO leaks" in span for span in spans)
    return "".join(spans)


@channel("server log, `log_statement=all`", "postgresql")
def _server_log(_url: str, way: Any, request: pytest.FixtureRequest) -> str:
    return _logged_by_the_server(way, request.getfixturevalue("loud_server"), Rollout.STRICT)


@channel("server log, `log_statement=all`, stage prepare", "postgresql")
def _server_log_prepare(_url: str, way: Any, request: pytest.FixtureRequest) -> str:
    return _logged_by_the_server(way, request.getfixturevalue("another_loud_server"), Rollout.PREPARE)


def _logged_by_the_server(way: Any, server: postgresql.Server, stage: Rollout) -> str:
    with Place(server.url, rollout=stage) as place:
        way(place)
        for others in ({"name": "there"}, {"name": "bad"}):
            with pytest.raises(StatementError):
                way(place, **others)
        Base.metadata.drop_all(place.engine)
    assert "INSERT INTO leaks" in server.log()
    return str(server.log())


@pytest.fixture(scope="module")
def loud_server() -> Iterator[postgresql.Server]:
    """A server with the most verbose logging."""
    yield from _loud()


@pytest.fixture(scope="module")
def another_loud_server() -> Iterator[postgresql.Server]:
    """A second server, whose log contains plaintext."""
    yield from _loud()


def _loud() -> Iterator[postgresql.Server]:
    server = postgresql.start_any(
        log_statement="all", log_min_duration_statement="0", log_parameter_max_length_on_error="-1"
    )
    assert server
    yield server
    server.stop()


FRAMES = (
    "SQLAlchemy's frames hold the parameters as the caller passed them, and error trackers print frame variables. Pass"
    " `SecretString(token)` instead of a plain `str` (ORM attributes do this automatically), or configure the tracker"
    " not to collect local variables (`sentry_sdk.init(include_local_variables=False)`)."
)
PARAMETERS = (
    "`compiled.params` holds the parameters as the caller passed them. Pass `SecretString(token)`, or do not print it."
)
PICKLES = (
    "A pickle must contain the values of the object to restore it. Expire the attributes before pickling"
    ' (`session.expire(item, ["token"])`), or keep the columns deferred, as in the ready-made table.'
)
SERVER = (
    "In this stage the application still stores plaintext, and a server that is configured to log statements,"
    " parameters or failing rows logs it. Move on to stage migrate, or set `log_statement=none`,"
    " `log_min_duration_statement=-1`, `log_parameter_max_length_on_error=0` and `log_error_verbosity=terse`."
)
OWN_FRAME = (
    "The variable is in the caller's own frame. Error trackers mask variables with well-known names, such as `token`."
    " Keep secrets in a `SecretString`, or do not collect local variables."
)
UPDATED = (
    "SQLAlchemy copies the value of `update().values()` into the objects in the session without firing attribute"
    " events. Pass `SecretString(token)`."
)
INTERNALS = "These show the value that the caller passed, before it is bound. Pass `SecretString(token)`."
PLAIN_STR = ("Core, `str`", "ORM bulk, `str`", "ORM `update()`, `str`")
HIDDEN_BY_THE_COMPILER = {("failed bind of the encrypted column", "ORM `update()`, `str`")}
OPEN: dict[tuple[str, str], str] = {
    **{
        (f"{name}: frame variables", way): FRAMES
        for name, (_, ways) in FAILURES.items()
        for way in PLAIN_STR
        if way in ways and (name, way) not in HIDDEN_BY_THE_COMPILER
    },
    **{("sentry-sdk, default options", way): FRAMES for way in PLAIN_STR},
    ("sentry-sdk, default options", "ORM, `str` assigned"): OWN_FRAME,
    ("`params` of a compiled statement", "Core, `str`"): PARAMETERS,
    ("`repr` of a bindparam, statement cache key", "Core, `str`"): INTERNALS,
    ("`handle_error` listener", "Core, `str`"): INTERNALS,
    ("`repr` of objects, rows and attribute history", "ORM `update()`, `str`"): UPDATED,
    ("pickle of an ORM object", "ORM, loaded"): PICKLES,
    ("pickle of a row", "ORM, loaded"): PICKLES,
    **{("server log, `log_statement=all`, stage prepare", way): SERVER for way in WAYS},
}
CELLS = [
    pytest.param(channel, way, database, id=f"{channel.name}-{way}-{database}")
    for channel in CHANNELS
    for way in channel.ways
    for database in channel.databases
]


@pytest.mark.parametrize(("channel", "way", "database"), CELLS)
def test_token_shows_only_in_the_documented_cells(
    channel: Channel, way: str, database: str, request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}" if database == "sqlite" else request.getfixturevalue(f"{database}_url")
    said = channel.speak(url, WAYS[way], request)
    assert said
    assert (SENTINEL[5:-5] in said) == ((channel.name, way) in OPEN)


def test_documented_open_cells_exist() -> None:
    assert {name for name, _ in OPEN} <= {channel.name for channel in CHANNELS}
    assert {way for _, way in OPEN} <= set(WAYS)


def test_search_finds_a_token_anywhere_in_an_exception() -> None:
    def leak() -> None:
        hidden_in_a_frame = SENTINEL
        try:
            int(hidden_in_a_frame)
        except ValueError:
            message = "without it"
            raise RuntimeError(message) from None

    with pytest.raises(RuntimeError) as caught:
        leak()
    assert len(list(chain(caught.value))) == 2
    assert SENTINEL in said_by(caught.value)
    assert SENTINEL in frames_of(caught.value, but="/nowhere/")
