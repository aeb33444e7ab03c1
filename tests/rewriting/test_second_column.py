"""The documented move of a live JSON column to a second, encrypted one, with writers of both releases."""

from __future__ import annotations

import random
import re
import threading
import time
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.orm import Session

from sealchemy import Key, KeyRing, attach_key_ring

PAGE = Path(__file__).parents[2] / "docs/how-to/json-bytes-and-your-own-types.md"
RING = KeyRing(primary=Key.generate())
ROWS = 60


@pytest.fixture
def page() -> dict[str, Any]:
    """What the examples of the page define."""
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, "page", "exec", dont_inherit=True), namespace)  # noqa: S102 - code from this documentation
    for item in list(namespace.values()):
        if isinstance(item, Engine):
            item.dispose()
    return namespace


class Writers:
    """Threads that go on changing rows, and remember what was committed last for each."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.stop, self.written = engine, threading.Event(), dict[int, Any]()
        self.model, self.failures, self.lock = None, [], threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _run(self, number: int) -> None:
        random_number, count = random.Random(number), 0
        while not self.stop.is_set():
            count += 1
            row = 1 + number + 3 * random_number.randrange(ROWS // 3)  # each thread has its own rows
            model: Any = self.model
            try:
                with Session(self.engine) as session:
                    account = session.get_one(model, row)
                    if count % 3:
                        account.profile = {"token": f"{number}-{count}", "list": [count]}
                    else:  # a change of another column, with what may be an old copy of the profile
                        time.sleep(0.01)
                        account.name = f"{number}-{count}"
                    session.commit()
                    with self.lock:
                        self.written[row] = dict(account.profile)
            except Exception as error:  # noqa: BLE001 - shown at the end
                self.failures.append(error)
                return


def test_no_update_is_lost(page: dict[str, Any], postgresql_url: str) -> None:
    engine = attach_key_ring(create_engine(postgresql_url), RING)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE accounts_with_json (id SERIAL PRIMARY KEY, name TEXT, profile JSON)"))
        rows = [{"profile": '{"token": "old"}'} for _ in range(ROWS)]
        connection.execute(text("INSERT INTO accounts_with_json (profile) VALUES (:profile)"), rows)
        connection.execute(text("ALTER TABLE accounts_with_json ADD COLUMN profile_encrypted TEXT"))
    writers = Writers(engine)
    writers.model = page["OldAccount"]
    with writers:
        time.sleep(0.3)
        page["copy_every_row"](engine, batch_size=7)
        time.sleep(0.3)
        writers.model = page["NewAccount"]  # from now on, sessions of both releases are at work for a moment
        time.sleep(0.5)
    assert writers.failures == []
    assert len(writers.written) > ROWS // 2
    with Session(engine) as session:
        found = {item.id: (item.profile, item.old_profile) for item in session.scalars(select(page["NewAccount"]))}
        stored = session.scalars(text("SELECT profile_encrypted FROM accounts_with_json")).all()
    assert all(new == old for new, old in found.values())
    assert {row: found[row][0] for row in writers.written} == writers.written
    assert len(stored) == ROWS
    assert all(item.startswith("sealchemy:v1:") for item in stored)
    engine.dispose()


def test_a_session_with_an_old_copy_does_not_write_it_back(page: dict[str, Any], postgresql_url: str) -> None:
    engine, model = attach_key_ring(create_engine(postgresql_url), RING), page["OldAccount"]
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE accounts_with_json (id SERIAL PRIMARY KEY, name TEXT, profile JSON)"))
        connection.execute(text("""INSERT INTO accounts_with_json (profile) VALUES ('{"token": "old"}')"""))
        connection.execute(text("ALTER TABLE accounts_with_json ADD COLUMN profile_encrypted TEXT"))
    with Session(engine) as slow:
        account = slow.get_one(model, 1)
        slow.connection().connection.commit()  # its copy stays, and its transaction does not
        with Session(engine) as quick:
            quick.get_one(model, 1).profile = {"token": "new"}
            quick.commit()
        page["copy_every_row"](engine)
        account.name = "slow"
        slow.commit()
    with Session(engine) as session:
        found = session.get_one(page["NewAccount"], 1)
        assert (found.name, found.profile, found.old_profile) == ("slow", {"token": "new"}, {"token": "new"})
    engine.dispose()
