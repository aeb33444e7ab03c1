"""Values that are bound to their row, rewritten while processes of two stages write, by runs that are killed."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, bindparam, select, text, update

from sealchemy import EncryptedString, Key, KeyRing, Rollout, attach_key_ring
from sealchemy.rewrite import ENCRYPT, VERIFY, Options, rewrite
from tests.support import processes
from tests.support.tables import COLUMNS, grants

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

OLD, NEW = Key.generate(), Key.generate()
BEFORE, DURING = KeyRing(primary=OLD, previous=[NEW]), KeyRing(primary=NEW, previous=[OLD])
BIND_TO = ["owner", "id"]
ROWS = 3000
OWNER = 7


class Change(NamedTuple):
    """The stages of the writers before and during an operation, and the form of the values before and after it."""

    before: Rollout
    during: Rollout
    starts: tuple[str, ...]
    ends: tuple[str, ...]


CHANGES = {
    "encrypt": Change(Rollout.PREPARE, Rollout.MIGRATE, ("plaintext",), ("bound",)),
    "bind": Change(Rollout.BIND_PREPARE, Rollout.BIND_MIGRATE, ("unbound",), ("bound",)),
    "unbind": Change(Rollout.BIND_MIGRATE, Rollout.BIND_PREPARE, ("bound",), ("unbound",)),
    "rekey": Change(Rollout.STRICT, Rollout.STRICT, ("bound",), ("bound",)),
}


def table_of(*, is_bound: bool) -> Table:
    bind_to = BIND_TO if is_bound else ()
    return Table(
        "grants",
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("owner", Integer, nullable=False),
        *(Column(name, EncryptedString(context, bind_to=bind_to)) for name, context in COLUMNS.items()),
    )


bound, unbound = table_of(is_bound=True), table_of(is_bound=False)


class Writer:
    """A process of the application."""

    def __init__(self, number: int, engine: Engine, ids: list[int]) -> None:
        self.number, self.engine, self.ids = number, engine, ids
        self.written: dict[int, str] = {}
        self.stopped = threading.Event()

    def work(self) -> None:
        (name, *_), count = COLUMNS, 0
        while not self.stopped.is_set():
            count += 1
            key, value = random.choice(self.ids), f"SENTINEL-{self.number}-{count}"
            with self.engine.begin() as connection:
                query = select(bound.c[name]).where(bound.c.id == key).with_for_update()
                found = connection.scalar(query)
                assert key not in self.written or found == self.written[key]
                where = (bound.c.id == key, bound.c.owner == OWNER)
                connection.execute(update(bound).where(*where).values({name: bindparam("new")}), {"new": value})
            self.written[key] = value
            self.stopped.wait(0.002)


def forms(engine: Engine) -> set[str]:
    """Return the forms of all values, by their text alone."""
    with engine.connect() as connection:
        stored = [item for row in connection.execute(text(f"SELECT {', '.join(COLUMNS)} FROM grants")) for item in row]
    values = [item for item in stored if item is not None]
    return {
        "plaintext" if not item.startswith("sealchemy:") else "bound" if ":row:" in item else "unbound"
        for item in values
    }


def keys_of(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        stored = [item for row in connection.execute(text(f"SELECT {', '.join(COLUMNS)} FROM grants")) for item in row]
    return {item.split(":")[2] for item in stored if item is not None}


def revealed(engine: Engine, table: Table) -> dict[int, tuple[str | None, ...]]:
    with engine.connect() as connection:
        found = connection.execute(select(table.c.id, *(table.c[name] for name in COLUMNS))).all()
    return {key: tuple(None if item is None else str(item) for item in values) for key, *values in found}


def killed_once(url: str, operation: str) -> bool:
    process = processes.start(
        "rewriting",
        url=url,
        keys=[NEW.reveal(), OLD.reveal()],
        operation=operation,
        columns=COLUMNS,
        options={"batch_size": 20, "pause": 0.002},
        bind_to=BIND_TO,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
    time.sleep(random.uniform(0.02, 0.2))
    process.kill()
    process.communicate()
    return process.returncode < 0


SLOW = pytest.mark.soak


@pytest.mark.slow
@pytest.mark.parametrize("operation", CHANGES)
@pytest.mark.parametrize(
    ("kind", "kills"),
    [("postgresql", 2), pytest.param("postgresql", 20, marks=SLOW), pytest.param("mariadb", 5, marks=SLOW)],
)
def test_nothing_is_lost(
    kind: str, kills: int, operation: str, request: pytest.FixtureRequest, make_engine: Callable[..., Engine]
) -> None:
    url, change = request.getfixturevalue(f"{kind}_url"), CHANGES[operation]
    operator = make_engine(url, BEFORE, rollout=Rollout.MIGRATE)
    before = grants(operator, ROWS)
    with operator.begin() as connection:
        connection.execute(text(f"ALTER TABLE grants ADD owner integer NOT NULL DEFAULT {OWNER}"))
    if change.starts != ("plaintext",):
        rewrite(ENCRYPT, operator, "grants", COLUMNS, bind_to=BIND_TO if change.starts == ("bound",) else ())
    assert forms(operator) == set(change.starts)

    engines = [make_engine(url, BEFORE, rollout=change.before) for _ in range(2)]
    ids = sorted(before)
    writers = [Writer(number, engine, ids[number::2]) for number, engine in enumerate(engines)]
    with ThreadPoolExecutor() as pool:
        work = [pool.submit(writer.work) for writer in writers]
        try:
            while min(len(writer.written) for writer in writers) < 20 and not any(item.done() for item in work):
                time.sleep(0.02)
            attach_key_ring(engines[0], DURING, rollout=change.during)
            done = 0
            while done < kills:  # while processes of both stages write
                done += killed_once(url, operation)
            attach_key_ring(engines[1], DURING, rollout=change.during)
            attach_key_ring(operator, DURING, rollout=change.during)
            time.sleep(0.1)  # a transaction of the stage before may be open
            conversion = processes.CONVERSIONS[operation]
            rewrite(conversion, operator, "grants", COLUMNS, bind_to=BIND_TO, options=Options(lock_timeout=30))
            time.sleep(0.2)
        finally:
            for writer in writers:
                writer.stopped.set()
            for item in work:
                item.result()

    assert forms(operator) == set(change.ends)
    if operation == "rekey":
        assert keys_of(operator) == {NEW.id}
    attach_key_ring(operator, DURING)
    final, bind_to = (bound, BIND_TO) if change.ends == ("bound",) else (unbound, [])
    assert rewrite(VERIFY, operator, "grants", COLUMNS, bind_to=bind_to).failed == 0
    written = writers[0].written | writers[1].written
    assert len(written) > 40
    expected = {key: (written.get(key, row[0]), *row[1:]) for key, row in before.items()}
    assert revealed(operator, final) == expected
