"""Which room may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import sealchemy

PACKAGE = Path(sealchemy.__file__).parent
ROOMS = {
    "errors": set(),
    "_values": {"errors"},
    "_column": {"errors", "_values"},
    "_databases": {"errors", "_values"},
    "_rewriting": {"errors", "_values", "_column", "_databases"},
    "_inspection": {"errors", "_values", "_column", "_databases", "_rewriting"},
}
"""The private rooms, and the rooms that each may import."""

PRIVATE = set(ROOMS)
DOORS = {"rewrite", "status", "scrub", "plan", "logs", "kms", "metrics"}
ROOMS |= dict.fromkeys(DOORS, PRIVATE | DOORS)
ROOMS |= dict.fromkeys(("alembic", "cli", "testing", "integrations"), PRIVATE | DOORS | {"sealchemy"})
ROOMS["cli"] |= {"integrations"}
SHIMS = {"redaction", "types", "engine", "report", "options", "operations"}
"""Modules of one re-exporting line."""

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return "sealchemy" if path.name == "__init__.py" and len(path.parts) == 1 else path.parts[0].removesuffix(".py")


@cache
def imported(path: Path) -> set[str]:
    """Return the absolute names of the modules that a module imports, wherever in it."""
    package = ["sealchemy", *path.parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module
            )
            names |= {f"{base.rstrip('.')}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(path: Path) -> set[str]:
    ours = [name.split(".") for name in imported(path) if name.startswith("sealchemy")]
    known = {room_of(module) for module in MODULES} | set(ROOMS)
    return {parts[1] if len(parts) > 1 and parts[1] in known else "sealchemy" for parts in ours}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_room_imports_only_from_the_rooms_below(path: Path) -> None:
    room = room_of(path)
    if room == "sealchemy" or room in SHIMS:
        return
    assert rooms_imported(path) - {room} <= ROOMS[room]


@pytest.mark.parametrize("name", sorted(SHIMS))
def test_a_module_that_is_kept_for_its_path_only_re_exports(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    docstring, *imports, names = tree.body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom) for node in imports)
    assert isinstance(names, ast.Assign)


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("cryptography", {"_values"}),
        ("pybase64", {"_values"}),
        ("alembic", {"alembic", "cli"}),
        ("typer", {"cli"}),
        ("rich", {"cli"}),
        ("pytest", {"testing"}),
        *((client, {"kms"}) for client in ("botocore", "google", "azure", "hvac")),
    ],
)
def test_only_some_rooms_import_a_package(package: str, rooms: set[str]) -> None:
    users = {room_of(path) for path in MODULES if any(name.split(".")[0] == package for name in imported(path))}
    assert users <= rooms


def test_values_know_nothing_of_sqlalchemy() -> None:
    users = {str(path) for path in MODULES if any(name.split(".")[0] == "sqlalchemy" for name in imported(path))}
    assert not {path for path in users if path.startswith("_values")}


def test_integrations_are_built_on_the_public_api() -> None:
    used = {name for path in MODULES if room_of(path) == "integrations" for name in imported(path)}
    private = {name for name in used if name.startswith("sealchemy._")}
    assert private <= {f"sealchemy._values.secret.{name}" for name in ("hide", "type_name", "has_lone_surrogate")}


def test_public_objects_name_the_package_they_are_imported_from() -> None:
    assert {name: getattr(sealchemy, name).__module__ for name in sealchemy.__all__} == dict.fromkeys(
        sealchemy.__all__, "sealchemy"
    )


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    for name in ("no_such_name", "Any", "DontWrapMixin", "_error", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(sealchemy, name)


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from sealchemy import *", names)  # noqa: S102 - it is what is tested
    assert set(sealchemy.__all__) <= set(names)
    assert set(sealchemy.__all__) <= set(dir(sealchemy))
    assert sys.modules["sealchemy"].SecretString is names["SecretString"]


@pytest.mark.parametrize("name", ["errors", "types", "engine", "redaction"])
def test_a_module_is_found_as_an_attribute_of_the_package(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import sealchemy; sealchemy.{name}"], check=True)


def test_threads_may_use_the_package_for_the_first_time_together() -> None:
    names = [*sealchemy.__all__] * 2
    code = (
        "import sealchemy; from concurrent.futures import ThreadPoolExecutor\n"
        f"list(ThreadPoolExecutor(8).map(lambda name: getattr(sealchemy, name), {names}))"
    )
    for _ in range(5):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
