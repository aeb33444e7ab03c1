"""The wheel contains only the package, and installing it pulls in only what it needs."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, requires
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        yield archive


def test_the_wheel_contains_exactly_the_package(wheel: zipfile.ZipFile) -> None:
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    revisions = {
        f"sealchemy/integrations/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "migrations").rglob("*")
        if path.suffix in {".py", ".mako"}
    }
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == source | revisions | {"sealchemy/py.typed"}
    about = {name.split("/", 1)[1] for name in wheel.namelist() if ".dist-info/" in name}
    assert about == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_installing_pulls_in_three_packages(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    wanted = [line for line in wheel.read(name).decode().splitlines() if line.startswith("Requires-Dist: ")]
    core = {line.removeprefix("Requires-Dist: ").split(">=")[0] for line in wanted if "extra ==" not in line}
    assert core == {"sqlalchemy", "cryptography", "pybase64"}


def test_every_requirement_has_a_minimum_version() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(item for name in extras for item in extras[name])]
    assert [item for item in wanted if ">=" not in item and not item.startswith(("sealchemy[", "sqlalchemy["))] == []
    assert requires("sealchemy")


def test_importing_the_core_imports_no_optional_package() -> None:
    script = (
        "import sys, sealchemy, sealchemy.kms; sealchemy.KeyRing(primary=sealchemy.Key.generate()); "
        "print([name for name in ('alembic', 'typer', 'rich', 'pydantic', 'authlib', 'requests', 'psycopg', 'botocore',"
        " 'azure.core', 'google.auth', 'hvac') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_entry_point_works_with_every_alembic_release() -> None:
    (entry_point,) = entry_points(group="alembic.plugins", name="sealchemy")
    loaded = entry_point.load()
    assert list(loaded) == [loaded]  # Alembic 1.18 to 1.20.0 iterates over it during `import alembic`
    assert callable(loaded.setup)


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["version"]
    released = re.findall(r"^## \[(\d[^]]*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0][0] == version
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {version}\n" in citation
    assert f'date-released: "{released[0][1]}"' in citation
    assert f"| {version.rpartition('.')[0]} | yes |" in (ROOT / "SECURITY.md").read_text()


def test_deprecated_names_still_work() -> None:
    page = (ROOT / "docs/reference/versions.md").read_text()
    first_cells = re.findall(r"^\| (`[^|]*) \| 0\.\d+ \|", page, re.MULTILINE)
    names = [name for cell in first_cells for name in re.findall(r"`(sealchemy\.[\w.]+)`", cell)]
    assert len(names) > 7
    for name in names:
        assert pkgutil.resolve_name(name), name


def test_the_versions_in_the_readme_are_those_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text()
    named = [item.rpartition(" ")[2] for item in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", item)]
    assert f"Python {named[0]} to {named[-1]}" in readme
    assert f"(Python {named[0]} or newer)" in readme
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert "SQLAlchemy 2.0 or 2.1" in readme
    assert "sqlalchemy>=2.0" in PROJECT["dependencies"][0]
