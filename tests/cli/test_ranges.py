"""Ranges of a table, as other programs hand them out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, text

from tests.support.cli import Project

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 20_000
PROGRAM = "#!/bin/sh\nexec {} -c 'from sealchemy.cli import main; main()' \"$@\"\n"


@pytest.fixture
def project(tmp_path: Path, postgresql_url: str, make_engine: Callable[..., Engine]) -> Project:
    project = Project(tmp_path, postgresql_url, make_engine(postgresql_url))
    project.fill_on_postgresql(ROWS)
    return project


def plaintext(project: Project) -> int:
    query = 'SELECT count(*) FROM "Integration" WHERE "accessToken" LIKE \'SENTINEL%\''
    with project.engine.connect() as connection:
        return connection.scalar(text(query)) or 0


def test_ranges_are_printed_alone_and_cover_the_table(project: Project) -> None:
    lines = project.ok("plan", "--split", "4").splitlines()
    assert len(lines) == 4
    ends = [json.loads(line) for line in lines]
    assert (ends[0][0], ends[-1][1]) == (None, None)
    assert sum(int(project.ok("encrypt", "--range", line).split(": ")[1].split()[0]) for line in lines) == ROWS
    assert plaintext(project) == 0


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("xargs") or not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists(),
    reason="needs xargs, and Linux, which tells the processes that it has started",
)
def test_xargs_runs_the_ranges_and_a_killed_process_is_run_again(project: Project, tmp_path: Path) -> None:
    ranges = project.ok("plan", "--split", "8")
    program = tmp_path / "sealchemy"
    program.write_text(PROGRAM.format(sys.executable))
    program.chmod(0o755)
    options = ["--models", "shop.models:Base", "--prefix", "SHOP", "--table", "Integration", "--batch-size", "100"]
    command = ["xargs", "-d", "\n", "-P", "2", "-I", "RANGE", str(program), "encrypt", *options, "--range", "RANGE"]

    def start() -> subprocess.Popen[Any]:
        started = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=project.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert started.stdin
        started.stdin.write(ranges)
        started.stdin.close()
        return started

    first = start()
    deadline = time.monotonic() + 60
    while plaintext(project) == ROWS:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    assert children
    os.kill(int(children[0]), signal.SIGKILL)
    assert first.wait(120) != 0
    assert plaintext(project) > 0
    assert start().wait(120) == 0
    assert plaintext(project) == 0
    project.ok("encrypt")
    project.ok("verify", SHOP_ROLLOUT="strict")


def test_options_of_a_run_are_refused_by_name(project: Project) -> None:
    assert "a range is a line of JSON" in project.refused("encrypt", "--range", "1-5")
    assert "--max-wal-retained takes" in project.refused("encrypt", "--max-wal-retained", "50")
    assert "no such table has encrypted columns: Integration" in project.refused("encrypt", "--table", "other")
    assert "1 or more" in project.refused("plan", "--split", "0")
    assert plaintext(project) == ROWS
    project.ok("encrypt", "--nice", "0.1", "--max-lag", "5", "--max-wal-retained", "50GB", "--table", "Integration")
    assert plaintext(project) == 0
