"""Who may import whom: a module imports only from lower floors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sealchemy

PACKAGE = Path(sealchemy.__file__).parent
FLOORS = {
    "errors": 0,
    "redaction": 0,
    "xaes": 0,
    "envelope": 1,
    "keytext": 1,
    "guard": 1,
    "ciphers": 2,
    "keys": 3,
    "engine": 4,
    "types": 5,
    "backend": 4,
    "postgresql": 5,
    "sqlite": 5,
    "mysql": 5,
    "backends": 6,
    "sqlite_schema": 5,
    "changes": 6,
    "declared": 4,
    "report": 5,
    "options": 1,
    "scrub": 7,
    "paging": 7,
    "checks": 7,
    "status": 7,
    "rewrite": 8,
    "operations": 9,
    "display": 8,
    "cli_options": 9,
    "cli": 10,
    "autogenerate": 10,
    "plugin": 11,
    "testing": 8,
}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names |= {f"{base}{alias.name}" for alias in node.names} if base == "." else {base}
    return names


def uses(module: str, package: str) -> bool:
    return any(name.split(".")[0] == package for name in imported(PACKAGE / f"{module}.py"))


def test_every_module_has_a_floor() -> None:
    assert set(MODULES) == set(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_lower_floors(module: str) -> None:
    ours = {name[1:].split(".")[0] for name in imported(PACKAGE / f"{module}.py") if name.startswith(".")}
    assert {name for name in ours if FLOORS.get(name, 99) >= FLOORS[module]} == set()


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("cryptography", {"xaes", "keys"}),
        ("alembic", {"operations", "autogenerate", "cli", "plugin"}),
        ("typer", {"cli", "cli_options"}),
        ("rich", {"cli", "display"}),
        ("pybase64", {"envelope", "keytext"}),
    ],
)
def test_who_imports_a_package(package: str, allowed: set[str]) -> None:
    assert {module for module in MODULES if uses(module, package)} <= allowed


def test_integrations_use_the_public_api() -> None:
    used = {name for path in (PACKAGE / "integrations").glob("*.py") for name in imported(path)}
    assert {name for name in used if name.startswith("..")} == set()
