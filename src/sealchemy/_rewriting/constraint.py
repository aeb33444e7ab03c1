"""The CHECK with which the database itself refuses plaintext, and the width that ciphertext needs."""

import hashlib
import logging
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Text, func, not_, select
from sqlalchemy import column as sql_column
from sqlalchemy.exc import DBAPIError, IntegrityError

from sealchemy._databases.access import Access, database_of
from sealchemy._databases.base import ANY_BOUND_VALUE, ANY_ENCRYPTED_VALUE
from sealchemy._values.envelope import PREFIX, ROW
from sealchemy._values.secret import hide
from sealchemy.errors import ColumnDefinitionError, RewriteError

_NAME_LIMIT = 63
_PASSES = 3  # two of them change something where bytes become text on MariaDB

logger = logging.getLogger("sealchemy")


AFTER_WIDENING = (
    "wide now. On PostgreSQL, open connections may fail with `cached plan must not change result type`, or `type of"
    " parameter does not match that when preparing the plan`; asyncpg recovers, psycopg goes on failing. Restart the"
    " application, or replace its connections (engine.dispose()), before stage migrate"
)


class ExistingConstraint(NamedTuple):
    """A CHECK of ours that a table has; `is_bound` says that it requires values that are bound to their row."""

    name: str
    is_validated: bool
    is_bound: bool


def constraint_name(table: str, column: str) -> str:
    """Return the name of the CHECK on a column, at most 63 characters."""
    name = f"ck_{table}_{column}_encrypted"
    if len(name.encode()) <= _NAME_LIMIT:
        return name
    return f"ck_{hashlib.sha256(name.encode()).hexdigest()[:16]}_encrypted"


def require_encryption(access: Access, *, bound: bool = False) -> None:
    """Make the database refuse everything but encrypted values in the columns of an open table.

    With `bound`, it also refuses values that are not bound to their row; a CHECK that lets these pass is replaced. A
    column that is done already is left alone. Where the database validates separately, that is a transaction of
    its own: in one transaction, the strong lock would be held through the scan.

    Raises:
        RewriteError: there is plaintext; the text says how much.
        ColumnDefinitionError: another CHECK has the name.
    """
    access.require_text()
    pattern = ANY_BOUND_VALUE if bound else ANY_ENCRYPTED_VALUE
    _refuse_others(access, pattern)
    for column, existing in zip(access.target.columns, _existing(access).values(), strict=True):
        weaker = [constraint for constraint in existing if bound and not constraint.is_bound]
        for constraint in weaker:
            _drop(access, constraint.name)
        constraints = [item for item in existing if item not in weaker] or [_add(access, column, pattern)]
        if not any(constraint.is_validated for constraint in constraints):
            _validate(access, constraints[0].name)


def allow_plaintext(access: Access) -> None:
    """Drop what `require_encryption` added."""
    names = {constraint.name for existing in _existing(access).values() for constraint in existing}
    for name in sorted(names):  # one CHECK may cover several columns
        _drop(access, name)


def allow_unbound(access: Access) -> None:
    """Replace each CHECK that requires bound values by one that requires encrypted values."""
    existing = _existing(access)
    for column in access.target.columns:
        if bound := [item.name for item in existing[column.name] if item.is_bound]:
            for name in bound:
                _drop(access, name)
            added = _add(access, column, ANY_ENCRYPTED_VALUE)
            if not added.is_validated:
                _validate(access, added.name)


def required_columns(access: Access, *, bound: bool = False) -> set[str]:
    """Return the columns in which the database refuses plaintext, or all values that are not bound to their row."""
    return {
        column for column, existing in _existing(access).items() if any(item.is_bound or not bound for item in existing)
    }


def is_required(access: Access) -> bool:
    """Return whether the database refuses plaintext in one of the columns."""
    return bool(required_columns(access))


def widen(access: Access) -> list[str]:
    """Change columns of JSON, of bytes and with a limit to TEXT (MEDIUMTEXT on MariaDB and MySQL); return their names.

    JSON becomes its text, and bytes become a backslash, an x and hex digits.

    Raises:
        ColumnDefinitionError: the server refuses.
        RewriteError: others used the table for too long.
    """
    widened: list[str] = []
    for _ in range(_PASSES):
        if not (columns := _widen_once(access)):
            return widened
        widened += [name for name in columns if name not in widened]
    raise ColumnDefinitionError(f"{access.target.name}: the server took ALTER TABLE, and did not change {widened[0]}")


def _widen_once(access: Access) -> list[str]:
    with access.transaction(write=False):
        clauses = access.database.widening(access.connection, access.target)
        copied = access.database.copied_by_widening(access.connection, access.target)
        statement = access.database.widening_statement(access.connection, access.target, clauses.values())
    columns, clauses, statement = list(clauses), {}, hide(statement)  # it has the defaults of the columns
    if not columns:
        return []
    for column, type_ in copied.items():
        logger.warning(
            "%s.%s is %s: to change that, the server copies the table, and others wait until it is done",
            access.target.name,
            column,
            type_,
        )
    problem = None
    try:
        access.change_definition(lambda: access.connection.exec_driver_sql(str(statement)))
    except DBAPIError as error:
        code = error.orig.args[0] if error.orig and error.orig.args else None
        problem = f"{type(error.orig).__name__}{f' {code}' if isinstance(code, int) else ''}"
    if problem is not None:
        raise ColumnDefinitionError(
            f"{access.target.name}: the server refuses to widen {', '.join(columns)} ({problem}); this step"
            " changed nothing. An index, a foreign key, a default or another object is in the way: see `sealchemy plan`"
        )
    return columns


def existing_constraints(
    connection: Connection, schema: str | None, table: str, columns: Iterable[str]
) -> dict[str, list[ExistingConstraint]]:
    """Return the CHECKs of ours on each column.

    They are recognized by their conditions, since they keep their names when a table or a column is renamed.
    """
    database = database_of(connection.dialect)
    found = [
        (name, check)
        for name, check in database.named_checks(connection, table, schema).items()
        if name.startswith("ck_") and name.endswith("_encrypted") and PREFIX in check.condition
    ]
    return {
        column: [
            ExistingConstraint(name, check.is_validated, is_bound=f":{ROW}" in check.condition)
            for name, check in found
            if column in database.names_in(check.condition)
        ]
        for column in columns
    }


def _existing(access: Access) -> dict[str, list[ExistingConstraint]]:
    table, columns = access.target.table, [column.name for column in access.target.columns]
    with access.transaction(write=False):
        return existing_constraints(access.connection, table.schema, table.name, columns)


def _refuse_others(access: Access, pattern: str) -> None:
    with access.transaction(write=False):
        for column in access.target.columns:
            matches = access.database.matches(column, pattern)
            count = access.connection.scalar(select(func.count()).select_from(access.target.table).where(not_(matches)))
            if not count:
                continue
            what, repair = "encrypted", "encrypt_columns first, with every process in stage migrate"
            if pattern == ANY_BOUND_VALUE:
                what, repair = "bound to their row", "bind_columns first, with every process in stage bind_migrate"
            raise RewriteError(
                f"{access.target.name}.{column.name}: {count} values are not {what}, so the CHECK cannot be added; run"
                f" {repair}"
            )


def _add(access: Access, column: ColumnElement[str], pattern: str) -> ExistingConstraint:
    table, database = access.target.table, access.database
    name = constraint_name(table.name, column.name)
    with access.transaction(write=False):
        is_taken = name in database.named_checks(access.connection, table.name, table.schema)
    if is_taken:
        raise ColumnDefinitionError(
            f"{access.target.name}: its CHECK {name} has a condition other than that {column.name} is encrypted;"
            " rename or drop it"
        )
    bare: ColumnElement[str] = sql_column(column.name, Text())  # a table's name does not fit its partitions
    matches = access.database.matches(bare, pattern)
    condition = matches.compile(access.connection, compile_kwargs={"literal_binds": True})
    add = partial(database.add_check, access.connection, access.target, name, str(condition))
    access.change_definition(add)
    return ExistingConstraint(name, not database.validates_separately, pattern == ANY_BOUND_VALUE)


def _validate(access: Access, name: str) -> None:
    """Scan the table under a lock that lets others read and write."""
    try:
        validate = partial(access.database.validate_check, access.connection, access.target, name)
        access.change_definition(validate)
    except IntegrityError:
        # Left in place, it would fail each update of the rows that violate it.
        _drop(access, name)
    else:
        return
    raise RewriteError(
        f"{access.target.name}: plaintext was written while {name} was added, so it was dropped again; a process that"
        " is not in stage strict still runs. Bring every process to stage migrate, run encrypt_columns in it, go to"
        " stage strict everywhere, then run this again"
    )


def _drop(access: Access, name: str) -> None:
    access.change_definition(partial(access.database.drop_check, access.connection, access.target, name))
