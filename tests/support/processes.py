"""Functions that tests run in separate processes: rewrites that are killed, and writers that run at the same time.

Run as `python -m tests.support.processes NAME`, with its arguments as JSON on standard input.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool

from sealchemy import BlindIndex, IntegrationError, Key, KeyRing, Rollout, attach_key_ring, rewrite
from sealchemy._databases.access import open_table
from sealchemy._rewriting.blind_index.filling import fill
from sealchemy._rewriting.blind_index.index_columns import IndexColumns
from sealchemy.integrations import OAuthClient, get_valid_token, refresh_due, waiting

from .provider import CLIENT_ID, CLIENT_SECRET

ROOT = Path(__file__).parents[2]
CONVERSIONS = {
    item.name: item for item in (rewrite.ENCRYPT, rewrite.REKEY, rewrite.DECRYPT, rewrite.BIND, rewrite.UNBIND)
}


def start(name: str, **arguments: Any) -> subprocess.Popen[str]:
    """Start a function of this module in a new process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.processes", name],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps(arguments))
    process.stdin.close()
    process.stdin = None
    _started.append(process)
    return process


def start_and_kill(name: str, after: float, **arguments: Any) -> bool:
    """Start a function that prints `ready`, kill it so many seconds later, and return whether it was still running."""
    process = start(name, **arguments)
    assert process.stdout
    assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
    time.sleep(after)
    process.kill()
    process.communicate()
    return process.returncode < 0


_started: list[subprocess.Popen[str]] = []


def end_all() -> None:
    """End what a test has started and, because it failed, not ended."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a run that was killed leaves no writers behind."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def ring(keys: list[str]) -> KeyRing:
    """Return a ring of these keys, primary key first."""
    primary, *previous = map(Key.parse, keys)
    return KeyRing(primary=primary, previous=previous)


def rewriting(
    url: str,
    keys: list[str],
    operation: str,
    columns: dict[str, str],
    options: dict[str, Any],
    bind_to: list[str] | None = None,
    table: str = "grants",
) -> None:
    """Print `ready`, then rewrite a table."""
    engine = attach_key_ring(create_engine(url), ring(keys), rollout=Rollout.MIGRATE)
    print("ready", flush=True)
    if isinstance(options.get("shard"), list):
        options["shard"] = tuple(options["shard"])
    report = rewrite.rewrite(
        CONVERSIONS[operation], engine, table, columns, options=rewrite.Options(**options), bind_to=bind_to or ()
    )
    print(report.rewritten, flush=True)


def indexing(url: str, keys: list[str], context: str, batch_size: int) -> None:
    """Fill the index of `api_keys.token`, in short batches."""
    primary, index_key = map(Key.parse, keys)
    engine = create_engine(url, poolclass=NullPool)
    attach_key_ring(engine, KeyRing(primary, index_key=index_key), rollout=Rollout.PREPARE)
    columns = IndexColumns("api_keys", "token", "token_index", BlindIndex(context))
    print("ready", flush=True)
    with open_table(engine, columns.wanted()) as access:
        fill(access, columns, rewrite.Options(batch_size=batch_size, pause=0.002))


def peak_memory() -> int:
    """Return the most memory that this process has had, in kilobytes; `ru_maxrss` begins with that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(url: str, keys: list[str], columns: dict[str, str]) -> None:
    """Encrypt, and print the memory used in kilobytes and the rates of the first and the last tenth."""
    engine = attach_key_ring(create_engine(url), ring(keys))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    start, times = peak_memory(), [(0, time.monotonic())]

    def note(progress: rewrite.Progress) -> None:
        if progress.step == "encrypt":
            times.append((progress.done, time.monotonic()))

    report = rewrite.rewrite(rewrite.ENCRYPT, engine, "grants", columns, progress=note)
    tenth = max(len(times) // 10, 1)
    spans = ((times[1], times[1 + tenth]), (times[-tenth - 2], times[-2])) if len(times) > 3 else ()
    rates = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in spans] or [0.0, 0.0]
    peak = peak_memory()
    told = {"rewritten": report.rewritten, "start": start, "peak": peak, "first_rate": rates[0], "last_rate": rates[1]}
    print(json.dumps(told), flush=True)


def writer(url: str, keys: list[str], label: str, context: str, rows: int, encrypts: bool) -> None:
    """Store new tokens in random rows until SIGTERM, then print the last token and version of each row."""
    engine = create_engine(url, connect_args={"timeout": 60} if url.startswith("sqlite") else {})
    encrypt = ring(keys).encryptor(context)
    going, last = True, {}

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    update = text("UPDATE grants SET access = :token, version = version + 1 WHERE id = :id")
    query = text("SELECT version FROM grants WHERE id = :id")
    print("ready", flush=True)
    count = 0
    while going:
        count += 1
        row, token = random.randint(1, rows), f"{label}-SENTINEL-{count}"
        with engine.begin() as connection:
            connection.execute(update, {"id": row, "token": encrypt(token) if encrypts else token})
            version = connection.scalar(query, {"id": row})
        last[row] = (version, token)
        if url.startswith("sqlite"):
            time.sleep(0.001)  # SQLite allows one writer; without a pause, no other process gets its turn
    print(json.dumps({"count": count, "last": last}), flush=True)


def dead_grants(url: str, keys: list[str], token_endpoint: str, count: int) -> None:
    """Ask for a token in threads, and print `told` each time that the user must connect again."""
    sessions = sessionmaker(attach_key_ring(create_engine(url), ring(keys)))
    client = OAuthClient(
        CLIENT_ID, CLIENT_SECRET, token_endpoint, on_reauthorization_required=lambda _grant: print("told", flush=True)
    )

    def ask(_number: int) -> None:
        with suppress(IntegrationError):
            get_valid_token(sessions, user_id="u1", provider="google", client=client)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(ask, range(count)))


def scheduler(url: str, keys: list[str], endpoints: str, providers: list[str]) -> None:
    """Refresh what is due until there is nothing left, and print how many tokens were refreshed."""
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    sessions = sessionmaker(attach_key_ring(create_engine(url, **options), ring(keys)))
    clients = {
        name: OAuthClient("id", CLIENT_SECRET, f"{endpoints}/{name}", requests_per_second=200) for name in providers
    }
    done, report = 0, None
    while report is None or report.refreshed:
        report = refresh_due(sessions, clients, limit=50)
        done += sum(report.refreshed.values())
    print(json.dumps(done), flush=True)


def callers(url: str, keys: list[str], token_endpoint: str, count: int) -> None:
    """Get one token from many threads, with a pool of 5 connections."""
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    engine = attach_key_ring(create_engine(url, pool_size=5, max_overflow=0, **options), ring(keys))
    sessions, client = sessionmaker(engine), OAuthClient(CLIENT_ID, CLIENT_SECRET, token_endpoint)
    barrier = threading.Barrier(count)

    def ask(_: int) -> str:
        barrier.wait()
        return str(get_valid_token(sessions, user_id="u1", provider="google", client=client))

    print("ready", flush=True)
    with ThreadPoolExecutor(count) as pool:
        print(json.dumps(list(pool.map(ask, range(count)))), flush=True)


def dying(url: str, keys: list[str], token_endpoint: str, transactions: int, at_the_request: bool = False) -> None:
    """Get a token, but exit instead of starting one more transaction, or instead of calling the provider."""
    sessions = sessionmaker(attach_key_ring(create_engine(url), ring(keys)))
    begun = 0

    def count() -> Any:
        nonlocal begun
        begun += 1
        if begun > transactions:
            os._exit(9)
        return sessions()

    waiting._MARGIN = 4.0  # a shorter lease, to keep the tests fast
    client = OAuthClient(CLIENT_ID, CLIENT_SECRET, token_endpoint, timeout=0.5)
    if at_the_request:
        client.refresh = lambda _token: os._exit(9)  # type: ignore[method-assign]
    get_valid_token(count, user_id="u1", provider="google", client=client)


class _TimeLimitError(Exception):
    pass


def interrupted(url: str, keys: list[str], token_endpoint: str) -> None:
    """Get a token, be interrupted by a signal meanwhile, and end."""
    sessions = sessionmaker(attach_key_ring(create_engine(url), ring(keys)))

    def interrupt(*_: object) -> None:
        raise _TimeLimitError

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.4)
    with suppress(_TimeLimitError):
        client = OAuthClient(CLIENT_ID, CLIENT_SECRET, token_endpoint)
        get_valid_token(sessions, user_id="u1", provider="google", client=client)
    print("interrupted", flush=True)


def soaking(url: str, keys: list[str], token_endpoint: str, users: int) -> None:
    """Get tokens of random users for ever, and be interrupted by signals at any moment."""
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    engine = create_engine(url, poolclass=NullPool, **options)  # a signal may corrupt the state of a pool
    sessions = sessionmaker(attach_key_ring(engine, ring(keys)))
    waiting._MARGIN = 4.0  # a shorter lease, to see what follows a kill
    client = OAuthClient(CLIENT_ID, CLIENT_SECRET, f"{token_endpoint}?{os.getpid()}", timeout=1.0)

    def interrupt(*_: object) -> None:
        raise _TimeLimitError

    signal.signal(signal.SIGALRM, interrupt)
    print("ready", flush=True)
    while True:
        with suppress(Exception):  # the handler may raise anywhere, even while the next line ends
            with suppress(Exception):
                signal.setitimer(signal.ITIMER_REAL, random.choice([0.0, random.uniform(0.001, 0.3)]))
                user = f"u{random.randrange(users)}"
                get_valid_token(sessions, user_id=user, provider="google", client=client, leeway=0)
            signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    globals()[sys.argv[1]](**json.load(sys.stdin))
