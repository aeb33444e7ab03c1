"""Each sentence of the README names the tests of what it says, which run with `pytest` alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text

from sealchemy import Key, KeyRing, Rollout, attach_key_ring, integrations
from sealchemy.rewrite import ENCRYPT, rewrite

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

CLAIMS = {
    # the start
    "An application that stores OAuth tokens": ["security/test_leaks.py::test_driver_receives_only_ciphertext"],
    "sealchemy encrypts columns": ["rewriting/test_playbook.py::test_playbook_loses_no_update_and_stops_no_reader"],
    "Your application still reads": ["project/test_documentation.py::test_code_blocks_run"],
    "In production, the key comes from": [
        "project/test_documentation.py::test_every_variable_is_documented_and_in_the_example",
        "values/test_keys_from_environment.py::test_error_names_the_command_that_generates_a_key",
    ],
    "The database holds ciphertext": [
        "values/test_secret_string.py",
        "security/test_leak_matrix.py::test_token_shows_only_in_the_documented_cells",
    ],
    "so does a value from another row": [
        "column/test_rows_read.py::test_every_read_returns_the_value_of_its_row_or_refuses"
    ],
    "Anyone who has both": ["values/test_independent_reader.py"],
    "Run `alembic upgrade head` in one step": ["cli/test_cli.py::test_demo_on_sqlite"],
    "Paste a value into another column": ["security/test_strictness.py::test_each_kind_of_value_follows_the_rules"],
    "A query that cannot work": ["column/test_attacks.py::test_statement_is_refused"],
    # see it work
    "Run these in a new virtual environment": [
        "project/test_package.py::test_the_versions_in_the_readme_are_those_of_the_package"
    ],
    "The first command encrypts": [
        "cli/test_cli.py::test_demo_on_sqlite",
        "cli/test_cli.py::test_demo_on_postgresql",
        "cli/test_cli.py::test_a_demo_that_is_kept_can_be_looked_at",
    ],
    "The second runs the test suite": ["rewriting/test_rewrite.py", "databases/test_mariadb.py"],
    # what it refuses
    "To start without a key": [
        "values/test_keys_from_environment.py::test_invalid_configuration_is_refused_and_values_are_not_shown",
        "integrations/test_protected_engine.py::test_refuses_to_start_without_a_valid_key",
    ],
    "There is no fallback to plaintext": [
        "column/test_type_refusals.py::test_error_without_a_ring_says_how_to_attach_one"
    ],
    "To return plaintext from a column": ["security/test_strictness.py::test_each_kind_of_value_follows_the_rules"],
    "To read a token in a row other than its own": [
        "column/test_rows_read.py::test_every_read_returns_the_value_of_its_row_or_refuses"
    ],
    "To accept `==`": [
        "column/test_type_refusals.py::test_operator_is_refused",
        "column/test_type_refusals.py::test_constraint_or_index_is_refused_when_it_is_declared",
    ],
    "beside the column answers": ["blind_index/test_lookups.py", "blind_index/test_rollout.py"],
    "To sort, group or compute ciphertext": [
        "column/test_type_refusals.py::test_expression_that_would_store_plaintext_is_refused"
    ],
    "Statements are checked": ["column/test_compiler.py", "column/test_attacks.py::test_statement_is_refused"],
    "To show a token": ["security/test_leak_matrix.py::test_token_shows_only_in_the_documented_cells"],
    "To encrypt a table on which": [
        "inspection/test_findings.py::test_obstacle_is_refused_by_name_until_it_is_repaired_or_accepted",
        "cli/test_rollout_commands.py::test_encrypt_refuses_keys_that_are_not_the_applications",
    ],
    "`sealchemy plan` shows them": [
        "cli/test_rollout_commands.py::test_plan_blocks_until_an_obstacle_is_accepted_or_repaired"
    ],
    "To write plaintext back": ["alembic/test_operations.py::test_downgrade_requires_allow_plaintext"],
    # migrate
    "Alembic writes these calls": ["alembic/test_autogenerate.py"],
    "The rows are rewritten in place": ["project/test_readme.py::test_a_transaction_has_at_most_a_thousand_rows"],
    "Each batch is locked": [
        "rewriting/test_rewrite.py::test_batch_is_not_committed_if_the_database_changes_a_value",
        "rewriting/test_pipeline.py::test_no_update_of_an_application_is_lost",
    ],
    "The application stays up": [
        "rewriting/test_playbook.py::test_playbook_loses_no_update_and_stops_no_reader",
        "rewriting/test_jobs.py::test_a_range_whose_process_was_killed_is_read_again",
        "inspection/test_findings.py::test_run_that_finds_nothing_to_do_cleans_up_after_one_that_was_killed",
    ],
    "then makes the database itself refuse": ["alembic/test_operations.py::test_upgrade_downgrade_and_upgrade_again"],
    "migrate in phases": ["rewriting/test_playbook.py::test_playbook_loses_no_update_and_stops_no_reader"],
    "shows, without a key": ["cli/test_rollout_commands.py::test_plan_leads_from_plaintext_to_required_without_a_key"],
    "each phase with a check and a rollback": [
        "rewriting/test_playbook.py::test_playbook_loses_no_update_and_stops_no_reader"
    ],
    # rotate
    "Deploy the new key": ["rewriting/test_playbook.py::test_playbook_loses_no_update_and_stops_no_reader"],
    "Then rewrite the rows": [
        "cli/test_rollout_commands.py::test_rekey_says_which_key_it_moved_to_and_when_nothing_changed"
    ],
    # tokens
    "over a ready-made table": ["integrations/test_protected_engine.py::test_refuses_to_start_without_a_valid_key"],
    "returns a working access token": ["integrations/test_integration_service.py"],
    "However many threads": ["integrations/test_refresh_faults.py::test_32_callers_in_4_processes_make_one_refresh"],
    "No connection is held": [
        "integrations/test_refresh_faults.py::test_no_connection_is_checked_out_during_the_provider_request",
        "integrations/test_refresh_faults.py::test_no_token_is_returned_before_it_is_stored",
    ],
    # where it runs
    "Python 3.11 to 3.13": [
        "project/test_package.py::test_the_versions_in_the_readme_are_those_of_the_package",
        "column/test_async.py",
        "column/test_ecosystem.py",
        "databases/test_mariadb.py",
        "libraries/test_flask_security.py",
    ],
    "The core needs only": ["project/test_package.py::test_installing_pulls_in_three_packages"],
    "`EncryptedJSON` and `EncryptedBytes`": ["column/test_json_and_bytes.py", "column/test_user_types.py"],
}
"""The start of a sentence, or words of it, and the tests of it."""


def sentences() -> list[str]:
    """Return the sentences of the README that say something: not code, headings, pictures or rows of links."""
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    blocks = re.split(r"\n\s*\n|\n(?=- )", prose)
    blocks = [block for block in blocks if not block.strip().startswith(("#", "!["))]
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(block.split())) for block in blocks]
    found = [part.strip() for block in plain for part in re.split(r"(?<=[.:])\*{0,2} (?=[A-Z`*])", block)]
    return [part for part in found if part and (part.endswith((".", ":", "`str`")) or "each phase" in part)]


def test_every_sentence_has_tests() -> None:
    assert [item for item in sentences() if not any(claim in item for claim in CLAIMS)] == []
    assert len(sentences()) > 35


def test_every_claim_is_in_the_readme() -> None:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(README.split()))
    assert [claim for claim in CLAIMS if claim not in text] == []


@pytest.mark.parametrize("name", sorted({name for names in CLAIMS.values() for name in names}))
def test_a_test_of_the_readme_is_run_by_its_command(name: str) -> None:
    path, _, function = name.partition("::")
    found = [
        node
        for node in ast.walk(ast.parse((ROOT / "tests" / path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.name == function if function else node.name.startswith("test_"))
    ]
    left_out = {"pytest.mark.slow", "pytest.mark.soak", "pytest.mark.skip", "pytest.mark.skipif"}
    marks = [{ast.unparse(mark).partition("(")[0] for mark in node.decorator_list} for node in found]
    assert any(not left_out & mark for mark in marks)


def test_a_transaction_has_at_most_a_thousand_rows(tmp_path: Path) -> None:
    assert "in transactions of at most 1000 rows" in " ".join(README.split())
    engine = create_engine(f"sqlite:///{tmp_path / 'test.db'}")
    attach_key_ring(engine, KeyRing(primary=Key.generate()), rollout=Rollout.MIGRATE)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, token TEXT)")
        connection.execute(text("INSERT INTO t (token) VALUES (:token)"), [{"token": f"t-{n}"} for n in range(2500)])
    sizes = [0]

    def count(_connection: object, _cursor: object, statement: str, parameters: Sequence[object], *_: object) -> None:
        sizes[-1] += len(parameters) if statement.startswith("UPDATE") else 0

    event.listen(engine, "after_cursor_execute", count)
    event.listen(engine, "commit", lambda _connection: sizes.append(0))
    rewrite(ENCRYPT, engine, "t", {"token": "t.token"})
    engine.dispose()
    assert (sum(sizes), max(sizes)) == (2500, 1000)


def test_the_first_screen_is_short() -> None:
    """The problem, the example, a refusal, and the links to the evidence and the comparison."""
    first = README.partition("## See it work")[0]
    assert len(first.splitlines()) <= 70
    assert all(name in first for name in ("evidence.md", "comparison.md", "pip install", "sealchemy:v1:", "Error: "))


def test_the_providers_are_as_many_as_it_says() -> None:
    page = (ROOT / "docs/reference/providers.md").read_text().partition("## What a provider needs")[0]
    rows = re.findall(r"^\| [A-Z][^|]*\| `(\w+)", page, re.MULTILINE)
    assert [name for name in rows if name not in integrations.__all__] == []
    assert f"{len(set(rows) - {'SLACK_USER', 'discover'})} providers, tested" in README
