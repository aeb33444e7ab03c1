"""A MariaDB server for one test run: found or started on loopback, and stopped afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from .postgresql import Server, _free_port

WHAT_TO_INSTALL = "no MariaDB: set TEST_MARIADB_URL, or install its server (Debian: apt-get install mariadb-server)"
_START_SECONDS = 60


def find_server() -> Server | None:
    """Return a server for the tests, starting one if necessary; None if none is available."""
    if url := os.environ.get("TEST_MARIADB_URL"):
        return Server(url, "TEST_MARIADB_URL")
    daemon = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")
    install = shutil.which("mariadb-install-db")
    return start(daemon, install) if daemon and install else None


def start(daemon: str, install: str) -> Server:
    """Start a new server on a free port, as an unprivileged user if this process runs as root."""
    folder = Path(tempfile.mkdtemp(prefix="sealchemy-mariadb-"))
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    owner = (names.get("mysql") or names["nobody"]) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    account = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    data, port = folder / "data", _free_port()
    common = ["--no-defaults", f"--datadir={data}"]
    subprocess.run(
        [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=folder,
        **account,
    )
    arguments = [
        daemon,
        *common,
        "--bind-address=127.0.0.1",
        f"--port={port}",
        f"--socket={folder / 's'}",
        f"--pid-file={folder / 'pid'}",
        "--innodb-flush-log-at-trx-commit=0",
        "--skip-name-resolve",
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder, **account)
    server = Server(
        f"mysql+pymysql://root@127.0.0.1:{port}/mysql?ssl_disabled=true",
        _version(daemon),
        process,
        folder,
        stop_signal=signal.SIGTERM,
    )
    _wait_until_ready(server)
    return server


def _version(daemon: str) -> str:
    out = subprocess.run([daemon, "--version"], check=True, capture_output=True, text=True).stdout
    return f"{out.split('Ver ')[-1].split()[0]} from {daemon}"


def _wait_until_ready(server: Server) -> None:
    engine = create_engine(server.url, poolclass=NullPool)
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            engine.connect().close()
        except OperationalError:
            if time.monotonic() > deadline or (server.process and server.process.poll() is not None):
                log = server.log()
                server.stop()
                message = f"MariaDB did not start:\n{log}"
                raise RuntimeError(message) from None
            time.sleep(0.05)
        else:
            return
