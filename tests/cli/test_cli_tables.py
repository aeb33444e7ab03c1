"""The commands for tables: their output and exit codes. They never show a value."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, make_url, text

from sealchemy import KeyRing, attach_key_ring
from sealchemy.cli import output
from sealchemy.rewrite import VERIFY, rewrite
from tests.support import postgresql
from tests.support.cli import CONTEXTS, MODELS, OLD, RING, Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine


@pytest.fixture
def project(tmp_path: Path, database_url: str, make_engine: Callable[..., Engine]) -> Project:
    return Project(tmp_path, database_url, make_engine(database_url, RING))


def test_full_cycle_from_plaintext_to_a_new_key_and_back(project: Project) -> None:
    project.fill(30)
    before = project.raw()
    assert "45 values" not in project.ok("status")
    assert "Integration.accessToken: 30 values are plaintext" in project.refused("status", "--fail-if-plaintext")
    assert "PlaintextFoundError" in project.refused("check", SHOP_ROLLOUT="strict")
    assert "30 rows would be rewritten" in project.ok("encrypt", "--dry-run")
    assert project.raw() == before
    first = {"SHOP_KEY": OLD.reveal(), "SHOP_PREVIOUS_KEYS": ""}
    out = project.ok("encrypt", "--batch-size", "7", "--pause", "0.01", "--lock-timeout", "3", **first)
    assert "encrypt Integration: 30 rows" in out
    project.ok("verify", **first)
    project.ok("check", SHOP_ROLLOUT="strict")
    project.ok("status", "--fail-if-plaintext")
    assert f"30 values are under key {OLD.id}" in project.refused("status", "--fail-if-key", OLD.id)
    assert "rekey Integration: 10 rows" in project.ok("rekey", "--max-rows", "10", "--batch-size", "4")
    gate = ("rekey", "--fail-if-key", OLD.id)
    assert f"values are under key {OLD.id}" in project.refused(*gate, "--max-rows", "5")
    assert "rekey Integration: 15 rows" in project.ok(*gate)
    project.ok("status", "--fail-if-key", OLD.id, SHOP_PREVIOUS_KEYS="")
    assert "--allow-plaintext" in project.refused("decrypt")
    assert "decrypt Integration: 30 rows" in project.ok("decrypt", "--allow-plaintext")
    assert project.raw() == before


def test_progress_and_results_are_lines_of_json(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_SECONDS_BETWEEN_LINES", 0.0)
    project.fill(30)
    project.execute("""UPDATE "Integration" SET "accessToken" = 'sealchemy:v9:SENTINEL' WHERE id = 7""")
    lines = project.refused("encrypt", "--batch-size", "7", "--json").splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    progress, result = told[:-1], told[-1]
    assert [item["done"] for item in progress] == [14, 21, 28, 30]
    assert {(item["event"], item["table"], item["step"], item["total"]) for item in progress} == {
        ("progress", "Integration", "encrypt", 30)
    }
    assert all(item["rows_per_second"] > 0 and item["seconds_left"] >= 0 for item in progress)
    assert (result["event"], result["rewritten"], result["failed"], result["stopped"]) == ("result", 29, 1, None)
    assert result["failures"][0]["key"] == ["7"]
    assert "SENTINEL" not in json.dumps(told)
    project.execute("""DELETE FROM "Integration" WHERE id = 7""")
    told = [json.loads(line) for line in project.ok("verify", "--json").splitlines()]
    assert (told[-1]["event"], told[-1]["step"], told[-1]["failed"]) == ("result", "verify", 0)


def test_status_prints_json(project: Project) -> None:
    project.fill(4)
    project.execute(
        """UPDATE "Integration" SET "accessToken" = :value WHERE id = 1""",
        value=KeyRing(primary=OLD).encrypt("x", "i.access"),
    )
    project.execute("""UPDATE "Integration" SET "accessToken" = 'sealchemy:v9:SENTINEL' WHERE id = 2""")
    access, refresh = json.loads(project.ok("status", "--json"))
    keys = [{"id": OLD.id, "role": "previous", "values": 1}]
    expected = {"null": 0, "plaintext": 2, "keys": keys, "unknown": 1}
    assert access == {"table": "Integration", "column": "accessToken", "context": "i.access", **expected}
    assert (refresh["null"], refresh["plaintext"]) == (2, 2)
    without = json.loads(project.ok("status", "--json", SHOP_KEY="", SHOP_PREVIOUS_KEYS=""))
    assert without[0]["keys"][0]["role"] == "unknown"


def test_unreadable_values_are_listed_and_left(project: Project) -> None:
    project.fill(30)
    for row in range(1, 13):
        project.execute("""UPDATE "Integration" SET "accessToken" = :v WHERE id = :id""", v="sealchemy:me", id=row)
    out = project.refused("encrypt")
    assert "12 values cannot be read and were left as they were" in out
    assert "; and 2 more" in out
    assert "\nIntegration (12,) accessToken: EnvelopeFormatError" in out
    assert [row[1] for row in project.raw()[:12]] == ["sealchemy:me"] * 12
    assert all(row[1].startswith("sealchemy:v1:") for row in project.raw()[12:])
    assert "Integration (12,) accessToken: EnvelopeFormatError" in project.refused("verify")
    assert "EnvelopeFormatError" in project.refused("check")


def test_interrupted_run_stops_between_batches_and_can_be_continued(project: Project) -> None:
    project.interrupt_and_continue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encrypt", "--shard", "2-8"], "--shard takes one of several shares"),
        (["encrypt", "--shard", "9/8"], "a shard is one of several"),
        (["encrypt", "--batch-size", "0"], "batch_size must be from 1 to 100000"),
        (["encrypt", "--pause", "-1"], "pause must be from 0 to 86400"),
        (["encrypt", "--max-rows", "0"], "max_rows must be 1 or more"),
        (["encrypt", "--lock-timeout", "0"], "lock_timeout must be more than 0"),
        (["encrypt", "--lock-timeout", "inf"], "lock_timeout must be more than 0 and at most"),
        (["scrub", "--lock-timeout", "nan"], "lock_timeout must be more than 0 and at most"),
        (["status", "--url", "postgresql+psycopg://u:SENTINEL@h:54x/d"], "the database's URL cannot be parsed"),
        (["status", "--models", ".x:Base"], "--models .x:Base: TypeError"),
        (["status", "--fail-if-key", "xyz"], "--fail-if-key takes a key id"),
        (["rekey", "--fail-if-key", "xyz"], "--fail-if-key takes a key id"),
        (["status", "--models", "shop.models:Nothing"], "--models shop.models:Nothing: AttributeError"),
        (["status", "--models", "shop.models:Empty"], "--models shop.models:Empty: AttributeError"),
        (["status", "--models", "nowhere:Base"], "--models nowhere:Base: ModuleNotFoundError"),
        (["status", "--models", "shop.models"], "package.module:Base"),
        (["status", "--url", "sqlite:///elsewhere.db"], "there is no database 'elsewhere.db' here"),
        (["status", "--models", "sealchemy.integrations.models:Base"], "there is no such table in the database"),
        (["verify", "--prefix", "NOBODY"], "no encryption key: set NOBODY_KEY"),
        (["verify", "--url", "postgresql+psycopg://u:SENTINEL@127.0.0.1:1/x"], "OperationalError"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(project: Project, arguments: list[str], message: str) -> None:
    assert message in project.refused(*arguments)


def test_the_rollout_stage_comes_from_the_environment(project: Project) -> None:
    project.fill(3)
    assert "stage is prepare" in project.refused("encrypt", SHOP_ROLLOUT="prepare")
    assert "SHOP_ROLLOUT must be one of prepare, migrate, strict" in project.refused(
        "encrypt", SHOP_ROLLOUT="sometimes"
    )
    project.ok("encrypt", SHOP_ROLLOUT="migrate")


def test_shards_work_on_postgresql_and_are_refused_on_sqlite(project: Project) -> None:
    project.fill(3)
    if project.engine.dialect.name == "sqlite":
        assert "only PostgreSQL supports shards" in project.refused("encrypt", "--shard", "1/2")
    else:
        project.ok("encrypt", "--shard", "1/2")
        project.ok("encrypt", "--shard", "2/2")
        project.ok("status", "--fail-if-plaintext")


def files_of(engine: Engine, path: str) -> bytes:
    """Return the bytes that the database stores on disk for the table."""
    if engine.dialect.name == "sqlite":
        from pathlib import Path

        return b"".join(item.read_bytes() for item in Path(path).parent.glob("test.db*"))
    query = text(
        "SELECT pg_read_binary_file(pg_relation_filepath(c.oid)) FROM pg_class c WHERE relkind IN ('r', 't', 'i')"
        " AND (oid = CAST('\"Integration\"' AS regclass)"
        " OR oid = (SELECT reltoastrelid FROM pg_class WHERE oid = CAST('\"Integration\"' AS regclass))"
        " OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = CAST('\"Integration\"' AS regclass)"
        " OR indrelid = (SELECT reltoastrelid FROM pg_class WHERE oid = CAST('\"Integration\"' AS regclass))))"
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))
        statistics = connection.scalar(
            text("SELECT string_agg(s::text, '') FROM pg_stats s WHERE tablename = 'Integration'")
        )
        return b"".join(bytes(item) for item in connection.scalars(query)) + str(statistics).encode()


@pytest.mark.parametrize(
    ("database_url", "mode"),
    [("sqlite", "delete"), ("sqlite", "persist"), ("sqlite", "wal"), ("postgresql", None)],
    indirect=["database_url"],
)
def test_no_plaintext_is_left_on_disk_after_scrub(project: Project, mode: str | None) -> None:
    if mode:
        with project.engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA journal_mode = {mode}")
            connection.exec_driver_sql("PRAGMA secure_delete = OFF")
    project.fill(500)
    noise = "".join(chr(33 + (number * 7919) % 90) for number in range(30_000))  # too long for one page
    project.execute("""UPDATE "Integration" SET refresh = :v WHERE id = 1""", v="SENTINEL" + noise)
    path = make_url(project.url).database or ""
    if project.engine.dialect.name == "postgresql":
        project.execute('ANALYZE "Integration"')
    assert b"SENTINEL" in files_of(project.engine, path)
    project.ok("encrypt")
    if project.engine.dialect.name == "postgresql":
        assert "reads and writes go on" in project.ok("scrub", "--online")
        assert b"SENTINEL" in files_of(project.engine, path)  # as its output says
    project.engine.dispose()
    out = project.ok("scrub")
    assert "lock" in out
    assert "re-issued" in out
    assert b"SENTINEL" not in files_of(project.engine, path)
    rewrite(VERIFY, project.engine, "Integration", CONTEXTS)


def test_scrub_reports_missing_privileges(
    tmp_path: Path, postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    project = Project(tmp_path, postgresql_url, make_engine(postgresql_url, RING))
    project.fill(500)
    user = f"app_{tmp_path.parent.name.replace('-', '_')}_{os.getpid()}"
    schema = str(make_url(postgresql_url).query["options"]).removeprefix("-csearch_path=")
    project.execute('ANALYZE "Integration"')
    project.execute(f"CREATE ROLE {user} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {user}")
    project.execute(f'GRANT SELECT, UPDATE ON "Integration" TO {user}')
    try:
        url = make_url(postgresql_url).set(username=user).render_as_string(hide_password=False)
        assert "ANALYZE it as the owner" in project.ok("encrypt", "--url", url)
        for arguments in ([], ["--online"]):
            assert "this user may not VACUUM it" in project.refused("scrub", "--url", url, *arguments)
        project.ok("encrypt")
        project.ok("scrub")
        assert b"SENTINEL" not in files_of(project.engine, "")
    finally:
        project.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


def test_max_rows_counts_rows_of_tables_with_unreadable_values(project: Project) -> None:
    (project.folder / "shop/two.py").write_text(
        MODELS.replace("Integration", "aa").replace("class Empty:\n    pass", "")
        + MODELS[MODELS.index("class Integration") : MODELS.index("class Empty")].replace("Integration", "bb")
    )
    for table in ("aa", "bb"):
        project.execute(f'CREATE TABLE {table} (id INTEGER PRIMARY KEY, "accessToken" TEXT, refresh TEXT)')
        rows = ", ".join(f"({number}, 'SENTINEL', NULL)" for number in range(9))
        project.execute(f"INSERT INTO {table} VALUES {rows}")
    project.execute("""UPDATE aa SET "accessToken" = 'sealchemy:x' WHERE id = 3""")
    project.refused("encrypt", "--models", "shop.two:Base", "--max-rows", "10", "--prefix", "SHOP")
    with project.engine.connect() as connection:
        query = """SELECT count(*) FROM bb WHERE "accessToken" = 'SENTINEL'"""
        assert connection.scalar(text(query)) == 7


def test_scrub_reports_an_old_transaction_that_keeps_plaintext(
    tmp_path: Path, postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    project = Project(tmp_path, postgresql_url, make_engine(postgresql_url, RING))
    project.fill(10)
    with make_engine(postgresql_url, RING, isolation_level="REPEATABLE READ").connect() as old:
        old.execute(text("SELECT 1 FROM pg_class LIMIT 1"))
        project.ok("encrypt")
        assert "plaintext may remain" in project.refused("scrub", "--lock-timeout", "0.2")
        assert b"SENTINEL" in files_of(project.engine, "")
    project.ok("scrub")
    assert b"SENTINEL" not in files_of(project.engine, "")


def test_scrub_reports_an_open_transaction_that_only_wrote(
    tmp_path: Path, postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    project = Project(tmp_path, postgresql_url, make_engine(postgresql_url, RING))
    project.fill(10)
    project.execute("CREATE TABLE other (x INTEGER)")
    with project.engine.connect() as old:
        old.execute(text("INSERT INTO other VALUES (1)"))
        project.ok("encrypt")
        assert "plaintext may remain" in project.refused("scrub", "--lock-timeout", "0.2")


@pytest.fixture(scope="module")
def verbose_server() -> Iterator[postgresql.Server]:
    server = postgresql.start_any(log_statement="all", log_min_duration_statement="0", log_parameter_max_length="-1")
    if server is None:
        pytest.fail(postgresql.WHAT_TO_INSTALL)
    yield server
    server.stop()


def test_no_value_is_shown_at_any_verbosity(tmp_path: Path, verbose_server: postgresql.Server) -> None:
    engine = attach_key_ring(create_engine(verbose_server.url), RING)
    project = Project(tmp_path, verbose_server.url, engine)
    with engine.begin() as connection:
        rows = "SELECT i, 'SENT' || 'INEL-' || i, 'SENT' || 'INEL-r' FROM generate_series(1, 50) AS i"
        connection.execute(text(f'INSERT INTO "Integration" {rows}'))
        connection.execute(text("""UPDATE "Integration" SET refresh = 'sealchemy:SENT' || 'INEL' WHERE id = 1"""))
    for verbosity in ("-v", "-vv"):
        for command in ("status", "check", "verify", "encrypt", "rekey", "scrub"):
            project.run(command, verbosity)
        project.execute("""UPDATE "Integration" SET refresh = NULL WHERE id = 1""")
    assert "UPDATE" in verbose_server.log()
    assert "SENTINEL" not in verbose_server.log()
    for verbosity in ("-v", "-vv"):
        project.ok(
            "decrypt", verbosity, "--allow-plaintext"
        )  # the log may show the plaintext that this writes, but nothing else
        project.ok("encrypt", verbosity)
    engine.dispose()


def test_equal_failures_are_listed_by_their_first_keys(project: Project) -> None:
    project.fill(200)
    shown = project.refused("verify", SHOP_ROLLOUT="strict")
    assert "Integration (1,) accessToken: PlaintextFoundError" in shown
    assert "Integration and 180 more accessToken: PlaintextFoundError" in shown
    assert len([line for line in shown.splitlines() if line.startswith("Integration (")]) == 40


def test_invented_key_ids_do_not_fill_the_screen(project: Project) -> None:
    project.fill(40)
    for row in range(1, 41):
        value = f"sealchemy:v1:{row:012x}:" + "A" * 56
        project.execute("""UPDATE "Integration" SET "accessToken" = :v WHERE id = :id""", v=value, id=row)
    shown = project.ok("status")
    assert shown.count("(unknown)") == 11
    assert "30 more keys (unknown)" in shown
    assert ", and 30 more keys" in project.run("plan").stdout
    for name in ("check", "verify"):
        done = project.run(name, SHOP_ROLLOUT="strict")
        assert done.returncode == 1
        assert len((done.stdout + done.stderr).splitlines()) < 20, done.stdout
    assert len(json.loads(project.ok("status", "--json"))[0]["keys"]) == 40
