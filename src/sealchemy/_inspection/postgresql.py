"""What PostgreSQL's catalog knows of a table that matters before its columns are rewritten.

The dependencies of a column come from pg_depend, where the server itself records what would break; a kind of object
that this module does not know blocks.
"""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from sealchemy._databases.access import database_of
from sealchemy._databases.encryption_check import find_check
from sealchemy._databases.postgresql import PostgreSQL
from sealchemy._databases.postgresql_columns import quoted_name
from sealchemy._databases.sql_names import only_tests_for_null
from sealchemy._databases.table import Target

from . import findings
from .findings import Finding, Severity

# The table with its partitions, and the columns in each of them.
_TABLES = (
    "WITH RECURSIVE tables AS (SELECT to_regclass(:name)::oid AS oid"
    " UNION SELECT relid::oid FROM pg_partition_tree(to_regclass(:name))),"
    " fields AS (SELECT attrelid, attnum, attname::text AS name, attrelid = to_regclass(:name)::oid AS is_target"
    " FROM pg_attribute JOIN tables ON attrelid = tables.oid WHERE attname IN :columns AND NOT attisdropped)"
)

# An expression over a whole row depends on the table alone, with refobjsubid 0; so does an index without columns.
_DEPENDENCIES = """
SELECT DISTINCT fields.name AS column, fields.is_target, d.classid::regclass::text AS class,
    pg_describe_object(d.classid, d.objid, d.objsubid) AS description,
    d.classid = 'pg_class'::regclass AND d.objid = fields.attrelid AS is_own, d.objsubid, d.refobjsubid,
    c.relkind::text AS relkind, c.relispartition, c.oid::regclass::text AS relation,
    i.indisunique, m.amname = 'hash' AS is_hash, fields.attnum = ANY (i.indkey) AS is_key,
    pg_get_expr(i.indexprs, i.indrelid) AS expressions, pg_get_expr(i.indpred, i.indrelid) AS predicate,
    n.contype::text AS contype, n.conname::text AS conname, quote_ident(n.conname) AS quoted_name,
    n.conrelid::regclass::text AS owner, n.conparentid::bigint AS parent, pg_get_constraintdef(n.oid) AS definition,
    w.rulename::text AS rulename, w.ev_class::regclass::text AS view, v.relkind::text AS view_kind,
    f.adnum = fields.attnum AS is_own_default, pg_get_expr(f.adbin, f.adrelid) AS default,
    a.attgenerated::text AS generated, a.attname::text AS generated_column
FROM fields
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = fields.attrelid
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
LEFT JOIN pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_am m ON m.oid = c.relam AND c.relkind IN ('i', 'I')
LEFT JOIN pg_constraint n ON d.classid = 'pg_constraint'::regclass AND n.oid = d.objid
LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
LEFT JOIN pg_class v ON v.oid = w.ev_class
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
LEFT JOIN pg_attribute a ON a.attrelid = coalesce(f.adrelid, c.oid) AND a.attnum = coalesce(f.adnum, d.objsubid)
    AND a.attnum > 0
WHERE d.refobjsubid = fields.attnum OR d.refobjsubid = 0 AND (
    c.relkind IN ('i', 'I') AND d.deptype = 'a' OR n.contype IN ('c', 'x')
    OR d.deptype = 'n' AND d.classid IN ('pg_policy'::regclass, 'pg_rewrite'::regclass))
ORDER BY 1, 2, 3, 4
"""

# Views of views, whose materialized copies keep plaintext as well.
_VIEWS_OF_VIEWS = """,
reached AS (
    SELECT w.ev_class AS oid, 0 AS depth FROM fields
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = attrelid AND d.refobjsubid IN (attnum, 0)
        AND d.classid = 'pg_rewrite'::regclass AND d.deptype = 'n'
    JOIN pg_rewrite w ON w.oid = d.objid
    UNION SELECT w.ev_class, 1 FROM reached
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = reached.oid
        AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite w ON w.oid = d.objid AND w.ev_class <> reached.oid)
SELECT DISTINCT relkind::text, pg_class.oid::regclass::text FROM reached JOIN pg_class USING (oid)
WHERE relkind IN ('v', 'm') AND depth > 0 ORDER BY 2
"""

_TRIGGERS = """
SELECT DISTINCT 'trigger' AS code, tgname::text AS name FROM pg_trigger JOIN tables ON tgrelid = tables.oid
WHERE NOT tgisinternal AND tgtype & 16 <> 0
    AND tgenabled IN ('A', CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
    AND (cardinality(tgattr::int2[]) = 0 OR EXISTS (
        SELECT FROM fields WHERE attrelid = tgrelid AND attnum = ANY (tgattr::int2[])))
UNION SELECT 'rule', rulename::text FROM pg_rewrite JOIN tables ON ev_class = tables.oid
WHERE ev_type = '2' AND rulename <> '_RETURN' AND ev_enabled <> 'D'
ORDER BY 1, 2
"""

_TABLE = """
SELECT 'row-security' AS code, to_regclass(:name)::text AS name WHERE row_security_active(to_regclass(:name)::oid)
UNION SELECT 'foreign-table', pg_class.oid::regclass::text FROM pg_class JOIN tables ON pg_class.oid = tables.oid
WHERE relkind = 'f'
UNION SELECT 'replica', pubname::text FROM pg_publication_tables
JOIN pg_namespace ON nspname = schemaname
JOIN pg_class ON relnamespace = pg_namespace.oid AND relname = tablename JOIN tables ON pg_class.oid = tables.oid
UNION SELECT 'policy', pg_describe_object('pg_policy'::regclass, pg_policy.oid, 0) FROM pg_policy
JOIN tables ON polrelid = tables.oid
WHERE strpos(concat(pg_get_expr(polqual, polrelid), ' ', pg_get_expr(polwithcheck, polrelid)), '.*') > 0
UNION SELECT 'partition-key', key.name
FROM (SELECT DISTINCT name FROM fields) AS key, pg_partitioned_table
JOIN pg_attribute ON attrelid = partrelid
WHERE (partrelid IN (SELECT oid FROM tables)
        OR partrelid IN (SELECT relid FROM pg_partition_ancestors(to_regclass(:name))))
    AND attname = key.name
    AND (attnum = ANY (partattrs::int2[]) OR strpos(pg_get_partkeydef(partrelid), quote_ident(attname)) > 0)
ORDER BY 1, 2
"""

# What keeps the type of a column from being changed here, without depending on the column.
_FIXED_TYPES = """
SELECT 'a column of this row type: ' || a.attrelid::regclass || '.' || a.attname FROM pg_attribute a
JOIN pg_type y ON a.atttypid IN (y.oid, y.typarray) JOIN tables ON y.typrelid = tables.oid WHERE NOT a.attisdropped
UNION SELECT 'it is a partition, or inherits from another table: widen that one' FROM pg_inherits
WHERE inhrelid = to_regclass(:name)
UNION SELECT 'it is a table of a composite type: change that type' FROM pg_class
WHERE oid = to_regclass(:name) AND reloftype <> 0
ORDER BY 1
"""

_WHOLE_ROW = ".*"
"""How the server shows a row as a value, as in `(accounts.*)::text`."""

_ABOUT_TABLE = {
    "policy": (Severity.BLOCKS, "this policy tests whole rows; drop it, or write it without that column"),
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
    for kind, view in connection.execute(_query(_VIEWS_OF_VIEWS), parameters):
        if kind == "m":
            yield findings.copies("materialized-view", view)
    for reason in connection.scalars(_query(_FIXED_TYPES), parameters) if narrow else ():
        message = "the type of its columns must become TEXT, which the server refuses here"
        yield Finding("dependency", Severity.BLOCKS, target.table.name, f"{message}: {reason}")
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
    return makers.get(row[2].removeprefix("pg_catalog."), _unknown)(row, narrow)


def _relation(row: Any, _narrow: set[str]) -> Finding | None:
    if row.relkind in {"i", "I"}:
        return None if _comes_from_parent(row, row.relispartition) or not _uses_values(row) else _index(row)
    if row.is_own and row.objsubid:
        return findings.generated(row.generated_column, row.column)
    if row.relkind == "S" or row.is_own:  # a sequence that the column owns; a partition key
        return None
    return _unknown(row, _narrow)


def _comes_from_parent(row: Any, has_parent: object) -> bool:
    """Return whether an object of a partition belongs to one of the partitioned table, which is named itself."""
    return bool(has_parent) and not row.is_target


def _uses_values(row: Any) -> bool:
    if row.is_key:
        return True
    parts = [part for part in (row.expressions, row.predicate) if part]
    if not row.refobjsubid:
        return any(_WHOLE_ROW in part for part in parts)
    return not parts or not all(only_tests_for_null(part, row.column) for part in parts)


def _index(row: Any) -> Finding:
    repair = f"DROP INDEX {row.relation}"
    if row.indisunique:
        return findings.unique(row.relation, row.column, repair)
    return findings.index(row.relation, row.column, repair, has_room=bool(row.is_hash))


def _is_ours(row: Any) -> bool:
    condition = (row.definition or "").removeprefix("CHECK ").removesuffix(" NOT VALID")
    return find_check(PostgreSQL.encryption_checks, row.conname, condition, row.column or "") is not None


def _constraint(row: Any, _narrow: set[str]) -> Finding | None:
    repair = f"ALTER TABLE {row.owner} DROP CONSTRAINT {row.quoted_name}"
    if row.contype == "n" or _comes_from_parent(row, row.parent) or _is_ours(row):
        return None
    if row.contype == "f":
        return findings.foreign_key(row.conname, row.owner, repair)
    if row.contype == "c":
        only_null = row.refobjsubid and only_tests_for_null(row.definition, row.column)
        is_used = not only_null and (row.refobjsubid or _WHOLE_ROW in row.definition)
        return findings.check(row.conname, row.column) if is_used else None
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
    return findings.default(row.column)


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
