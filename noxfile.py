"""Test the supported versions: `nox` runs the tests with each one that this machine has, `nox -l` lists them.

Arguments after `--` go to pytest: `nox -s "tests-3.13(sqlalchemy='2.1')" -- tests/alembic/test_operations.py`.
"""

from __future__ import annotations

import re

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)

nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
@nox.parametrize("sqlalchemy", ["2.0", "2.1"])
def tests(session: nox.Session, sqlalchemy: str) -> None:
    """Run the tests with the newest versions of everything else."""
    more = ["fastapi-users[oauth,sqlalchemy]>=15"] if sqlalchemy == "2.0" else []  # it allows no later one
    session.install("-e", ".[test]", f"sqlalchemy~={sqlalchemy}.0", *more)
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows a user."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    names = ("alembic", "cli", "integrations", "otel", "postgresql", "aws-kms", "azure-kv", "gcp-kms", "vault-transit")
    wanted = [*project["dependencies"], *(item for name in names for item in extras[name])]
    found = [re.fullmatch(r"([A-Za-z0-9_-]+)(?:\[\w+\])?>=([0-9.]+)", item) for item in wanted]
    session.install("-e", ".[test]", *(f"{item[1]}=={item[2]}" for item in found if item))
    # Old releases call functions that newer releases of other packages deprecate.
    session.run("pytest", "-W", "default::DeprecationWarning", *session.posargs)
