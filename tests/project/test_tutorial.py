"""The tutorials work when followed step by step in an empty folder."""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = os.environ.get("TUTORIAL_BIN") or str(Path(sys.executable).parent)
"""Where `python`, `alembic` and `sealchemy` are: by default, those that run the tests."""

SECOND_TERMINAL = ("loopback-provider", "writer.py")


class Terminals:
    """What a reader has: a folder, a terminal, and a second one for the program that keeps running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""
        self.second: subprocess.Popen[str] | None = None
        self.first_line = ""
        self.replaced: list[tuple[str, str]] = []
        left_out = ("DATABASE_URL", "PYTEST_", "INTEGRATION_TOKEN_", "MAILBOX_", "SEALCHEMY_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        self.environment |= {
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run commands; what they export stays, as in a terminal."""
        exported = re.findall(r"^export (\w+)=(\S+)$", commands, re.MULTILINE)
        self.environment |= dict(exported)
        return subprocess.run(
            ["bash", "-ec", commands],  # noqa: S607
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )

    def start_in_second(self, command: str) -> None:
        self.second = subprocess.Popen(
            ["bash", "-c", f"exec env {command}"],  # noqa: S607
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._wait_until_it_runs()

    def _wait_until_it_runs(self) -> None:
        """Wait for the first line that it prints: each program prints one when it has begun."""
        assert self.second
        assert self.second.stdout
        timer = threading.Timer(60, self.second.kill)
        timer.start()
        self.first_line = self.second.stdout.readline()
        timer.cancel()
        assert self.first_line, "it printed nothing"

    def stop_second(self) -> str:
        """Press Ctrl-C."""
        if self.second is None:
            return ""
        self.second.send_signal(signal.SIGINT)
        output, _ = self.second.communicate(timeout=30)
        self.second = None
        return output


@contextmanager
def terminals(folder: Path) -> Iterator[Terminals]:
    opened = Terminals(folder)
    try:
        yield opened
    finally:
        if opened.second:
            opened.second.kill()
            opened.second.communicate()


def follow(page: str, opened: Terminals, *replaced: tuple[str, str]) -> Iterator[str]:
    """Do what a page says, block by block, and yield what the second terminal printed whenever it is used again."""
    content = (DOCS / page).read_text()
    for old, new in replaced:
        assert old in content
        content = content.replace(old, new)
    for language, written in BLOCK.findall(content):
        block = written
        for old, new in opened.replaced:
            block = block.replace(old, new)
        if language == "python":
            path = opened.folder / re.match(r"# (\S+)\n", block)[1]  # type: ignore[index]
            path.write_text(block)
        elif language == "text":
            assert doctest.OutputChecker().check_output(block, opened.output, doctest.ELLIPSIS), opened.output
        elif any(name in block for name in SECOND_TERMINAL):
            printed = opened.stop_second()
            opened.start_in_second(block.strip())
            yield printed
        elif "pip install" not in block:
            done = opened.run(block)
            assert done.returncode == 0, f"{block}\n{done.stdout}"
            opened.output = done.stdout
    yield opened.stop_second()


def test_the_tutorial_works(tmp_path: Path) -> None:
    replaced = [("loopback-provider", "loopback-provider --port 0")]
    with terminals(tmp_path) as opened:
        steps = follow("tutorial.md", opened, *replaced)
        assert next(steps) == ""
        (address,) = re.findall(r"http://127.0.0.1:\d+", opened.first_line)
        opened.replaced.append(("http://127.0.0.1:8400", address))
        assert [output for output in steps if "Traceback" in output] == []
        (tmp_path / ".env").write_text("")
        failed = opened.run("python call.py")
        assert "INTEGRATION_TOKEN_ENCRYPTION_KEY" in failed.stdout
        assert failed.returncode == 1


@pytest.mark.slow
def test_the_tutorial_on_postgresql_works(tmp_path: Path, postgresql_url: str) -> None:
    with terminals(tmp_path) as opened:
        printed = list(follow("tutorial-postgresql.md", opened, ("postgresql+psycopg:///tutorial", postgresql_url)))
    assert printed[0] == ""
    assert len(printed) == 5
    for output in printed[1:]:
        assert re.search(r"^[1-9]\d+ updates, none lost$", output, re.MULTILINE), output
