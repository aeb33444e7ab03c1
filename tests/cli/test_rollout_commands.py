"""The plan, widening, and what the commands refuse so that a rollout cannot go wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text

from sealchemy import Key, KeyRing
from tests.support.cli import CONTEXTS, NEW, OLD, Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

OPTIONS = "--models shop.models:Base --prefix SHOP"
STRANGER = Key.generate()
TRIGGER = 'CREATE TRIGGER audit AFTER UPDATE ON "Integration" BEGIN INSERT INTO old VALUES (OLD.refresh); END'


@pytest.fixture
def project(tmp_path: Path, make_engine: Callable[..., Engine]) -> Project:
    url = f"sqlite:///{tmp_path / 'test.db'}"  # tests/inspection has the obstacles of each database
    return Project(tmp_path, url, make_engine(url, KeyRing(primary=NEW, previous=[OLD])))


def add_trigger(project: Project) -> None:
    project.execute("CREATE TABLE old (refresh TEXT)")
    project.execute(TRIGGER)


def plan(project: Project, *arguments: str, status: int = 0) -> dict[str, Any]:
    done = project.run("plan", "--json", *arguments, SHOP_KEY="", SHOP_PREVIOUS_KEYS="")
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_plan_leads_from_plaintext_to_required_without_a_key(project: Project) -> None:
    project.fill(10)
    found = plan(project)
    (table,) = found["tables"]
    assert [(item["column"], item["state"], item["plaintext"]) for item in table["columns"]] == [
        ("accessToken", "plaintext", 10),
        ("refresh", "plaintext", 5),
    ]
    assert (found["blocked"], table["rows"], table["plaintext_bytes"] > 100) == (False, 10, True)
    commands = "\n".join(found["steps"])
    assert all(f"sealchemy {name} {OPTIONS}" in commands for name in ("check", "encrypt", "verify", "scrub"))
    assert "SHOP_ROLLOUT=prepare" in commands
    assert "op.require_encryption('" in commands
    project.ok("encrypt")
    found = plan(project)
    assert {item["state"] for item in found["tables"][0]["columns"]} == {"encrypted"}
    assert not [step for step in found["steps"] if "sealchemy encrypt" in step]
    assert found["tables"][0]["columns"][0]["keys"] == [{"id": NEW.id, "values": 10}]
    from tests.support import constraint

    constraint.require_encryption(project.engine, "Integration", CONTEXTS)
    found = plan(project)
    assert {item["state"] for item in found["tables"][0]["columns"]} == {"required"}
    assert [step.partition(" --")[0] for step in found["steps"]] == ["sealchemy scrub", "sealchemy rekey"]
    assert "1. sealchemy scrub" in project.ok("plan", SHOP_KEY="", SHOP_PREVIOUS_KEYS="")


def test_plan_blocks_until_an_obstacle_is_accepted_or_repaired(project: Project) -> None:
    project.fill(4)
    add_trigger(project)
    project.execute('CREATE UNIQUE INDEX u ON "Integration" (refresh, id)')
    found = plan(project, status=1)
    assert found["blocked"]
    labels = {f"{item['code']}:{item['name']}": item["severity"] for item in found["tables"][0]["findings"]}
    assert labels.items() >= {"trigger:audit": "accept", "unique:u": "blocks"}.items()
    assert plan(project, "--accept", "trigger:audit", status=1)["blocked"]
    out = project.refused("encrypt", "--accept", "trigger:audit")
    assert "unique:u" in out
    assert "DROP INDEX" in out
    assert "trigger:audit" not in out
    project.execute("DROP INDEX u")
    before = project.raw()
    for arguments in ([], ["--dry-run"]):
        assert "trigger:audit" in project.refused("encrypt", *arguments)
    assert project.raw() == before
    assert "--accept trigger:audit" in "".join(plan(project, "--accept", "trigger:audit")["steps"])
    assert "--accept trigger:other: there is no such finding" in project.refused("plan", "--accept", "trigger:other")
    old = {"SHOP_KEY": OLD.reveal(), "SHOP_PREVIOUS_KEYS": ""}
    project.ok("encrypt", "--accept", "trigger:audit", **old)
    project.ok("encrypt", **old)  # nothing is left that the trigger could see
    for name in ("rekey", "decrypt"):
        arguments = ["--allow-plaintext"] if name == "decrypt" else []
        assert "trigger:audit" in project.refused(name, *arguments)
        project.ok(name, *arguments, "--accept", "trigger:audit")
        project.ok(name, *arguments)
    assert project.raw() == before
    assert "takes labels such as trigger:NAME" in project.refused("encrypt", "--accept", "audit")


def test_plan_names_tables_that_cannot_be_encrypted_at_all(project: Project) -> None:
    project.execute('DROP TABLE "Integration"')
    found = plan(project, status=1)
    assert [item["code"] for item in found["tables"][0]["findings"]] == ["table"]
    project.execute('CREATE TABLE "Integration" (id INTEGER PRIMARY KEY, "accessToken" INTEGER, refresh TEXT)')
    assert "not text" in project.refused("plan")


def test_widen_is_a_phase_of_its_own(postgresql_url: str, tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    project = Project(tmp_path, postgresql_url, make_engine(postgresql_url, KeyRing(primary=NEW)))
    project.fill(4)
    project.execute('ALTER TABLE "Integration" ALTER COLUMN refresh TYPE VARCHAR(255)')
    assert "width:refresh" in project.refused("plan")
    assert f"sealchemy widen {OPTIONS}" in "".join(plan(project, status=1)["steps"])
    for arguments in ([], ["--dry-run"]):
        assert "width:refresh" in project.refused("encrypt", *arguments)
    assert "VARCHAR(255), too narrow for ciphertext" in project.refused("check")
    project.ok("check", SHOP_ROLLOUT="prepare")
    out = project.ok("widen", SHOP_KEY="", SHOP_PREVIOUS_KEYS="")
    assert "widen Integration: refresh" in out
    assert "cached plan" in out
    assert "nothing to do" in project.ok("widen")
    project.ok("check")
    project.ok("encrypt")


def test_encrypt_refuses_keys_that_are_not_the_applications(project: Project) -> None:
    project.fill(6)
    project.ok("encrypt", "--max-rows", "2")
    before = project.raw()
    out = project.refused("encrypt", SHOP_KEY=STRANGER.reveal(), SHOP_PREVIOUS_KEYS="")
    assert f"under key {NEW.id}, which is not in the key ring ({STRANGER.id})" in out
    assert project.raw() == before
    done = project.run("encrypt")
    assert f"with key {NEW.id}" in done.stderr


def test_missing_key_names_the_prefix_and_variables_that_look_alike(project: Project) -> None:
    out = project.refused(
        "encrypt",
        SHOP_KEY="",
        SHOP_PREVIOUS_KEYS="",
        SHOPS_KEY=NEW.reveal(),
        TOKEN_ENCRYPTION_KEY=NEW.reveal(),
        UNRELATED="x",
    )
    assert "--prefix (now SHOP)" in out
    assert "these are set: SHOPS_KEY, TOKEN_ENCRYPTION_KEY" in out
    assert NEW.reveal() not in out


def test_commands_refuse_the_wrong_stage_and_name_the_variable(project: Project) -> None:
    project.fill(4)
    assert "SHOP_ROLLOUT=migrate" in project.refused("encrypt", SHOP_ROLLOUT="prepare")
    before = project.raw()
    out = project.refused("encrypt", SHOP_ROLLOUT="strict")
    assert "4 rows have plaintext" in out
    assert "SHOP_ROLLOUT=migrate" in out
    assert project.raw() == before
    project.ok("encrypt")
    encrypted = project.raw()
    assert "encrypt Integration: nothing to do" in project.ok("encrypt", SHOP_ROLLOUT="strict")
    out = project.refused("decrypt", "--allow-plaintext", SHOP_ROLLOUT="strict")
    assert "SHOP_ROLLOUT=migrate" in out
    assert project.raw() == encrypted
    project.ok("decrypt", "--allow-plaintext")
    assert project.raw() == before


def test_rekey_says_which_key_it_moved_to_and_when_nothing_changed(project: Project) -> None:
    project.fill(4)
    project.ok("encrypt", SHOP_KEY=OLD.reveal(), SHOP_PREVIOUS_KEYS="")
    assert f"rekey Integration: 4 rows moved to key {NEW.id}" in project.ok("rekey")
    assert f"rekey Integration: nothing to do: every value is under key {NEW.id}" in project.ok("rekey")


def test_check_decrypts_a_sample_of_each_column_and_key(project: Project) -> None:
    project.fill(3)
    project.ok("encrypt", SHOP_KEY=OLD.reveal(), SHOP_PREVIOUS_KEYS="")
    project.ok("rekey", "--max-rows", "1")
    project.ok("check")
    models = project.folder / "shop/models.py"
    models.write_text(models.read_text().replace('"i.refresh"', '"i.renamed"'))
    out = project.refused("check")
    assert "DecryptionError" in out
    assert "i.renamed" in out


def test_check_refuses_stage_prepare_where_encryption_is_required(project: Project) -> None:
    from tests.support import constraint

    project.fill(3)
    project.ok("encrypt")
    constraint.require_encryption(project.engine, "Integration", {"refresh": "i.refresh"})
    out = project.refused("check", SHOP_ROLLOUT="prepare")
    assert "Integration.refresh: its rollout stage is prepare" in out
    project.ok("check", SHOP_ROLLOUT="migrate")


def test_lock_that_is_never_released_ends_with_one_line(
    postgresql_url: str, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    project = Project(tmp_path, postgresql_url, make_engine(postgresql_url, KeyRing(primary=NEW)))
    project.execute('ALTER TABLE "Integration" ALTER COLUMN refresh TYPE VARCHAR(255)')
    other = create_engine(postgresql_url)
    with other.connect() as connection:
        connection.execute(text('SELECT count(*) FROM "Integration"'))
        out = project.refused("widen", "--ddl-patience", "0")
    other.dispose()
    assert "sealchemy: " in out
    assert "it is locked by pid" in out


def test_decrypt_says_what_to_do_where_encryption_is_required(project: Project) -> None:
    from tests.support import constraint

    project.fill(3)
    project.ok("encrypt")
    constraint.require_encryption(project.engine, "Integration", CONTEXTS)
    before = project.raw()
    assert "op.allow_plaintext" in project.refused("decrypt", "--allow-plaintext")
    assert project.raw() == before
