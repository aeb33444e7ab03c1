"""Where the command takes its models, its keys and its database from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text

from sealchemy import Key
from tests.support.cli import MODELS, run_in_this_process

if TYPE_CHECKING:
    from pathlib import Path

KEY = Key.generate()
OPTIONS = ["--models", "shop.models:Base", "--prefix", "SHOP", "--url", "sqlite:///by_option.db"]
TABLE = """[tool.sealchemy]
models = "shop.models:Base"
prefix = "SHOP"
url = "sqlite:///by_file.db"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/models.py").write_text(MODELS)
    for name in ("by_option", "by_variable", "by_database_url", "by_file", "integrations"):
        engine = create_engine(f"sqlite:///{tmp_path / name}.db")
        with engine.begin() as connection:
            columns = "id INTEGER PRIMARY KEY, `accessToken` TEXT, refresh TEXT"
            connection.execute(text(f"CREATE TABLE `Integration` ({columns})"))
            connection.execute(text("INSERT INTO `Integration` VALUES (1, 'SENTINEL', NULL)"))
        engine.dispose()
    return tmp_path


def run(folder: Path, *arguments: str, **environment: str) -> Any:
    return run_in_this_process(
        list(arguments), folder, {"SHOP_KEY": KEY.reveal(), "SHOP_ROLLOUT": "migrate", **environment}
    )


def encrypted(folder: Path) -> set[str]:
    """Return which of the databases has been encrypted."""
    return {path.stem for path in folder.glob("*.db") if b"sealchemy:v1:" in path.read_bytes()}


def test_the_file_replaces_the_three_options(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(TABLE)
    done = run(folder, "encrypt")
    assert done.returncode == 0, done.stderr
    assert encrypted(folder) == {"by_file"}
    assert run(folder, "verify").returncode == 0


VARIABLES = {
    "DATABASE_URL": "sqlite:///by_database_url.db",
    "SEALCHEMY_URL": "sqlite:///by_variable.db",
    "SEALCHEMY_MODELS": "shop.models:Base",
    "SEALCHEMY_PREFIX": "SHOP",
}


@pytest.mark.parametrize("dotenv", [False, True], ids=["process", ".env"])
def test_options_come_before_variables_and_variables_before_the_file(folder: Path, *, dotenv: bool) -> None:
    wrong = 'models = "no.such:Base"\nprefix = "NO"\nurl = "sqlite:///by_file.db"\n'
    (folder / "pyproject.toml").write_text(f"[tool.sealchemy]\n{wrong}")
    expected = set()
    for variables, options, name in (
        ({"DATABASE_URL"}, OPTIONS[:4], "by_database_url"),
        (set(VARIABLES), [], "by_variable"),
        (set(VARIABLES), OPTIONS, "by_option"),
    ):
        environment = {variable: VARIABLES[variable] for variable in variables}
        if dotenv:
            (folder / ".env").write_text("".join(f"{variable}={value}\n" for variable, value in environment.items()))
            environment = {}
        done = run(folder, "encrypt", *options, **environment)
        assert done.returncode == 0, done.stderr
        expected.add(name)
        assert encrypted(folder) == expected


def test_the_file_is_found_from_a_folder_below_it(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(TABLE)
    below = folder / "one/two"
    below.mkdir(parents=True)
    done = run(below, "encrypt")
    assert done.returncode == 0, done.stderr
    assert encrypted(folder) == {"by_file"}


@pytest.mark.parametrize("stop", [".git", "pyproject.toml"])
def test_the_search_ends_at_a_repository_and_at_the_first_file(folder: Path, stop: str) -> None:
    (folder / "pyproject.toml").write_text(TABLE)
    below = folder / "one/two"
    below.mkdir(parents=True)
    (folder / "one" / stop).touch()
    done = run(below, "plan")
    assert done.returncode == 1
    assert "no database 'integrations.db'" in done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[tool.sealchemy]\nmodel = 'x:y'", "models, prefix and url, and nothing else"),
        ("[tool.sealchemy]\nmodels = ['x:y']", "models, prefix and url, and nothing else"),
        ("tool.sealchemy = 'x'", "models, prefix and url, and nothing else"),
        ("tool = 'x'", "AttributeError"),
        ("[tool.sealchemy\n", "TOMLDecodeError"),
        ("[tool.sealchemy]\nurl = 'nothing'", "not a URL"),
        ("[tool.sealchemy]\nurl = 'postgresql+psycopg://u:SENTINEL@h/d'", "has a password"),
        ("[tool.sealchemy]\nurl = 'postgresql+psycopg://u@h/d?password=SENTINEL'", "has a password"),
        ("[tool.sealchemy]\nurl = 'postgresql+psycopg://u@h/d?sslpassword=SENTINEL'", "has a password"),
    ],
)
def test_a_file_that_says_something_else_is_refused_by_every_command(folder: Path, content: str, says: str) -> None:
    (folder / "pyproject.toml").write_text(content)
    for arguments in (["plan"], ["keys"], ["encrypt", *OPTIONS]):
        done = run(folder, *arguments)
        assert done.returncode == 1
        assert says in done.stderr
        assert "pyproject.toml: " in done.stderr
        assert done.stderr.count("\n") == 1
        assert "SENTINEL" not in done.stderr


def test_the_database_is_named_before_a_write_and_its_password_is_not(folder: Path) -> None:
    for command in ("widen", "encrypt", "rekey", "decrypt", "scrub"):
        done = run(folder, command, *OPTIONS, *{"decrypt": ["--allow-plaintext"], "scrub": ["--yes"]}.get(command, []))
        assert done.stderr.startswith("database: sqlite:///by_option.db\n"), (command, done.stderr)
    for command in ("status", "verify", "plan", "check"):
        assert "database:" not in run(folder, command, *OPTIONS).stderr
    url = "postgresql+psycopg://user:SENTINEL@127.0.0.1:1/shop"
    refused = run(folder, "encrypt", *OPTIONS[:4], "--url", url)
    assert refused.returncode == 1
    assert "database: postgresql+psycopg://user:***@127.0.0.1:1/shop\n" in refused.stderr
    assert "SENTINEL" not in refused.stderr + refused.stdout


def test_the_steps_of_a_plan_repeat_only_the_options_that_were_typed(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(TABLE)
    assert "--models" not in run(folder, "plan").stdout
    assert "--models shop.models:Base" in run(folder, "plan", "--models", "shop.models:Base").stdout


def test_a_new_key_goes_into_env_under_the_prefix(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(TABLE)
    assert "your application has to load .env itself" in run(folder, "generate-key", "--env").stdout
    assert run(folder, "generate-key", "--env", "--prefix", "OTHER", "--without-checksum").returncode == 0
    lines = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())
    assert set(lines) == {"SHOP_KEY", "OTHER_KEY"}
    assert [len(lines[name]) for name in ("SHOP_KEY", "OTHER_KEY")] == [65, 60]
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    refused = run(folder, "generate-key", "--env", "--prefix", "not a prefix")
    assert (refused.returncode, "A-Z, 0-9 and _" in refused.stderr) == (1, True)


def test_a_key_without_checksum_is_printed_on_request(folder: Path) -> None:
    texts = [run(folder, "generate-key", *options).stdout.strip() for options in ([], ["--without-checksum"])]
    assert [len(text) for text in texts] == [65, 60]
    assert [Key.parse(text).reveal() for text in texts] == texts


@pytest.mark.parametrize("name", ["password", "sslpassword"])
def test_a_password_in_the_query_of_a_url_is_not_printed(folder: Path, name: str) -> None:
    url = f"postgresql+psycopg://user@127.0.0.1:1/shop?{name}=SENTINEL"
    for command in (["encrypt"], ["scrub", "--yes"], ["plan"]):
        done = run(folder, *command, "--models", "shop.models:Base", "--prefix", "SHOP", "--url", url)
        assert done.returncode == 1
        assert "SENTINEL" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("dotenv", "file"),
    [
        ("DRIVER=aiosqlite\nDATABASE_URL=sqlite+${DRIVER}:///by_file.db", TABLE.replace("url", "# url")),
        ("", TABLE.replace("sqlite:", "sqlite\\u002baiosqlite:")),
        ("# postgresql+asyncpg://", TABLE),
    ],
    ids=["a variable", "an escape", "a comment"],
)
def test_an_async_driver_is_found_however_the_url_is_written(folder: Path, dotenv: str, file: str) -> None:
    (folder / ".env").write_text(dotenv)
    (folder / "pyproject.toml").write_text(file)
    done = run(folder, "encrypt")
    assert done.returncode == 0, done.stderr
    assert encrypted(folder) == {"by_file"}
    assert done.stderr.count("database: ") == 1


def test_a_folder_named_env_is_no_file(folder: Path) -> None:
    (folder / ".env").mkdir()
    (folder / "pyproject.toml").write_text(TABLE)
    assert run(folder, "status").returncode == 0
    assert run(folder, "--version").returncode == 0


def test_a_key_is_read_and_written_beside_the_file(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(TABLE)
    (folder / ".env").write_text(f"SHOP_KEY={KEY.reveal()}\n")
    below = folder / "one/two"
    below.mkdir(parents=True)
    assert KEY.id in run(below, "keys", SHOP_KEY="").stdout
    refused = run(below, "generate-key", "--env")
    assert (refused.returncode, "has a key already" in refused.stderr) == (1, True)
    assert not (below / ".env").exists()


def test_a_file_above_that_anyone_can_write_is_not_followed(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(TABLE)
    (folder / "pyproject.toml").chmod(0o666)
    below = folder / "one"
    below.mkdir()
    refused = run(below, "plan")
    assert (refused.returncode, "its models are not imported" in refused.stderr) == (1, True)
    assert run(folder, "status").returncode == 0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgres://user:SENTINEL@127.0.0.1/shop", "for PostgreSQL it is postgresql+psycopg"),
        ("oracle+oracledb://user:SENTINEL@127.0.0.1/shop", "pip install oracledb"),
    ],
)
def test_a_driver_that_is_not_there_is_named(folder: Path, url: str, says: str) -> None:
    done = run(folder, "status", "--models", "shop.models:Base", "--prefix", "SHOP", "--url", url)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "SENTINEL" not in done.stdout + done.stderr


def test_the_commands_of_a_plan_have_no_gap_where_no_option_was_typed(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(TABLE)
    lines = run(folder, "plan").stdout.splitlines()
    commands = [line.partition(". ")[2].partition("  #")[0] for line in lines if ". sealchemy" in line]
    assert commands
    assert not [item for item in commands if item != item.rstrip() or "  " in item]
