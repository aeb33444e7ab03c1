"""Tables as people have them: each obstacle is found and named before the first row, on the database that has it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Integer, MetaData, Table, Text, UniqueConstraint, create_engine, text

from sealchemy import BlindIndex, EncryptedString, Key, KeyRing, Rollout, UnsupportedOperationError
from sealchemy._inspection.uniqueness import missing_uniqueness
from sealchemy._rewriting.constraint import constraint_name
from sealchemy.plan import plan, steps
from sealchemy.rewrite import ENCRYPT, rewrite
from tests.support.leaks import assert_silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

RING = KeyRing(primary=Key.generate())
COLUMNS = {"token": "accounts.token"}
TABLE = "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name VARCHAR(40), token {type})"
ROWS = "INSERT INTO accounts (id, name, token) VALUES (1, 'a', 'token-SENTINEL-1'), (2, 'b', 'token-SENTINEL-2')"


class Case(NamedTuple):
    """An object on the table, the label of its finding, and the statement that removes it ("" if accepting does)."""

    create: list[str]
    label: str
    repair: str = ""
    type: str = "TEXT"


FUNCTION = (
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN INSERT INTO audit VALUES (OLD.token); RETURN NULL; END'"
)
TRIGGER = "CREATE TRIGGER audit_accounts AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note()"
AUDIT = "CREATE TABLE audit (token TEXT)"
ROOT = [
    "DROP TABLE accounts",
    "CREATE TABLE root (id integer, name text, token text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
    "CREATE TABLE accounts PARTITION OF root FOR VALUES FROM (0) TO (10)",
    ROWS,
]
POSTGRESQL = {
    "index over an array": Case(["CREATE INDEX i ON accounts ((ARRAY[lower(token)]))"], "index:i", "DROP INDEX i"),
    "index over the row": Case(
        [
            "CREATE FUNCTION whole(accounts) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1.token'",
            "CREATE INDEX i ON accounts (whole(accounts))",
        ],
        "index:i",
        "DROP INDEX i",
    ),
    "check of the row": Case(["ALTER TABLE accounts ADD CONSTRAINT c CHECK (length(accounts::text) > 3)"], "check:c"),
    "policy of the row": Case(
        ["CREATE POLICY p ON accounts USING (accounts::text <> '')"],
        "policy:policy p on table accounts",
        "DROP POLICY p ON accounts",
    ),
    "a check with the prefix": Case(
        ["ALTER TABLE accounts ADD CONSTRAINT c CHECK (token <> 'sealchemy:v1:')"], "check:c"
    ),
    "quoted": Case(
        ['ALTER TABLE accounts ADD CONSTRAINT "My Uniq" UNIQUE (token)'],
        "unique:My Uniq",
        'ALTER TABLE accounts DROP CONSTRAINT "My Uniq"',
    ),
    "unique of the parent": Case(
        [*ROOT, "ALTER TABLE root ADD CONSTRAINT u UNIQUE (id, token)"],
        "unique:accounts_id_token_key",
        "ALTER TABLE root DROP CONSTRAINT u",
    ),
    "trigger of the parent": Case(
        [*ROOT, AUDIT, FUNCTION, TRIGGER.replace("accounts FOR", "root FOR")], "trigger:audit_accounts"
    ),
    "column of the row type": Case(
        ["CREATE TABLE other (old accounts)"], "dependency:accounts", "DROP TABLE other", "VARCHAR(200)"
    ),
    "unique constraint": Case(
        ["ALTER TABLE accounts ADD CONSTRAINT u UNIQUE (token)"],
        "unique:u",
        "ALTER TABLE accounts DROP CONSTRAINT u",
    ),
    "unique index": Case(["CREATE UNIQUE INDEX u ON accounts (name, token)"], "unique:u", "DROP INDEX u"),
    "index": Case(["CREATE INDEX i ON accounts (token)"], "index:i", "DROP INDEX i"),
    "included": Case(["CREATE INDEX i ON accounts (name) INCLUDE (token)"], "index:i", "DROP INDEX i"),
    "expression": Case(["CREATE INDEX i ON accounts (lower(token))"], "index:i", "DROP INDEX i"),
    "predicate": Case(["CREATE INDEX i ON accounts (id) WHERE token ~ '^ya29'"], "index:i", "DROP INDEX i"),
    "exclusion": Case(
        ["ALTER TABLE accounts ADD CONSTRAINT x EXCLUDE USING hash (token WITH =)"],
        "exclusion:x",
        "ALTER TABLE accounts DROP CONSTRAINT x",
    ),
    "foreign key to it": Case(
        [
            "ALTER TABLE accounts ADD CONSTRAINT u UNIQUE (token)",
            "CREATE TABLE child (token TEXT CONSTRAINT f REFERENCES accounts (token) ON UPDATE SET NULL)",
        ],
        "foreign-key:f",
        "ALTER TABLE accounts DROP CONSTRAINT u CASCADE",
    ),
    "foreign key from it": Case(
        [
            "CREATE TABLE known (token TEXT PRIMARY KEY)",
            "INSERT INTO known SELECT token FROM accounts",
            "ALTER TABLE accounts ADD CONSTRAINT f FOREIGN KEY (token) REFERENCES known",
        ],
        "foreign-key:f",
        "ALTER TABLE accounts DROP CONSTRAINT f",
    ),
    "check": Case(["ALTER TABLE accounts ADD CONSTRAINT c CHECK (length(token) > 3)"], "check:c"),
    "generated column": Case(
        ["ALTER TABLE accounts ADD COLUMN hint text GENERATED ALWAYS AS (right(token, 4)) STORED"],
        "generated:hint",
        "ALTER TABLE accounts DROP COLUMN hint",
    ),
    "view of a narrow column": Case(
        ["CREATE VIEW v AS SELECT token FROM accounts"], "view:v", "DROP VIEW v", "VARCHAR(200)"
    ),
    "materialized view of a narrow column": Case(
        ["CREATE MATERIALIZED VIEW v AS SELECT token FROM accounts"],
        "materialized-view:v",
        "DROP MATERIALIZED VIEW v",
        "VARCHAR(200)",
    ),
    "policy": Case(
        ["CREATE POLICY p ON accounts USING (token <> 'x')"],
        "policy:policy p on table accounts",
        "DROP POLICY p ON accounts",
    ),
    "trigger": Case([AUDIT, FUNCTION, TRIGGER], "trigger:audit_accounts"),
    "trigger of this column": Case(
        [AUDIT, FUNCTION, TRIGGER.replace("UPDATE", "UPDATE OF token")], "trigger:audit_accounts"
    ),
    "statement trigger": Case(
        [AUDIT, FUNCTION, TRIGGER.replace("EACH ROW", "EACH STATEMENT")], "trigger:audit_accounts"
    ),
    "rule": Case(
        [AUDIT, "CREATE RULE r AS ON UPDATE TO accounts DO ALSO INSERT INTO audit VALUES (OLD.token)"], "rule:r"
    ),
}
LOG = "BEGIN INSERT INTO audit VALUES (OLD.token); END"
SQLITE = {
    **{
        name: Case([AUDIT, f"CREATE TRIGGER {head} ON accounts {LOG}"], f"trigger:{label}")
        for name, head, label in (
            ("named BEGIN", '"a BEGIN b" AFTER UPDATE', "a BEGIN b"),
            ("a comment with BEGIN", "a -- BEGIN\n AFTER UPDATE", "a"),
            ("a comment with UPDATE OF", "a /* UPDATE OF name ON */ AFTER UPDATE", "a"),
            ("named UPDATE OF", '"x UPDATE OF name ON y" AFTER UPDATE', "x UPDATE OF name ON y"),
            ("a comment in the list", "a AFTER UPDATE OF name /* ON y */, token", "a"),
            ("backquotes", "a UPDATE OF `name`, token", "a"),
            ("a string as a name", "a BEFORE UPDATE OF 'token'", "a"),
            ("if not exists", "IF NOT EXISTS main.a AFTER UPDATE", "a"),
        )
    },
    "generated, short": Case(
        [
            "DROP TABLE accounts",
            "CREATE TABLE accounts (id INTEGER PRIMARY KEY, -- it's\n name TEXT, token TEXT, h TEXT AS (upper(TOKEN)))",
            ROWS,
        ],
        "generated:h",
        "ALTER TABLE accounts DROP COLUMN h",
    ),
    "index with a backquote": Case(["CREATE INDEX i ON accounts (upper(token), `name`)"], "index:i", "DROP INDEX i"),
    "check in other letters": Case(
        [
            "DROP TABLE accounts",
            "CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT, token TEXT CHECK (length(TOKEN) > 3))",
            ROWS,
        ],
        "check:token",
    ),
    "unique": Case(["CREATE UNIQUE INDEX u ON accounts (TOKEN)"], "unique:u", "DROP INDEX u"),
    "index": Case(["CREATE INDEX i ON accounts (token)"], "index:i", "DROP INDEX i"),
    "expression": Case(["CREATE INDEX i ON accounts (lower(Token))"], "index:i", "DROP INDEX i"),
    "predicate": Case(["CREATE INDEX i ON accounts (id) where token > 'a'"], "index:i", "DROP INDEX i"),
    "foreign key to it": Case(
        [
            "CREATE TABLE child (token TEXT, CONSTRAINT f FOREIGN KEY (token) REFERENCES accounts (token))",
        ],
        "foreign-key:f",
        "DROP TABLE child",
    ),
    "generated column": Case(
        ["ALTER TABLE accounts ADD COLUMN hint TEXT GENERATED ALWAYS AS (substr(token, 1, 4)) VIRTUAL"],
        "generated:hint",
        "ALTER TABLE accounts DROP COLUMN hint",
    ),
    "trigger": Case(
        [
            AUDIT,
            "CREATE TRIGGER audit_accounts AFTER UPDATE ON accounts BEGIN INSERT INTO audit VALUES (OLD.token); END",
        ],
        "trigger:audit_accounts",
    ),
    "trigger of this column": Case(
        [
            AUDIT,
            (
                'CREATE TRIGGER audit_accounts AFTER UPDATE OF name, "token" ON accounts'
                " BEGIN INSERT INTO audit VALUES (OLD.token); END"
            ),
        ],
        "trigger:audit_accounts",
    ),
}
MARIADB = {
    "check of another column": Case(
        ["ALTER TABLE accounts ADD COLUMN other TEXT CHECK (other <> token)"], "check:other"
    ),
    "unique": Case(["ALTER TABLE accounts ADD UNIQUE u (token(50))"], "unique:u", "ALTER TABLE accounts DROP INDEX u"),
    "index": Case(["CREATE INDEX i ON accounts (token(50))"], "index:i", "ALTER TABLE accounts DROP INDEX i"),
    "full text": Case(["CREATE FULLTEXT INDEX i ON accounts (token)"], "index:i", "ALTER TABLE accounts DROP INDEX i"),
    "generated column": Case(
        ["ALTER TABLE accounts ADD COLUMN hint TEXT AS (right(token, 4)) STORED"],
        "generated:hint",
        "ALTER TABLE accounts DROP COLUMN hint",
    ),
    "check": Case(["ALTER TABLE accounts ADD CONSTRAINT c CHECK (char_length(token) > 3)"], "check:c"),
    "trigger": Case(
        [
            AUDIT,
            "CREATE TRIGGER audit_accounts AFTER UPDATE ON accounts FOR EACH ROW INSERT INTO audit VALUES (OLD.token)",
        ],
        "trigger:audit_accounts",
    ),
    "system versioning": Case(["ALTER TABLE accounts ADD SYSTEM VERSIONING"], "versioning:accounts"),
    "engine": Case(["ALTER TABLE accounts ENGINE=MyISAM"], "engine:MyISAM", "ALTER TABLE accounts ENGINE=InnoDB"),
    "aria": Case(["ALTER TABLE accounts ENGINE=Aria"], "engine:Aria", "ALTER TABLE accounts ENGINE=InnoDB"),
    "charset": Case(
        ["ALTER TABLE accounts MODIFY token TEXT CHARACTER SET utf16"],
        "charset:token",
        "ALTER TABLE accounts MODIFY token TEXT CHARACTER SET utf8mb4",
    ),
}
CASES = [
    pytest.param(kind, case, id=f"{kind}-{name}")
    for kind, cases in (("postgresql", POSTGRESQL), ("sqlite", SQLITE), ("mariadb", MARIADB))
    for name, case in cases.items()
]


def database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue(f"{kind}_url")
    return url


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def stored(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT token FROM accounts ORDER BY id")))


def metadata() -> MetaData:
    found = MetaData()
    Table("accounts", found, Column("id", Text, primary_key=True), Column("token", EncryptedString("accounts.token")))
    return found


def labels(engine: Engine) -> dict[str, str]:
    return {item.label: str(item.severity) for table in plan(engine, metadata()) for item in table.findings}


def encrypt(engine: Engine, **options: Any) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        op: Any = Operations(context)
        with context.begin_transaction():
            op.encrypt_columns("accounts", COLUMNS, **options)


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_obstacle_is_refused_by_name_until_it_is_repaired_or_accepted(
    kind: str, case: Case, request: pytest.FixtureRequest, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(database(kind, request, tmp_path), RING, rollout=Rollout.MIGRATE)
    run(engine, TABLE.format(type=case.type), ROWS, *case.create)
    before = stored(engine)
    assert labels(engine)[case.label] == ("blocks" if case.repair else "accept")
    with pytest.raises(UnsupportedOperationError, match="Nothing was changed") as caught:
        encrypt(engine)
    assert case.label in str(caught.value)
    assert_silent(caught.value, "token-SENTINEL")
    assert stored(engine) == before
    if case.repair:
        with pytest.raises(UnsupportedOperationError):
            encrypt(engine, accept=[case.label])
        run(engine, case.repair)
        assert case.label not in labels(engine)
        encrypt(engine)
    else:
        encrypt(engine, accept=[case.label])
    assert all(value.startswith("sealchemy:v1:") for value in stored(engine))
    assert [RING.decrypt(value, "accounts.token") for value in stored(engine)] == before


HARMLESS = {
    "postgresql": [
        "CREATE INDEX i ON accounts (name)",
        "CREATE INDEX j ON accounts (id) WHERE token IS NOT NULL",
        "ALTER TABLE accounts ADD CONSTRAINT u UNIQUE (name)",
        "ALTER TABLE accounts ADD CONSTRAINT c CHECK (name <> '')",
        AUDIT,
        FUNCTION,
        TRIGGER.replace("UPDATE", "UPDATE OF name"),
        TRIGGER.replace("UPDATE", "DELETE").replace("audit_accounts", "other"),
        "CREATE TRIGGER disabled BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note()",
        "ALTER TABLE accounts DISABLE TRIGGER disabled",
        "CREATE STATISTICS s ON name, token FROM accounts",
        "ALTER TABLE accounts ALTER COLUMN token SET NOT NULL",
        "CREATE INDEX k ON accounts ((token IS NULL))",
        "ALTER TABLE accounts ADD CONSTRAINT d CHECK (token IS NOT NULL OR name IS NULL)",
    ],
    "sqlite": [
        "CREATE INDEX i ON accounts (name)",
        "CREATE INDEX j ON accounts (id) WHERE token IS NOT NULL",
        AUDIT,
        "CREATE TRIGGER t AFTER UPDATE OF name ON accounts BEGIN DELETE FROM audit; END",
        "CREATE TRIGGER u AFTER INSERT ON accounts BEGIN UPDATE audit SET token = ''; END",
        "CREATE TRIGGER w AFTER UPDATE ON audit BEGIN DELETE FROM audit; END",
        "CREATE TRIGGER no_update AFTER INSERT ON accounts BEGIN DELETE FROM audit; END",
        "CREATE INDEX k ON accounts (name) WHERE token NOTNULL -- token",
        "CREATE VIRTUAL TABLE accounts_search USING fts5(body)",
    ],
    "mariadb": [
        "CREATE INDEX i ON accounts (name)",
        AUDIT,
        "CREATE TRIGGER t AFTER INSERT ON accounts FOR EACH ROW DELETE FROM audit",
        "ALTER TABLE accounts MODIFY name VARCHAR(40) COMMENT 'see CHECK (`token`)'",
    ],
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_objects_that_do_not_use_the_values_are_not_refused(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(database(kind, request, tmp_path), RING, rollout=Rollout.MIGRATE)
    run(engine, TABLE.format(type="TEXT"), ROWS, *HARMLESS[kind])
    assert not [label for label, severity in labels(engine).items() if severity != "says"]
    encrypt(engine)


def test_what_shows_or_copies_the_values_is_said(
    postgresql_url: str, make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    run(
        engine,
        TABLE.format(type="TEXT DEFAULT 'none'"),
        ROWS,
        "CREATE VIEW v AS SELECT token FROM accounts",
        "CREATE MATERIALIZED VIEW m AS SELECT token FROM accounts",
        "CREATE MATERIALIZED VIEW of_view AS SELECT * FROM v",
        "CREATE MATERIALIZED VIEW of_row AS SELECT row_to_json(accounts) FROM accounts",
        "CREATE PUBLICATION p FOR TABLE accounts",
    )
    copies = {"materialized-view:m", "materialized-view:of_view", "materialized-view:of_row"}
    expected = {"view:v", *copies, "replica:p", "default:token"}
    assert {label for label, severity in labels(engine).items() if severity == "says"} >= expected
    caplog.set_level(logging.WARNING, "sealchemy")
    encrypt(engine)
    assert all(label in caplog.text for label in expected)
    assert "keeps its copy of the plaintext" in caplog.text
    assert "SENTINEL" not in caplog.text


def test_full_text_copies_are_said(tmp_path: Path, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}", RING, rollout=Rollout.MIGRATE)
    run(
        engine,
        TABLE.format(type="TEXT"),
        ROWS,
        "CREATE VIRTUAL TABLE search USING fts5(token, content='accounts')",
        "CREATE VIEW v AS SELECT * FROM accounts",
    )
    assert labels(engine) == {"full-text:search": "says", "view:v": "says"}


def test_partitions_are_inspected_as_well(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    run(
        engine,
        "CREATE TABLE accounts (id integer, token text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE first PARTITION OF accounts FOR VALUES FROM (0) TO (10)",
        "INSERT INTO accounts VALUES (1, 'token-SENTINEL-1')",
        "CREATE INDEX i ON first (token)",
        AUDIT,
        FUNCTION,
        TRIGGER.replace("accounts FOR", "first FOR"),
    )
    assert labels(engine) == {"index:i": "blocks", "trigger:audit_accounts": "accept"}


def test_row_security_is_refused(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    owner = make_engine(postgresql_url, RING)
    role = f"role_{id(owner)}"
    with owner.begin() as connection:
        schema = connection.scalar(text("SELECT current_schema()"))
        connection.exec_driver_sql(TABLE.format(type="TEXT"))
        connection.exec_driver_sql(ROWS)
        connection.exec_driver_sql("ALTER TABLE accounts ENABLE ROW LEVEL SECURITY")
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        connection.exec_driver_sql(f"GRANT ALL ON SCHEMA {schema} TO {role}")
        connection.exec_driver_sql(f"GRANT ALL ON accounts TO {role}")
    engine = make_engine(postgresql_url.replace("postgres@", f"{role}@"), RING, rollout=Rollout.MIGRATE)
    try:
        assert labels(engine) == {"row-security:accounts": "blocks"}
        left = list(steps(plan(engine, metadata()), command_options="", prefix="P"))
        assert left == ["repair accounts, each as its finding says: row-security:accounts"]
        with pytest.raises(UnsupportedOperationError, match="row-security:accounts"):
            encrypt(engine)
    finally:
        engine.dispose()
        run(owner, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_type_without_a_limit_needs_no_widening(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    run(engine, TABLE.format(type="VARCHAR"), ROWS, "CREATE VIEW v AS SELECT token FROM accounts")
    assert labels(engine) == {"view:v": "says"}
    encrypt(engine)


def test_transaction_in_the_way_is_said(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    run(engine, TABLE.format(type="TEXT"), ROWS)
    with engine.connect() as connection:
        connection.execute(text("SELECT * FROM accounts"))
        time.sleep(1.2)
        assert labels(engine) == {"lock:accounts": "says"}


def test_non_strict_mode_blocks(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    options = {"connect_args": {"init_command": "SET sql_mode = ''"}}
    engine = make_engine(mariadb_url, RING, rollout=Rollout.MIGRATE, **options)
    run(engine, TABLE.format(type="MEDIUMTEXT"), ROWS)
    assert labels(engine)["sql-mode:accounts"] == "blocks"


def test_foreign_key_from_another_database_is_found(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(mariadb_url, RING, rollout=Rollout.MIGRATE)
    here = engine.url.database
    run(engine, TABLE.format(type="VARCHAR(99) UNIQUE"), ROWS, f"CREATE DATABASE {here}_other CHARACTER SET utf8mb4")
    try:
        key = f"CONSTRAINT f FOREIGN KEY (token) REFERENCES {here}.accounts (token)"
        run(engine, f"CREATE TABLE {here}_other.child (token VARCHAR(99), {key})")
        assert labels(engine)["foreign-key:f"] == "blocks"
    finally:
        run(engine, f"DROP DATABASE {here}_other")


@pytest.mark.parametrize(
    ("kind", "type_", "message"),
    [
        ("postgresql", "mood", "not text"),
        ("postgresql", "xml", "not text"),
        ("postgresql", '"char"', "not text"),
        ("postgresql", "name", "not text"),
        ("postgresql", "jsonb", "turn it into text first"),
        ("postgresql", "json", "turn it into text first"),
        ("postgresql", "inet", "not text"),
        ("postgresql", "text[]", "not text"),
        ("postgresql", "short", "not text"),
        ("mariadb", "ENUM('a', 'b')", "not text"),
        ("mariadb", "SET('a', 'b')", "not text"),
        ("mariadb", "INET6", "not text"),
        ("mariadb", "BLOB", "not text"),
        ("mariadb", "JSON", "json:token"),
        ("sqlite", "JSON", "turn it into text first"),
        ("sqlite", "BLOB", "not text"),
    ],
)
def test_types_that_pass_for_text_are_refused(
    kind: str,
    type_: str,
    message: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_engine: Callable[..., Engine],
    recwarn: pytest.WarningsRecorder,
) -> None:
    engine = make_engine(database(kind, request, tmp_path), RING, rollout=Rollout.MIGRATE)
    if kind == "postgresql":
        run(engine, "CREATE TYPE mood AS ENUM ('a')", "CREATE DOMAIN short AS varchar(30)")
    run(engine, TABLE.format(type=type_))
    (found,) = plan(engine, metadata())
    assert message in " ".join(map(str, found.findings))
    assert found.obstacles()
    with pytest.raises(Exception, match=message):
        encrypt(engine)


def test_plan_names_the_schema(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    with engine.begin() as connection:
        schema = f"{connection.scalar(text('SELECT current_schema()'))}_other"
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        connection.exec_driver_sql(f"CREATE TABLE {schema}.t (id integer PRIMARY KEY, token varchar(90))")
    metadata = MetaData()
    columns = Column("id", Integer, primary_key=True), Column("token", EncryptedString("t.token"))
    Table("t", metadata, *columns, schema=schema)
    try:
        (table,) = found = plan(engine, metadata)
        assert (table.table, table.schema, [item.label for item in table.obstacles()]) == ("t", schema, ["width:token"])
        assert f"op.require_encryption('t', {{'token': 't.token'}}, schema='{schema}')" in "".join(
            steps(found, command_options="", prefix="P")
        )
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")


def test_replication_slot_is_said(postgresql_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(postgresql_url, RING)
    run(engine, TABLE.format(type="TEXT"), ROWS)
    slot = f"slot_{id(engine)}"
    run(engine, f"SELECT pg_create_physical_replication_slot('{slot}')")
    try:
        assert labels(engine)[f"slot:{slot}"] == "says"
    finally:
        run(engine, f"SELECT pg_drop_replication_slot('{slot}')")


def test_view_on_mariadb_is_said(mariadb_url: str, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(mariadb_url, RING)
    run(engine, TABLE.format(type="MEDIUMTEXT"), ROWS, "CREATE VIEW v AS SELECT * FROM accounts")
    assert labels(engine)[f"view:{engine.url.database}.v"] == "says"


@pytest.mark.parametrize("how", ["partition", "inherited", "typed"])
def test_type_that_cannot_be_changed_here_is_refused(
    postgresql_url: str, make_engine: Callable[..., Engine], how: str
) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    columns = "id integer, token varchar(90)"
    if how == "partition":
        run(engine, f"CREATE TABLE root ({columns}, PRIMARY KEY (id)) PARTITION BY RANGE (id)")
        run(engine, "CREATE TABLE accounts PARTITION OF root FOR VALUES FROM (0) TO (10)")
    elif how == "inherited":
        run(engine, f"CREATE TABLE root ({columns})")
        run(engine, "CREATE TABLE accounts (PRIMARY KEY (id)) INHERITS (root)")
    else:
        run(engine, f"CREATE TYPE account AS ({columns})", "CREATE TABLE accounts OF account (PRIMARY KEY (id))")
    assert labels(engine)["dependency:accounts"] == "blocks"
    with pytest.raises(UnsupportedOperationError, match="dependency:accounts"):
        encrypt(engine)


def test_check_that_is_not_validated_does_not_count_as_required(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    run(engine, TABLE.format(type="TEXT"), ROWS)
    encrypt(engine)
    name, condition = constraint_name("accounts", "token"), "token COLLATE \"C\" LIKE 'sealchemy:v1:____________:_%%'"
    run(engine, f"ALTER TABLE accounts ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
    assert plan(engine, metadata())[0].columns[0].state == "encrypted"
    run(engine, f"ALTER TABLE accounts VALIDATE CONSTRAINT {name}")
    assert plan(engine, metadata())[0].columns[0].state == "required"


def test_run_that_finds_nothing_to_do_cleans_up_after_one_that_was_killed(
    postgresql_url: str, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(postgresql_url, RING, rollout=Rollout.MIGRATE)
    run(engine, TABLE.format(type="TEXT"))
    run(engine, "INSERT INTO accounts SELECT i, 'a', 'token-SENTINEL' FROM generate_series(1, 50) AS i")
    run(engine, "ANALYZE accounts")

    def samples() -> str:
        with engine.connect() as connection:
            query = "SELECT most_common_vals::text FROM pg_stats WHERE tablename = 'accounts' AND attname = 'token'"
            return str(connection.scalars(text(f"{query} AND schemaname = current_schema()")).all())

    with engine.begin() as connection:  # in the caller's transaction, nothing is cleaned up
        rewrite(ENCRYPT, connection, "accounts", COLUMNS)
    assert "SENTINEL" in samples()
    encrypt(engine)
    assert "SENTINEL" not in samples()


def steps_of(url: str, statements: list[str], *columns: Column[Any]) -> list[str]:
    """Return the steps for a table `accounts` with these columns, and a trigger that writes elsewhere."""
    models = MetaData()
    Table("accounts", models, Column("id", Integer, primary_key=True), *columns)
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in (
            *statements,
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE TRIGGER audit AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note()",
        ):
            connection.exec_driver_sql(statement)
    lines = [line.partition("  #")[0] for line in steps(plan(engine, models), command_options="", prefix="P")]
    engine.dispose()
    return lines


def test_the_plan_disables_triggers_before_any_rewrite_and_widens_before_views_come_back(postgresql_url: str) -> None:
    lines = steps_of(
        postgresql_url,
        [
            "CREATE TABLE accounts (id integer PRIMARY KEY, token varchar(255), token_index varchar(64))",
            "INSERT INTO accounts VALUES (1, 'a token')",
            "CREATE VIEW report AS SELECT token FROM accounts",
        ],
        Column("token", EncryptedString("accounts.token")),
        Column("token_index", BlindIndex("accounts.token")),
    )
    order = ("disable trigger:audit", "sealchemy reindex", "repair", "sealchemy widen", "create the views again")
    order += ("deploy everywhere with P_ROLLOUT=migrate", "sealchemy encrypt", "enable again")
    found = [next(number for number, line in enumerate(lines) if line.startswith(part)) for part in order]
    assert found == sorted(found)


def test_steps_that_rewrite_rows_stand_between_disabling_and_enabling(postgresql_url: str) -> None:
    lines = steps_of(
        postgresql_url,
        [
            "CREATE TABLE accounts (id integer PRIMARY KEY, user_id integer NOT NULL, token text)",
            f"INSERT INTO accounts VALUES (1, 7, 'a token'), (2, 7, '{RING.encrypt('another', 'accounts.token')}')",
        ],
        Column("user_id", Integer, nullable=False),
        Column("token", EncryptedString("accounts.token", bind_to=("user_id",))),
    )
    begins = next(number for number, line in enumerate(lines) if line.startswith("disable trigger:audit"))
    ends = lines.index("enable again what you disabled")
    assert [begins < lines.index(name) < ends for name in ("sealchemy encrypt", "sealchemy bind")] == [True, True]
    assert lines.count("enable again what you disabled") == 1


@pytest.mark.parametrize(
    ("exists", "declared", "is_missing"),
    [
        ("", {"unique": True}, True),
        ("UNIQUE (i)", {"unique": True}, False),
        ("UNIQUE (i, tenant)", {"unique": True}, True),
        ("PRIMARY KEY (i)", {"unique": True}, False),
        ("CREATE UNIQUE INDEX u ON accounts (i)", {"unique": True}, False),
        ("CREATE INDEX u ON accounts (i)", {"unique": True}, True),
        ("CREATE UNIQUE INDEX u ON accounts (i) WHERE tenant = 1", {"unique": True}, True),
        ("CREATE UNIQUE INDEX u ON accounts (lower(i))", {"unique": True}, True),
        ("UNIQUE (i)", {"unique": True, "with_tenant": True}, False),
        ("", {"unique": False}, False),
    ],
)
@pytest.mark.parametrize("place", ["sqlite", "postgresql"])
def test_missing_uniqueness(
    place: str, exists: str, declared: dict[str, bool], is_missing: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'u.db'}" if place == "sqlite" else request.getfixturevalue("postgresql_url")
    models = MetaData()
    with_tenant = declared.get("with_tenant", False)
    Table(
        "accounts",
        models,
        Column("id", Integer),
        Column("tenant", Integer),
        Column("token", EncryptedString("accounts.token")),
        Column("i", BlindIndex("accounts.token"), unique=declared["unique"] and not with_tenant),
        *([UniqueConstraint("tenant", "i")] if with_tenant else []),
    )
    engine = create_engine(url)
    key = "id integer NOT NULL" if exists.startswith("PRIMARY") else "id integer PRIMARY KEY"
    inline = "" if not exists or exists.startswith("CREATE") else f", {exists}"
    with engine.begin() as connection:
        columns = f"{key}, tenant integer, token text, i varchar(64)"
        connection.exec_driver_sql(f"CREATE TABLE accounts ({columns}{inline})")
        if exists.startswith("CREATE"):
            connection.exec_driver_sql(exists)
        found = [item.name for item in missing_uniqueness(connection, models.tables["accounts"], "i")]
    engine.dispose()
    assert found == (["i"] if is_missing else [])


def test_an_inline_unique_of_sqlite_and_a_view_count(tmp_path: Path) -> None:
    models = MetaData()
    columns = Column("token", EncryptedString("c")), Column("i", BlindIndex("c"), unique=True)
    table = Table("accounts", models, Column("id", Integer, primary_key=True), *columns)
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE accounts (id integer PRIMARY KEY, token text, i varchar(64) UNIQUE)")
        assert list(missing_uniqueness(connection, table, "i")) == []
        connection.exec_driver_sql("ALTER TABLE accounts RENAME TO others")
        connection.exec_driver_sql("CREATE VIEW accounts AS SELECT * FROM others")
        assert list(missing_uniqueness(connection, table, "i")) == []
