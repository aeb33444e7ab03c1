"""The code in the documentation runs, and its names exist."""

from __future__ import annotations

import doctest
import logging
import pkgutil
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import typer.main
from opentelemetry.sdk.metrics import MeterProvider
from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine
from sqlalchemy.orm import Session
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import sealchemy
from sealchemy import EncryptedString, errors, integrations
from sealchemy.cli import app
from sealchemy.integrations.settings import IntegrationSettings
from sealchemy.plan import plan, steps
from tests import evidence
from tests.support.postgresql import require_extension

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EVERYTHING = "\n".join(page.read_text() for page in PAGES)


# These run in test_tutorial.py, in test_example_applications.py and in a separate test below.
RUN_SEPARATELY = {"tutorial.md", "tutorial-postgresql.md", "store-oauth-tokens.md", "migrate-from-pgcrypto.md"}


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    factory, audit = logging.getLogRecordFactory(), logging.getLogger("sealchemy.audit")
    yield
    logging.setLogRecordFactory(factory)
    audit.handlers.clear()
    audit.propagate = True
    audit.setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name not in RUN_SEPARATELY],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_code_blocks_run(page: Path) -> None:
    run(page)


def test_code_blocks_for_postgresql_run(postgresql_url: str) -> None:
    require_extension(postgresql_url, "pgcrypto")
    run(ROOT / "docs/how-to/migrate-from-pgcrypto.md", url=postgresql_url)


def run(page: Path, **namespace: object) -> None:
    parser = PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)
    document = Sybil(parsers=[parser]).parse(page)
    document.namespace.update(namespace, __name__="example")
    for example in document.examples():
        example.evaluate()
    for session in [item for item in document.namespace.values() if isinstance(item, Session)]:
        session.close()
    for engine in [item for item in document.namespace.values() if isinstance(item, Engine)]:
        engine.dispose()
    for meters in [item for item in document.namespace.values() if isinstance(item, MeterProvider)]:
        meters.shutdown()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_point_to_existing_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_no_page_names_the_address_of_a_package_registry() -> None:
    assert re.findall(r"https?://[\w.]*(?:pypi|npmjs|pythonhosted|rubygems|packagist|hex)\.\w+\S*", EVERYTHING) == []


def test_evidence_tables_are_up_to_date() -> None:
    assert evidence.written() == evidence.PAGE.read_text(), "run `python -m tests.evidence`"


def test_every_test_named_in_the_docs_exists() -> None:
    for name in set(re.findall(r"tests/\w+/\w+\.py(?:::\w+)*", EVERYTHING)):
        path, *names = name.split("::")
        source = (ROOT / path).read_text()
        assert all(re.search(rf"^\s*(?:async )?(?:def|class) {item}\b", source, re.MULTILINE) for item in names), name


def test_every_command_is_documented() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert [name for name in commands if f"sealchemy {name}" not in EVERYTHING] == []


def test_every_variable_is_documented_and_in_the_example() -> None:
    names = {name.upper() for name in IntegrationSettings.model_fields}
    example = (ROOT / ".env.example").read_text()
    assert {name for name in names if f"{name}=" not in example} == set()
    reference = (ROOT / "docs/reference/environment.md").read_text()
    assert {name for name in names if f"`{name}`" not in reference} == set()


def test_every_public_name_is_in_the_reference() -> None:
    pages = ("api", "errors", "providers")
    reference = "".join((ROOT / f"docs/reference/{page}.md").read_text() for page in pages)
    assert {name for name in (*sealchemy.__all__, *integrations.__all__) if name not in reference} == set()


def test_every_page_is_in_the_site_navigation() -> None:
    listed = re.findall(r"- ([\w/.-]+\.md)$", (ROOT / "docs/site/mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES[1:])


def test_every_error_is_documented() -> None:
    reference = (ROOT / "docs/reference/errors.md").read_text()
    leaves = [name for name, item in vars(errors).items() if isinstance(item, type) and not item.__subclasses__()]
    leaves = [name for name in leaves if name.endswith("Error")]
    assert {name for name in leaves if f"[`{name}`](errors/{name}.md)" not in reference} == set()
    pages = [(ROOT / f"docs/reference/errors/{name}.md").read_text() for name in leaves]
    assert all("## How it comes about" in page and "## What to do" in page for page in pages)


def test_error_tree_is_up_to_date() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text()
    drawn = set(re.findall(r"[├└│─ ]+(\w+Error)", errors.__doc__ or ""))
    assert all(line in page for line in (errors.__doc__ or "").splitlines() if re.search(r"[├└].*Error", line))
    assert drawn == {name for name in vars(errors) if name.endswith("Error") and name != "SealchemyError"}


def script(name: str) -> dict[str, Any]:
    """Return what a script of the site defines."""
    return runpy.run_path(str(ROOT / f"docs/site/{name}.py"))


def test_the_diagrams_are_as_their_script_draws_them() -> None:
    found = {path.stem: path.read_text() for path in (ROOT / "docs/images").glob("*.svg")}
    assert found == {name: draw().svg() for name, draw in script("diagrams")["DIAGRAMS"].items()}
    assert [name for name in found if f"images/{name}.svg" not in EVERYTHING] == []


def test_the_list_of_pages_for_language_models_is_up_to_date() -> None:
    written = (ROOT / "docs/llms.txt").read_text()
    assert written == script("llms")["text"](), "run `python docs/site/llms.py`"
    assert len(re.findall(r"^- \[", written, re.MULTILINE)) == len(PAGES) - 1


def test_the_headings_of_incidents_are_error_texts() -> None:
    package = Path(sealchemy.__file__).parent
    source = "".join(path.read_text() for path in package.rglob("*.py"))
    texts = re.sub(r"\{[^{}]*\}", "…", re.sub(r'"\s*\n\s*f?"', "", source))  # literals as they are read
    from_elsewhere = {"cached plan must not change result type", "value too long for type character varying"}
    page = (ROOT / "docs/incidents.md").read_text()
    headings = re.findall(r"^### (`.*)$", page, re.MULTILINE)
    assert len(headings) > 20
    for heading in headings:
        parts = [part.strip(" …:;,()") for part in re.findall(r"`([^`]*)`", heading)[0].split("…")]
        missing = [part for part in parts if part not in texts and part not in from_elsewhere]
        assert missing == [], heading


def test_the_checklist_has_the_commands_of_the_plan(postgresql_url: str) -> None:
    models = MetaData()
    columns = Column("id", Integer, primary_key=True), Column("token", EncryptedString("accounts.token"))
    Table("accounts", models, *columns)
    engine = create_engine(postgresql_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE accounts (id integer PRIMARY KEY, token varchar(255))")
        connection.exec_driver_sql("INSERT INTO accounts VALUES (1, 'a token')")
    lines = list(steps(plan(engine, models), command_options="", prefix="P"))
    engine.dispose()
    playbook = (ROOT / "docs/developer-playbook.md").read_text()
    names = {name for line in lines for name in re.findall(r"sealchemy [\w-]+|op\.\w+|ROLLOUT=\w+", line)}
    assert len(names) > 9
    assert {name for name in names if name not in playbook} == set()


def test_every_dotted_name_in_the_docs_exists() -> None:
    pages = EVERYTHING + (ROOT / "CHANGELOG.md").read_text() + (ROOT / "SECURITY.md").read_text()
    names = set(re.findall(r"(?<![\w./-])sealchemy(?:\.[A-Za-z_]\w*)+", pages))
    source = "".join(path.read_text() for path in Path(sealchemy.__file__).parent.rglob("*.py"))
    missing = []
    for name in (name for name in names if f'"{name}"' not in source):  # loggers, counters
        try:
            pkgutil.resolve_name(name)
        except (AttributeError, ImportError):
            missing.append(name)
    counters = {"sealchemy.values.unreadable", "sealchemy.values.plaintext", "sealchemy.tokens"}
    assert sorted(set(missing) - counters) == []
    assert len(names) > 30
