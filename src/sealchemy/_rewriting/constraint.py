"""The CHECK with which the database itself refuses plaintext, and the width that ciphertext needs."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from sqlalchemy import Boolean, ColumnElement, Connection, func, literal_column, not_, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from sealchemy._databases.access import Access, database_of
from sealchemy._databases.definition_lock import change_definition
from sealchemy._databases.encryption_check import EncryptionCheck, find_check, quoted
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
    """A CHECK of ours that a table has.

    Attributes:
        name: its name.
        is_validated: the rows that were there before satisfy it.
        is_bound: it requires values that are bound to their row.
        is_strict: it is the one of today; those of earlier releases test only how a value starts.
    """

    name: str
    is_validated: bool
    is_bound: bool
    is_strict: bool


def constraint_name(table: str, column: str) -> str:
    """Return the name of the CHECK on a column, at most 63 characters."""
    name = f"ck_{table}_{column}_encrypted"
    if len(name.encode()) <= _NAME_LIMIT:
        return name
    return f"ck_{hashlib.sha256(name.encode()).hexdigest()[:16]}_encrypted"


def require_encryption(access: Access, *, bound: bool = False) -> None:
    """Make the database refuse everything but encrypted values in the columns of an open table.

    With `bound`, it also refuses values that are not bound to their row. A column that is done already is left alone;
    a CHECK that lets more pass, as those of earlier releases do, is replaced. Where the database validates separately,
    that is a transaction of its own: in one transaction, the strong lock would be held through the scan.

    Raises:
        RewriteError: there are other values; the text says how many.
        ColumnDefinitionError: another CHECK has the name.
    """
    access.require_text()
    existing = _existing(access)
    wanted = {
        name: _condition(access, bound=bound or any(item.is_bound for item in existing[name])) for name in existing
    }
    for column in access.target.columns:
        _refuse_others(access, column, wanted[column.name])
    for column in access.target.columns:
        check, found = wanted[column.name], existing[column.name]
        done = [item for item in found if item.is_strict and item.is_bound is check.is_bound]
        if any(item.is_validated for item in done):
            continue
        replaced = [] if done else found
        name = done[0].name if done else _add(access, column, check, replaced)
        if access.database.validates_separately:
            _validate(access, column, name, replaced)


def allow_plaintext(access: Access) -> None:
    """Drop what `require_encryption` added."""
    for existing in _existing(access).values():
        for item in existing:
            change_definition(access, partial(access.database.drop_check, access.connection, access.target, item.name))


def allow_unbound(access: Access) -> None:
    """Replace each CHECK that requires bound values by one that requires encrypted values."""
    existing = _existing(access)
    for column in access.target.columns:
        if bound := [item for item in existing[column.name] if item.is_bound]:
            name = _add(access, column, _condition(access, bound=False), bound)
            if access.database.validates_separately:
                _validate(access, column, name, bound)


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
        change_definition(access, lambda: access.connection.exec_driver_sql(str(statement)))
    except DBAPIError as error:
        problem = access.database.explain(error)
    if problem is not None:
        raise ColumnDefinitionError(
            f"{access.target.name}: the server refuses to widen {', '.join(columns)}: {problem}; this step"
            " changed nothing. An index, a foreign key, a default or another object is in the way: see `sealchemy plan`"
        )
    return columns


def existing_constraints(
    connection: Connection, schema: str | None, table: str, columns: Iterable[str]
) -> dict[str, list[ExistingConstraint]]:
    """Return the CHECKs of ours on each column.

    They are recognized by their whole conditions, since they keep their names when a table or a column is renamed, and
    another condition may let plaintext pass.
    """
    database = database_of(connection.dialect)
    found = database.named_checks(connection, table, schema)
    return {
        column: [
            ExistingConstraint(name, item.is_validated, check.is_bound, check.is_strict)
            for name, item in found.items()
            if (check := find_check(database.encryption_checks, name, item.condition, column))
        ]
        for column in columns
    }


def _existing(access: Access) -> dict[str, list[ExistingConstraint]]:
    table, columns = access.target.table, [column.name for column in access.target.columns]
    with access.transaction(write=False):
        return existing_constraints(access.connection, table.schema, table.name, columns)


def _condition(access: Access, *, bound: bool, strict: bool = True) -> EncryptionCheck:
    checks = access.database.encryption_checks
    return next(item for item in checks if item.is_bound is bound and item.is_strict is strict)


def _refuse_others(access: Access, column: ColumnElement[str], check: EncryptionCheck) -> None:
    others = not_(_expression(access, column, check))
    with access.transaction(write=False):
        count = access.connection.scalar(select(func.count()).select_from(access.target.table).where(others))
    if not count:
        return
    what, repair = "encrypted", "encrypt_columns first, with every process in stage migrate"
    if check.is_bound:
        what, repair = "bound to their row", "bind_columns first, with every process in stage bind_migrate"
    raise RewriteError(
        f"{access.target.name}.{column.name}: {count} values are not {what}, so the CHECK cannot be added; run"
        f" {repair}. If that has been run: `sealchemy verify` names the rows; find out who wrote them, run `sealchemy"
        f" {'bind' if check.is_bound else 'encrypt'}` in that stage, then this again"
    )


def _add(
    access: Access, column: ColumnElement[str], check: EncryptionCheck, replaced: Sequence[ExistingConstraint]
) -> str:
    """Add a CHECK in place of others, and return its name."""
    table, old = access.target.table, [item.name for item in replaced]
    name = constraint_name(table.name, column.name)
    with access.transaction(write=False):
        is_taken = name in access.database.named_checks(access.connection, table.name, table.schema).keys() - {*old}
    if is_taken:
        raise ColumnDefinitionError(
            f"{access.target.name}: its CHECK {name} has a condition other than that {column.name} is encrypted;"
            " rename or drop it"
        )
    condition = str(_expression(access, column, check).compile(access.connection))
    add = partial(access.database.add_check, access.connection, access.target, name, condition, old)
    change_definition(access, add)
    return name


def _validate(access: Access, column: ColumnElement[str], name: str, replaced: Sequence[ExistingConstraint]) -> None:
    """Scan the table under a lock that lets others read and write."""
    validate = partial(access.database.validate_check, access.connection, access.target, name)
    try:
        change_definition(access, validate)
    except IntegrityError:
        pass
    else:
        return
    # Left in place, it would fail each update of the rows that violate it. Those of earlier releases may be true of all
    # rows, and a run that was killed may have replaced one.
    new = ExistingConstraint(name, is_validated=False, is_bound=False, is_strict=True)
    weaker = _condition(access, bound=bool(replaced) and all(item.is_bound for item in replaced), strict=False)
    _add(access, column, weaker, [new])
    try:
        change_definition(access, validate)
    except IntegrityError:
        change_definition(access, partial(access.database.drop_check, access.connection, access.target, name))
    raise RewriteError(
        f"{access.target.name}: plaintext was written while {name} was added, so it was taken back; a process that"
        " is not in stage strict still runs. Bring every process to stage migrate, run encrypt_columns in it, go to"
        " stage strict everywhere, then run this again"
    )


def _expression(access: Access, column: ColumnElement[str], check: EncryptionCheck) -> ColumnElement[bool]:
    """Return a condition; a table's name is left out, since it does not fit its partitions."""
    return literal_column(f"({check.on(quoted(access.connection.dialect, column.name))})", Boolean())
