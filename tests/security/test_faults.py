"""Lost connections, full disks, clock jumps, forks, threads and replaced rings cause no data loss."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from sqlalchemy import create_engine, event, insert, make_url, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from sealchemy import Key, KeyRing, Rollout, SealchemyError, attach_key_ring
from sealchemy.integrations import Base as IntegrationBase
from sealchemy.integrations import Integration, TokenGrant, get_valid_token, upsert_integration
from sealchemy.rewrite import DECRYPT, ENCRYPT, REKEY, VERIFY, Options, rewrite
from tests.support import postgresql, proxy
from tests.support.models import Account, create
from tests.support.tables import COLUMNS, grants, raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.support.provider import Provider


@pytest.fixture
def cut(postgresql_url: str, make_engine: Callable[..., Engine]) -> Iterator[tuple[Engine, Engine, proxy.Proxy]]:
    """A direct engine, an engine through a proxy that cuts connections, and the proxy; the engines share a ring."""
    url, ring = make_url(postgresql_url), KeyRing(primary=Key.generate())
    assert url.host
    assert url.port
    with proxy.cutting(url.host, url.port, 0.05, 0.4) as cutter:
        through = url.set(port=cutter.port).render_as_string(hide_password=False)
        engine = make_engine(through, ring, pool_size=8)
        cutter.lost = 0

        def note(context: Any) -> None:
            cutter.lost += bool(context.is_disconnect)

        event.listen(engine, "handle_error", note)
        yield make_engine(postgresql_url, ring), engine, cutter
        assert cutter.lost > 0


@pytest.mark.slow
def test_acknowledged_writes_survive_lost_connections(cut: tuple[Engine, Engine, proxy.Proxy]) -> None:
    direct, through, cutter = cut
    create(direct)
    acknowledged: dict[int, str] = {}
    tried: dict[int, set[str]] = {}
    failures: list[Exception] = []
    deadline = time.monotonic() + 5

    def write(worker: int) -> None:
        with Session(direct) as session:
            session.add(Account(id=worker, token="start"))
            session.commit()
        acknowledged[worker], tried[worker] = "start", {"start"}
        number = 0
        while time.monotonic() < deadline:
            number += 1
            token = f"SENTINEL-{worker}-{number}"
            tried[worker].add(token)
            try:
                with Session(through) as session:
                    account = session.get_one(Account, worker)
                    assert account.token in tried[worker]
                    account.token = token
                    session.commit()
                    acknowledged[worker] = token
                    tried[worker] = {token}
            except DBAPIError as error:
                failures.append(error)
                assert "SENTINEL" not in str(error)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(1, 5)))
    assert cutter.lost > 3
    assert failures
    with Session(direct) as session:
        for account in session.scalars(select(Account)):
            assert account.token in tried[account.id]  # the last acknowledged token, or a later one in doubt


LATER = [pytest.param(what, marks=pytest.mark.soak, id=what.name) for what in (REKEY, DECRYPT)]


@pytest.mark.slow
@pytest.mark.parametrize("what", [pytest.param(ENCRYPT, id="encrypt"), *LATER])
def test_rewrite_survives_lost_connections(cut: tuple[Engine, Engine, proxy.Proxy], what: Any) -> None:
    direct, through, cutter = cut
    before = grants(direct, 3000)
    if what is not ENCRYPT:
        rewrite(ENCRYPT, direct, "grants", COLUMNS)
        old = direct.dialect._sealchemy.key_ring  # type: ignore[attr-defined]
        ring = KeyRing(primary=Key.generate(), previous=[old.primary])
        for engine in (direct, through):
            attach_key_ring(engine, ring)
    for run in range(100):
        if run > 50:
            cutter.calm()
        try:
            rewrite(what, through, "grants", COLUMNS, options=Options(batch_size=50))
            break
        except (DBAPIError, SealchemyError) as error:
            assert "SENTINEL" not in str(error)
    if what is DECRYPT:
        assert raw(direct) == before
        return
    rewrite(VERIFY, direct, "grants", COLUMNS)
    rewrite(DECRYPT, direct, "grants", COLUMNS)
    assert raw(direct) == before


@pytest.mark.slow
def test_refreshes_survive_lost_connections(postgresql_url: str, oauth_provider: Provider) -> None:
    url, ring = make_url(postgresql_url), KeyRing(primary=Key.generate())
    assert url.host
    assert url.port
    direct = attach_key_ring(create_engine(url), ring)
    IntegrationBase.metadata.create_all(direct)
    oauth_provider.lifetime = 1
    token, whose = oauth_provider.grant(), {"user_id": "u1", "provider": "google"}
    grant = TokenGrant(access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
    with sessionmaker(direct).begin() as session:
        upsert_integration(session, **whose, grant=grant)  # type: ignore[arg-type]
    deadline, got, in_doubt = time.monotonic() + 8, 0, 0
    with proxy.cutting(url.host, url.port, 0.3, 1.0) as cutter:
        through = attach_key_ring(create_engine(url.set(port=cutter.port)), ring)
        sessions, client = sessionmaker(through), oauth_provider.client(timeout=5)

        def ask() -> None:
            nonlocal got, in_doubt
            while time.monotonic() < deadline:
                try:
                    get_valid_token(sessions, **whose, client=client, leeway=0)  # type: ignore[arg-type]
                    got += 1
                except DBAPIError:
                    in_doubt += 1
                time.sleep(0.05)

        with ThreadPoolExecutor(4) as pool:
            for work in [pool.submit(ask) for _ in range(4)]:
                work.result()
        through.dispose()
    assert got
    assert in_doubt
    assert oauth_provider.counts["reused"] == 0
    with sessionmaker(direct)() as session:
        stored = session.execute(select(Integration.refresh_token, Integration.reauthorization_required)).one()
    assert stored == (oauth_provider.tokens[-1].refresh_token, False)
    direct.dispose()


@pytest.mark.slow
def test_acknowledged_writes_survive_server_crashes() -> None:
    server = postgresql.start_any(fsync="on")
    assert server
    engine = attach_key_ring(create_engine(server.url), KeyRing(primary=Key.generate()))
    try:
        create(engine)
        acknowledged: list[str] = []
        in_doubt: set[str] = set()
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                token = f"token-{random.random()}"
                in_doubt.add(token)
                try:
                    with Session(engine) as session:
                        session.add(Account(token=token))
                        session.commit()
                        acknowledged.append(token)
                except DBAPIError:
                    time.sleep(0.05)

        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(write) for _ in range(4)]
            for _ in range(2):
                time.sleep(1)
                server.crash()
                server.restart()
            time.sleep(1)
            stop.set()
            for worker in workers:
                worker.result()
        engine.dispose()
        with Session(engine) as session:
            found = set(session.scalars(select(Account.token)))
        assert set(acknowledged) <= found <= in_doubt
        assert len(acknowledged) > 20
    finally:
        engine.dispose()
        server.stop()


def test_full_disk_loses_no_data(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'full.db'}", rollout=Rollout.MIGRATE)
    before = grants(engine, 3000)
    with engine.connect() as connection:
        pages = connection.scalar(text("PRAGMA page_count"))
    limit = [pages + 20]
    event.listen(engine, "checkout", lambda connection, *_: connection.execute(f"PRAGMA max_page_count = {limit[0]}"))
    engine.dispose()
    with pytest.raises(OperationalError, match="full"):
        rewrite(ENCRYPT, engine, "grants", COLUMNS, options=Options(batch_size=100))
    with Session(engine) as session:
        rows = session.execute(text("SELECT count(*) FROM grants WHERE access LIKE 'sealchemy:%'")).scalar_one()
        assert 0 < rows < 3000  # some batches were committed, but not the failed one
        assert session.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    limit[0] = 1_000_000
    rewrite(ENCRYPT, engine, "grants", COLUMNS)
    rewrite(VERIFY, engine, "grants", COLUMNS)
    rewrite(DECRYPT, engine, "grants", COLUMNS)
    assert raw(engine) == before


@pytest.mark.parametrize("jump", [timedelta(hours=-30), timedelta(days=4000)])
def test_clock_jumps_do_not_affect_refreshes_or_rewrites(
    engine: Engine, oauth_provider: Provider, jump: timedelta
) -> None:
    IntegrationBase.metadata.create_all(engine)
    before = grants(engine, 300)
    sessions, token = sessionmaker(engine), oauth_provider.grant()
    whose: dict[str, Any] = {"user_id": "u1", "provider": "google"}
    grant = TokenGrant(access_token=token.access_token, refresh_token=token.refresh_token, expires_in=0)
    with sessions.begin() as session:
        upsert_integration(session, **whose, grant=grant)
    oauth_provider.delay = 0.5
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_valid_token, sessions, **whose, client=oauth_provider.client())
        assert oauth_provider.in_request.wait(10)
        with time_machine.travel(datetime.now(UTC) + jump):
            new = asking.result()
            rewrite(ENCRYPT, engine, "grants", COLUMNS)
    assert get_valid_token(sessions, **whose, client=oauth_provider.client()) == new
    assert oauth_provider.counts["/token"] == 1
    rewrite(VERIFY, engine, "grants", COLUMNS)
    rewrite(DECRYPT, engine, "grants", COLUMNS)
    assert raw(engine) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork_during_use_repeats_no_nonce() -> None:
    ring = KeyRing(primary=Key.generate())
    encrypt = ring.encryptor("a.b")
    going = threading.Event()

    def use() -> None:
        while not going.is_set():
            encrypt("x")
            time.sleep(
                0.002
            )  # slow enough that the threads do not use up the prefix, which would renew it without the fork

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(use)
        outputs = []
        for _ in range(5):
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(writing, json.dumps([encrypt("x") for _ in range(20)]).encode())
                os._exit(0)
            os.close(writing)
            with os.fdopen(reading) as pipe:
                outputs += json.loads(pipe.read())
            os.waitpid(pid, 0)
        going.set()
    outputs += [encrypt("x") for _ in range(20)]
    nonces = {stored.split(":")[3][:32] for stored in outputs}
    assert len(nonces) == 120
    assert len({nonce[:16] for nonce in nonces}) == 6  # one prefix per process
    assert {str(ring.decrypt(stored, "a.b")) for stored in outputs} == {"x"}


def test_16_threads_and_an_event_loop_share_one_engine_and_ring(
    tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    path = tmp_path / "a.db"
    ring = KeyRing(primary=Key.generate())
    engine = create(make_engine(f"sqlite:///{path}", ring, pool_size=16, connect_args={"timeout": 60}))
    asynchronous = attach_key_ring(
        create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 60}), ring
    )

    def work(worker: int) -> None:
        for number in range(20):
            token = f"token-{worker}-{number}"
            with Session(engine) as session:
                account = Account(token=token)
                session.add(account)
                session.commit()
                assert session.scalars(select(Account.token).where(Account.id == account.id)).one() == token

    async def loop() -> None:
        await asyncio.gather(*(asyncio.to_thread(work, worker) for worker in range(16, 20)))
        for number in range(40):
            async with asynchronous.begin() as connection:
                key = (await connection.execute(insert(Account), {"token": f"loop-{number}"})).inserted_primary_key
                assert key
                assert await connection.scalar(select(Account.token).where(Account.id == key[0])) == f"loop-{number}"
        await asynchronous.dispose()

    with ThreadPoolExecutor(16) as pool:
        working = [pool.submit(work, worker) for worker in range(16)]
        asyncio.run(loop())
        for item in working:
            item.result()
    with Session(engine) as session:
        assert len(set(session.scalars(select(Account.token)))) == 20 * 20 + 40


@pytest.mark.slow
def test_replacing_the_ring_under_load_causes_no_failure(engine: Engine) -> None:
    create(engine)
    keys = [Key.generate()]
    attach_key_ring(engine, KeyRing(primary=keys[0]))
    with Session(engine) as session:
        session.add_all([Account(id=number, token=f"token-{number}") for number in range(1, 9)])
        session.commit()
    stop, done = threading.Event(), dict.fromkeys(range(1, 5), 0)

    def work(number: int) -> None:
        while not stop.is_set():
            with Session(engine) as session:
                account = session.get_one(Account, number)
                assert account.token.startswith(f"token-{number}")
                new = f"token-{number}-{done[number]}"
                session.execute(update(Account).where(Account.id == number).values(token=new))
                session.commit()
            done[number] += 1
            time.sleep(0.002)  # SQLite allows one writer; without a pause, no other thread gets its turn

    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, number) for number in done]
        while len(keys) < 11 or (min(done.values()) <= 3 and time.monotonic() < deadline):
            time.sleep(0.2)
            keys.insert(0, Key.generate())
            attach_key_ring(engine, KeyRing(primary=keys[1], previous=[keys[0], *keys[2:]]))
            attach_key_ring(engine, KeyRing(primary=keys[0], previous=keys[1:]))
        stop.set()
        for item in working:
            item.result()
    assert min(done.values()) > 3
