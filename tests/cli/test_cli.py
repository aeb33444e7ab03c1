"""The `sealchemy` command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dotenv import dotenv_values
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from sealchemy import Key, KeyRing, KeyRingNotAttachedError, attach_key_ring
from sealchemy.cli.demo.database import open_database
from sealchemy.cli.demo.lookup import ApiKey
from sealchemy.status import KeyIds, key_ids
from tests.support.cli import run_in_this_process

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "INTEGRATION_TOKEN_ENCRYPTION_KEY"
EXAMPLE = (Path(__file__).parents[2] / ".env.example").read_text()


@pytest.fixture
def sealchemy(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `sealchemy` in an empty folder."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from sealchemy.cli import main; main()", *arguments]
        variables = {**os.environ, "COLUMNS": "100", **environment}
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    return run


def test_version(sealchemy: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert sealchemy("--version").stdout == f"sealchemy {version('sealchemy')}\n"


def test_generate_key_prints_one_key(sealchemy: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    one, two = (sealchemy("generate-key").stdout for _ in range(2))
    assert Key.parse(one.removesuffix("\n")) != Key.parse(two.removesuffix("\n"))


def test_generate_key_creates_a_private_env_file(
    sealchemy: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = sealchemy("generate-key", "--env")
    assert done.returncode == 0
    path = tmp_path / ".env"
    name, _, value = path.read_text().strip().partition("=")
    assert name == VARIABLE
    assert Key.parse(value).id in done.stdout
    assert "load .env" not in done.stdout
    assert value[20:] not in done.stdout + done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    again = sealchemy("generate-key", "--env")
    assert again.returncode == 1
    assert "has a key already" in again.stderr
    assert "Traceback" not in again.stderr
    assert path.read_bytes() == before


def test_generate_key_fills_in_the_example(
    sealchemy: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    path = tmp_path / ".env"
    path.write_text(EXAMPLE)
    path.chmod(0o644)
    assert sealchemy("generate-key", "--env").returncode == 0
    lines = [line.split("=", 1) for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert KeyRing.from_env("INTEGRATION_TOKEN_ENCRYPTION", dict(lines)).previous == ()
    assert path.read_text().startswith(EXAMPLE.split("INTEGRATION", maxsplit=1)[0])
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{VARIABLE}=x", "has a key already"),
        (f"export {VARIABLE}='x'", "has a key already"),
        (f"{VARIABLE}_FILE=/run/secrets/key", "has a key already"),
        (f"{VARIABLE}=x\n{VARIABLE}=", "has a key already"),
        (f'{VARIABLE}="x', "has a key already"),
        (f"{VARIABLE}=\udcff", ".env is not UTF-8"),
        (f"'{VARIABLE}'=x", "has a key already"),
        (f"\ufeff{VARIABLE}=x", "has a key already"),
        (f"{VARIABLE}='\nx'", "has a key already"),
    ],
)
def test_generate_key_never_overwrites_a_key(
    sealchemy: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, line: str, says: str
) -> None:
    content = f"{line}\nA=1\n".encode("utf-8", "surrogateescape")
    (tmp_path / ".env").write_bytes(content)
    refused = sealchemy("generate-key", "--env")
    assert refused.returncode == 1
    assert says in refused.stderr
    assert (tmp_path / ".env").read_bytes() == content


def test_generate_key_keeps_a_link_to_a_shared_file(
    sealchemy: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/env").write_text("A=1\n")
    (tmp_path / ".env").symlink_to("shared/env")
    assert sealchemy("generate-key", "--env").returncode == 0
    assert (tmp_path / ".env").is_symlink()
    assert VARIABLE in (tmp_path / "shared/env").read_text()
    assert (tmp_path / "shared/env").stat().st_mode & 0o777 == 0o600


def check_demo(output: str) -> None:
    for text in (
        "710 of 710 plaintext tokens found",
        "accept  trigger:audit_tokens: it fires for every row",
        "UnsupportedOperationError: encrypt ",
        "400 of 400 rows have the same two tokens",
        "a refresh token pasted into access_token",
        "the token of another user pasted into this row",
        "DecryptionError: integrations.access_token",
        "ck_integrations_access_token_encrypted",
        "['ann']",
        "0 of 710 plaintext tokens found",
    ):
        assert text in output, output
    assert output.count("DecryptionError: ") == 2


def test_demo_on_sqlite(sealchemy: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = sealchemy("demo")
    assert done.returncode == 0, done.stderr
    check_demo(done.stdout)
    assert not list(tmp_path.iterdir())


def test_a_demo_that_is_kept_can_be_looked_at(
    sealchemy: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = sealchemy("demo", "--keep")
    assert done.returncode == 0, done.stderr
    check_demo(done.stdout)
    kept = tmp_path / "sealchemy-demo"
    assert sorted(path.name for path in kept.iterdir()) == [".env", "demo.db"]
    assert (kept / ".env").stat().st_mode & 0o777 == 0o600
    again = sealchemy("demo", "--keep")
    assert (again.returncode, again.stdout) == (1, "")
    assert "sealchemy-demo exists already" in again.stderr
    (kept / ".env").rename(tmp_path / ".env")
    (kept / "demo.db").rename(tmp_path / "demo.db")
    assert sealchemy("status", "--fail-if-plaintext").returncode == 0
    assert "every value authenticates" in sealchemy("verify").stdout
    ring = KeyRing.from_env("INTEGRATION_TOKEN_ENCRYPTION", dotenv_values(tmp_path / ".env"))
    engine = attach_key_ring(create_engine(f"sqlite:///{tmp_path / 'demo.db'}"), ring)
    with Session(engine) as session:
        assert session.scalars(select(ApiKey.owner).where(ApiKey.token == "key-4711")).all() == ["ann"]
    engine.dispose()


def test_a_demo_that_fails_leaves_nothing(
    sealchemy: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sealchemy-demo").write_text("a file")
    assert "exists already" in sealchemy("demo", "--keep").stderr
    (tmp_path / "sealchemy-demo").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt), open_database(None, {"KEY": Key.generate()}, keep=True):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    odd = tmp_path / "a?mode=memory#b%20"
    odd.mkdir()
    monkeypatch.setenv("TMPDIR", str(odd))
    assert "has ?, # or % in its name" in sealchemy("demo").stderr
    assert [path.name for path in tmp_path.iterdir()] == [odd.name]
    assert not list(odd.iterdir())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+asyncpg://u@127.0.0.1:1/db?ssl=require", "drivers have different names"),
        ("postgresql+psycopg://u@127.0.0.1:1/db?options=-csearch_path%3Dx", "leave them out"),
        ("postgresql+psycopg://u@127.0.0.1:1/db?connect_timeout=2&channel_binding=prefer", "port 1 failed"),
    ],
)
def test_the_demo_takes_no_part_of_a_url_away(
    sealchemy: Callable[..., subprocess.CompletedProcess[str]], url: str, says: str
) -> None:
    done = sealchemy("demo", "--url", url)
    assert done.returncode == 1
    assert says in done.stderr
    elsewhere = sealchemy("demo", "--url", "postgresql+asyncpg://u@/db?host=127.0.0.1&port=1")
    assert elsewhere.returncode == 1
    assert "port 1 failed" in elsewhere.stderr


def test_a_demo_on_a_server_is_not_kept(sealchemy: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = sealchemy("demo", "--keep", "--url", "postgresql+psycopg://localhost/x")
    assert done.returncode == 1
    assert "does not go with --url" in done.stderr


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_demo_on_postgresql(
    sealchemy: Callable[..., subprocess.CompletedProcess[str]], postgresql_database: str, driver: str
) -> None:
    done = sealchemy("demo", "--url", postgresql_database.replace("+psycopg", f"+{driver}"))
    assert done.returncode == 0, done.stderr
    check_demo(done.stdout)


@pytest.mark.parametrize("url", ["mysql+pymysql://localhost/x", "sqlite:///x.db"])
def test_demo_refuses_other_databases(sealchemy: Callable[..., subprocess.CompletedProcess[str]], url: str) -> None:
    done = sealchemy("demo", "--url", url)
    assert done.returncode == 1
    assert "postgresql+psycopg://" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "url",
    [
        "garbage",
        "postgresql+psycopg://user:hunter2@127.0.0.1:1/x",
        "postgresql+asyncpg://user:hunter2@127.0.0.1:1/x",
        "postgresql+asyncpg://user:hunter2@host.invalid/x",
    ],
)
@pytest.mark.parametrize("command", ["demo", "status", "encrypt"])
def test_unreachable_database_is_reported_without_traceback_or_password(
    sealchemy: Callable[..., subprocess.CompletedProcess[str]], url: str, command: str
) -> None:
    done = sealchemy(command, "--url", url, INTEGRATION_TOKEN_ENCRYPTION_KEY=Key.generate().reveal())
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr + done.stdout


def test_help_is_shown_without_arguments(sealchemy: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = sealchemy()
    assert "generate-key" in done.stdout + done.stderr
    assert "demo" in done.stdout + done.stderr


def test_keys_shows_the_ids_of_the_ring_and_no_key(tmp_path: Path) -> None:
    primary, previous, index = (Key.generate() for _ in range(3))
    environment = {
        "SHOP_KEY": primary.reveal(),
        "SHOP_PREVIOUS_KEYS": previous.reveal(),
        "SHOP_INDEX_KEY": index.reveal(),
    }
    done = run_in_this_process(["keys", "--prefix", "SHOP"], tmp_path, environment)
    assert done.stdout.splitlines() == [
        f"{primary.id}  primary",
        f"{previous.id}  previous",
        f"{index.id}  index",
    ]
    done = run_in_this_process(["keys", "--prefix", "SHOP", "--json"], tmp_path, environment)
    assert json.loads(done.stdout) == {"primary": primary.id, "previous": [previous.id], "index_key": index.id}
    engine = attach_key_ring(create_engine("sqlite://"), KeyRing.from_env("SHOP", environment))
    assert key_ids(engine) == KeyIds(primary.id, (previous.id,), index.id)
    assert run_in_this_process(["keys", "--prefix", "OTHER"], tmp_path, environment).returncode == 1


def test_keys_of_an_engine_without_a_ring() -> None:
    with pytest.raises(KeyRingNotAttachedError):
        key_ids(create_engine("sqlite://"))
