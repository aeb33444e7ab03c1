"""The tutorial works when followed step by step in an empty folder."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(command: str, folder: Path) -> str:
    words = shlex.split(command)
    program = Path(sys.executable).with_name(words[0])
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [str(program) if program.exists() else words[0], *words[1:]],
        cwd=folder,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def test_the_tutorial_works(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    provider, output = None, ""
    try:
        for language, content in BLOCK.findall(PAGE.read_text()):
            if language == "python":
                name = re.match(r"# (\S+)\n", content)[1]  # type: ignore[index]
                (tmp_path / name).write_text(content.replace("5001", str(port)))
            elif language == "text":
                assert doctest.OutputChecker().check_output(content, output, doctest.ELLIPSIS), output
            elif content == "python provider.py\n":
                command = [sys.executable, "provider.py"]
                provider = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                wait_for(port)
            else:
                lines = [line for line in content.splitlines() if "pip install" not in line]
                output = "".join(run(line, tmp_path) for line in lines)
        (tmp_path / ".env").write_text("")
        failed = subprocess.run([sys.executable, "call.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "INTEGRATION_TOKEN_ENCRYPTION_KEY" in failed.stderr
        assert failed.returncode == 1
    finally:
        if provider:
            provider.kill()
            provider.wait()
