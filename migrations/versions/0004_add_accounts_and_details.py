"""Tell the accounts of a user apart, add details, and note failed refreshes; 0005 binds tokens to their row.

Each step is left out if it is done already, so that a run that was killed can be continued.

Revision ID: 0004
Revises: 0003
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLE = "integrations"
CONTEXTS = {
    "access_token": "integrations.access_token",
    "refresh_token": "integrations.refresh_token",
}
BEFORE, AFTER = ("user_id", "provider"), ("user_id", "provider", "account")


def upgrade() -> None:
    if op.get_context().as_sql:
        raise CommandError("revision 0004 looks at the table first, which a script written by --sql cannot")
    op.allow_plaintext(TABLE, CONTEXTS)  # 0006 adds the CHECK again, for bound values
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET lock_timeout = '5s'")  # fail, to be run again, rather than have the application queue
    found = {item["name"] for item in sa.inspect(op.get_bind()).get_columns(TABLE)}
    for column in new_columns():
        if column.name not in found:
            op.add_column(TABLE, column)
    if op.get_bind().dialect.name in {"mysql", "mariadb"}:
        compare_exactly()
    replace_unique(BEFORE, AFTER)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("RESET lock_timeout")


def downgrade() -> None:
    query = sa.text("SELECT count(*) FROM integrations WHERE account <> '' OR details IS NOT NULL")
    if lost := op.get_bind().scalar(query):
        raise RuntimeError(f"{lost} integrations have an account or details, which would be lost; remove these first")
    op.allow_plaintext(TABLE, ["details"])  # the CHECK of the tokens stays, as revision 0003 made it
    replace_unique(AFTER, BEFORE)
    for column in reversed(new_columns()):
        op.drop_column(TABLE, column.name)


def new_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("account", sa.String(255), server_default="", nullable=False),
        sa.Column("details", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")),
        sa.Column("refreshed_at", sa.DateTime(timezone=True)),
        sa.Column("failing_since", sa.DateTime(timezone=True)),
        sa.Column("failures", sa.Integer, server_default="0", nullable=False),
        sa.Column("last_error", sa.String(64)),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True)),
    ]


def compare_exactly() -> None:
    """Give the columns to which tokens are bound a binary collation: `a` and `A` are equal in others."""
    for name, length in (("user_id", 255), ("provider", 64), ("account", 255)):
        default = "" if name == "account" else None
        type_ = sa.String(length, collation="utf8mb4_bin")
        op.alter_column(TABLE, name, type_=type_, existing_nullable=False, existing_server_default=default)


def replace_unique(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    constraints = sa.inspect(op.get_bind()).get_unique_constraints(TABLE)
    found = {tuple(item["column_names"]): item["name"] for item in constraints}
    if op.get_bind().dialect.name == "sqlite":
        if new not in found:
            rebuild_on_sqlite(f"UNIQUE ({', '.join(old)})", f"UNIQUE ({', '.join(new)})")
        return
    name = "_".join(["uq", TABLE, *new])
    if new not in found and op.get_bind().dialect.name == "postgresql":
        add_unique_on_postgresql(name, new)
    elif new not in found:
        op.create_unique_constraint(name, TABLE, list(new))
    if old in found:
        op.drop_constraint(found[old], TABLE, type_="unique")


def add_unique_on_postgresql(name: str, columns: tuple[str, ...]) -> None:
    """Build the index while others use the table."""
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # an invalid one, of a run that was killed
        op.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {TABLE} ({', '.join(columns)})")
    op.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT {name} UNIQUE USING INDEX {name}")


def rebuild_on_sqlite(old: str, new: str) -> None:
    """Make the table anew with another constraint, as https://sqlite.org/lang_altertable.html describes.

    Its indexes and triggers are made again, and views and rows of other tables that refer to it stay as they are.
    """
    query = "SELECT sql FROM sqlite_master WHERE lower(tbl_name) = 'integrations' AND sql IS NOT NULL"
    with without_references(), exclusive_transaction() as connection:
        table = connection.exec_driver_sql(f"{query} AND type = 'table'").scalar_one()
        others = connection.exec_driver_sql(f"{query} AND type <> 'table'").scalars().all()
        made, count = re.subn(r"^CREATE TABLE\s+\S+", "CREATE TABLE sealchemy_new", table.replace(old, new))
        if count != 1 or old not in table:
            raise RuntimeError(f"table {TABLE} has not {old}, as revision 0001 made it; make that {new} by hand")
        connection.exec_driver_sql(made)
        connection.exec_driver_sql("INSERT INTO sealchemy_new SELECT * FROM integrations")
        connection.exec_driver_sql("DROP TABLE integrations")
        connection.exec_driver_sql("ALTER TABLE sealchemy_new RENAME TO integrations")
        for statement in others:
            connection.exec_driver_sql(statement)


@contextmanager
def without_references() -> Iterator[None]:
    """Have DROP and RENAME leave the foreign keys and the views of others alone."""
    settings = {"foreign_keys": 0, "legacy_alter_table": 1}
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        before = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in settings}
        try:
            for name, value in settings.items():
                connection.exec_driver_sql(f"PRAGMA {name} = {value}")
            yield
        finally:
            for name, value in before.items():
                connection.exec_driver_sql(f"PRAGMA {name} = {value}")


@contextmanager
def exclusive_transaction() -> Iterator[sa.Connection]:
    connection = op.get_bind()
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")
