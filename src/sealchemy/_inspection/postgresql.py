"""What PostgreSQL's catalog knows of a table that matters before its columns are rewritten.

The dependencies of a column come from pg_depend, where the server itself records what would break; a kind of object
that this module does not know blocks.
"""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from sealchemy._databases.access import database_of
from sealchemy._databases.postgresql import quoted_name
from sealchemy._databases.sql_names import names_in, only_tests_for_null
from sealchemy._databases.table import Target

from . import findings
from .findings import Finding, Severity

_TABLES = (
    "WITH tables AS (SELECT to_regclass(:name)::oid AS oid"
    " UNION SELECT relid::oid FROM pg_partition_tree(to_regclass(:name))),"
    " fields AS (SELECT attrelid, attnum, attname FROM pg_attribute JOIN tables ON attrelid = tables.oid"
    " WHERE attname IN :columns AND NOT attisdropped)"
)

_DEPENDENCIES = """
SELECT DISTINCT fields.attname AS column, d.classid::regclass::text AS class,
    pg_describe_object(d.classid, d.objid, d.objsubid) AS description,
    d.classid = 'pg_class'::regclass AND d.objid = fields.attrelid AS is_own, d.objsubid,
    c.relkind, c.relispartition, c.oid::regclass::text AS relation,
    i.indisunique, fields.attnum = ANY (i.indkey) AS is_key,
    pg_get_expr(i.indexprs, i.indrelid) AS expressions, pg_get_expr(i.indpred, i.indrelid) AS predicate,
    n.contype, n.conname, n.conrelid::regclass::text AS owner, n.conparentid, pg_get_constraintdef(n.oid) AS definition,
    w.rulename, v.relkind AS view_kind, v.oid::regclass::text AS view,
    f.adnum = fields.attnum AS is_own_default, pg_get_expr(f.adbin, f.adrelid) AS default,
    a.attgenerated AS generated, a.attname AS generated_column
FROM fields
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = fields.attrelid
    AND d.refobjsubid = fields.attnum
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
LEFT JOIN pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_constraint n ON d.classid = 'pg_constraint'::regclass AND n.oid = d.objid
LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
LEFT JOIN pg_class v ON v.oid = w.ev_class
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
LEFT JOIN pg_attribute a ON a.attrelid = coalesce(f.adrelid, c.oid) AND a.attnum = coalesce(f.adnum, d.objsubid)
    AND a.attnum > 0
ORDER BY 1, 2, 3
"""

_TRIGGERS = """
SELECT DISTINCT 'trigger' AS code, tgname AS name FROM pg_trigger JOIN tables ON tgrelid = tables.oid
WHERE NOT tgisinternal AND tgtype & 16 <> 0 AND tgparentid = 0
    AND tgenabled IN ('A', CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
    AND (cardinality(tgattr::int2[]) = 0 OR EXISTS (
        SELECT FROM fields WHERE attrelid = tgrelid AND attnum = ANY (tgattr::int2[])))
UNION SELECT 'rule', rulename FROM pg_rewrite JOIN tables ON ev_class = tables.oid
WHERE ev_type = '2' AND rulename <> '_RETURN' AND ev_enabled <> 'D'
ORDER BY 1, 2
"""

_TABLE = """
SELECT 'row-security' AS code, to_regclass(:name)::text AS name WHERE row_security_active(to_regclass(:name)::oid)
UNION SELECT 'foreign-table', pg_class.oid::regclass::text FROM pg_class JOIN tables ON pg_class.oid = tables.oid
WHERE relkind = 'f'
UNION SELECT 'replica', pubname FROM pg_publication_tables
JOIN pg_class ON pg_class.oid = to_regclass(:name) AND relname = tablename
JOIN pg_namespace ON pg_namespace.oid = relnamespace AND nspname = schemaname
UNION SELECT 'partition-key', fields.attname FROM fields JOIN pg_partitioned_table ON partrelid = attrelid
WHERE fields.attnum = ANY (partattrs::int2[]) OR strpos(pg_get_partkeydef(partrelid), quote_ident(fields.attname)) > 0
ORDER BY 1, 2
"""

_ABOUT_TABLE = {
    "row-security": (
        Severity.BLOCKS,
        "row-level security hides rows from this user; connect as the table's owner, or as a user with BYPASSRLS",
    ),
    "foreign-table": (
        Severity.BLOCKS,
        "this partition is on another server, where rows cannot be locked; rewrite it there",
    ),
    "replica": (
        Severity.SAYS,
        (
            "this publication sends the table to subscribers: widen their columns first, or replication stops, and"
            " expect ciphertext there; their application needs the keys"
        ),
    ),
    "partition-key": (
        Severity.BLOCKS,
        "the table is partitioned by this column, so ciphertext has no partition; partition it by another one",
    ),
}

_SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE NOT active OR xmin IS NOT NULL OR slot_type = 'logical'"


def inspect(connection: sa.Connection, target: Target) -> Iterator[Finding]:
    """Yield the findings of a table."""
    name = quoted_name(connection, target)
    # The server refuses to change the type of these columns while some objects use them.
    narrow = set(database_of(connection.dialect).widening(connection, target))
    parameters = {"name": name, "columns": [item.name for item in target.columns]}
    for row in connection.execute(_query(_DEPENDENCIES), parameters):
        finding = _dependent(row, narrow)
        if finding is not None:
            yield finding
    for code, item in connection.execute(_query(_TRIGGERS), parameters):
        yield findings.trigger(item, code)
    for code, item in connection.execute(_query(_TABLE), parameters):
        severity, message = _ABOUT_TABLE[code]
        yield Finding(code, severity, item, message)
    for slot in connection.scalars(sa.text(_SLOTS)):
        yield Finding(
            "slot",
            Severity.SAYS,
            slot,
            "this replication slot keeps the server's WAL and dead rows while it lags or is unused; watch it during the"
            " run, and drop it before the scrub if nothing uses it",
        )


def _query(sql: str) -> sa.TextClause:
    return sa.text(_TABLES + sql).bindparams(sa.bindparam("columns", expanding=True))


def _dependent(row: Any, narrow: set[str]) -> Finding | None:
    """Return the finding for an object that depends on a column; None if ciphertext does not matter to it."""
    makers = {
        "pg_class": _relation,
        "pg_constraint": _constraint,
        "pg_rewrite": _view,
        "pg_attrdef": _default,
        "pg_policy": _policy,
        "pg_statistic_ext": _nothing,  # ANALYZE, with which a run ends, replaces its samples
        "pg_trigger": _blocks_widening,
        "pg_proc": _blocks_widening,
        "pg_publication_rel": _blocks_widening,
    }
    return makers.get(row[1].removeprefix("pg_catalog."), _unknown)(row, narrow)


def _relation(row: Any, _narrow: set[str]) -> Finding | None:
    if row.relkind in {"i", "I"}:
        return None if row.relispartition or not _uses_values(row) else _index(row)
    if row.is_own and row.objsubid:
        return findings.generated(row.generated_column, row.column)
    if row.relkind == "S" or row.is_own:  # a sequence that the column owns; a partition key
        return None
    return _unknown(row, _narrow)


def _uses_values(row: Any) -> bool:
    return bool(
        row.is_key
        or row.column in names_in(row.expressions or "")
        or not only_tests_for_null(row.predicate or "", row.column)
    )


def _index(row: Any) -> Finding:
    repair = f"DROP INDEX {row.relation}"
    make = findings.unique if row.indisunique else findings.index
    return make(row.relation, row.column, repair)


def _constraint(row: Any, _narrow: set[str]) -> Finding | None:
    repair = f"ALTER TABLE {row.owner} DROP CONSTRAINT {row.conname}"
    if row.conparentid or row.contype == "n" or findings.is_about_encryption(row.definition or ""):
        return None
    if row.contype == "f":
        return findings.foreign_key(row.conname, row.owner, repair)
    if row.contype == "c":
        return findings.check(row.conname, row.column)
    code = {"u": "unique", "p": "primary-key", "x": "exclusion"}.get(row.contype)
    return findings.unique(row.conname, row.column, repair, code) if code else _unknown(row, _narrow)


def _view(row: Any, narrow: set[str]) -> Finding | None:
    if row.view_kind == "v":
        found = findings.view(row.view, row.column)
    elif row.view_kind == "m":
        found = findings.copies("materialized-view", row.view)
    else:  # a rule; whether an UPDATE fires it is another question
        found = Finding("rule", Severity.SAYS, row.rulename, f"this rule uses {row.column}, and will see ciphertext")
    return _strict_if_narrow(found, row, narrow)


def _default(row: Any, _narrow: set[str]) -> Finding | None:
    if not row.is_own_default or row.generated:
        return findings.generated(row.generated_column, row.column)
    if str(row.default).upper().startswith("NULL"):
        return None
    return findings.default(row.column, "ALTER TABLE ... ALTER COLUMN ... DROP DEFAULT")


def _policy(row: Any, _narrow: set[str]) -> Finding:
    return Finding(
        "policy",
        Severity.BLOCKS,
        row.description,
        f"it tests {row.column}, which it will no longer be able to read; drop it, or write it without that column",
    )


def _nothing(_row: Any, _narrow: set[str]) -> None:
    return None


def _blocks_widening(row: Any, narrow: set[str]) -> Finding | None:
    found = Finding("dependency", Severity.SAYS, row.description, f"it uses {row.column}, and will see ciphertext")
    return _strict_if_narrow(found, row, narrow)


def _strict_if_narrow(found: Finding, row: Any, narrow: set[str]) -> Finding:
    """Let a finding block while the column must be widened: the server refuses to change its type then."""
    if row.column not in narrow:
        return found
    message = (
        f"the type of {row.column} must become TEXT, which the server refuses while this uses it: drop it, widen the"
        f" column, create it again; {found.message}"
    )
    return found._replace(severity=Severity.BLOCKS, message=message)


def _unknown(row: Any, _narrow: set[str]) -> Finding:
    return Finding(
        "dependency",
        Severity.BLOCKS,
        row.description,
        f"it depends on {row.column}, and what it does with the values is not known here; drop it for the run",
    )
