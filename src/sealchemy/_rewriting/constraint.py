"""The CHECK with which the database itself refuses plaintext, and the width that ciphertext needs."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine, Text, func, not_, select
from sqlalchemy import column as sql_column
from sqlalchemy.exc import IntegrityError

from sealchemy._column.engine_keys import Rollout, engine_keys
from sealchemy._databases.access import Access, database_of
from sealchemy._databases.base import ANY_ENCRYPTED_VALUE
from sealchemy._values.envelope import PREFIX
from sealchemy.errors import ColumnDefinitionError, RewriteError, UnsupportedOperationError

_NAME_LIMIT = 63

_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | ::\s*\w+ | COLLATE\s+"[^"]*" | "(?:[^"]|"")*" | `(?:[^`]|``)*` | [\w$]+""",
    re.VERBOSE | re.IGNORECASE,
)
"""A literal, a type or collation, a quoted name or a bare word."""


class ExistingConstraint(NamedTuple):
    """A CHECK of ours that a table has."""

    name: str
    is_validated: bool


def constraint_name(table: str, column: str) -> str:
    """Return the name of the CHECK on a column, at most 63 characters."""
    name = f"ck_{table}_{column}_encrypted"
    if len(name.encode()) <= _NAME_LIMIT:
        return name
    return f"ck_{hashlib.sha256(name.encode()).hexdigest()[:16]}_encrypted"


def require_strict(bind: Engine | Connection, columns: Mapping[str, str]) -> None:
    """Raise `UnsupportedOperationError` unless the rollout stage of every context is STRICT."""
    keys = engine_keys(bind.dialect)
    for context in columns.values():
        keys.require_ring(context)
        if keys.stage(context) is not Rollout.STRICT:
            raise UnsupportedOperationError(
                f"{context}: its rollout stage is {keys.stage(context).value}; the database may only refuse plaintext"
                " once no process writes any, which is stage strict everywhere"
            )


def require_encryption(access: Access) -> None:
    """Make the database refuse everything but encrypted values in the columns of an open table.

    A column that is done already is left alone. Where the database validates separately, that is a transaction of
    its own: in one transaction, the strong lock would be held through the scan.

    Raises:
        RewriteError: there is plaintext; the text says how much.
        ColumnDefinitionError: another CHECK has the name.
    """
    _refuse_plaintext(access)
    for column, existing in zip(access.target.columns, _existing(access).values(), strict=True):
        constraints = existing or [_add(access, column)]
        if not any(constraint.is_validated for constraint in constraints):
            _validate(access, constraints[0].name)


def allow_plaintext(access: Access) -> None:
    """Drop what `require_encryption` added."""
    names = {constraint.name for existing in _existing(access).values() for constraint in existing}
    for name in sorted(names):  # one CHECK may cover several columns
        _drop(access, name)


def is_required(access: Access) -> bool:
    """Return whether the database refuses plaintext in one of the columns."""
    return any(_existing(access).values())


def widen(access: Access) -> None:
    """Change the type of the columns, if they are too narrow for ciphertext: to TEXT, or MEDIUMTEXT."""
    with access.transaction(write=False):
        statements = access.database.widening(access.connection, access.target)
    for statement in statements:
        access.run(partial(access.connection.exec_driver_sql, statement))


def existing_constraints(
    connection: Connection, schema: str | None, table: str, columns: Iterable[str]
) -> dict[str, list[ExistingConstraint]]:
    """Return the CHECKs of ours on each column.

    They are recognized by their conditions, since they keep their names when a table or a column is renamed.
    """
    found = [
        (name, check)
        for name, check in database_of(connection.dialect).named_checks(connection, table, schema).items()
        if name.startswith("ck_") and name.endswith("_encrypted") and PREFIX in check.condition
    ]
    return {
        column: [
            ExistingConstraint(name, check.is_validated)
            for name, check in found
            if column in _names_in(check.condition)
        ]
        for column in columns
    }


def _names_in(condition: str) -> set[str]:
    """Return the names in a condition; where they are in backquotes, as on MariaDB, bare words are not names."""
    tokens = _TOKEN.findall(condition)
    quoted = {token[1:-1].replace(token[0] * 2, token[0]) for token in tokens if token[0] in '"`'}
    return quoted if "`" in {token[0] for token in tokens} else quoted.union(tokens)


def _existing(access: Access) -> dict[str, list[ExistingConstraint]]:
    table, columns = access.target.table, [column.name for column in access.target.columns]
    with access.transaction(write=False):
        return existing_constraints(access.connection, table.schema, table.name, columns)


def _is_encrypted(access: Access, column: ColumnElement[str]) -> ColumnElement[bool]:
    return access.database.matches(column, ANY_ENCRYPTED_VALUE)


def _refuse_plaintext(access: Access) -> None:
    with access.transaction(write=False):
        for column in access.target.columns:
            query = select(func.count()).select_from(access.target.table).where(not_(_is_encrypted(access, column)))
            if count := access.connection.scalar(query):
                raise RewriteError(
                    f"{access.target.name}.{column.name}: {count} values are not encrypted, so the CHECK cannot be"
                    " added; run encrypt_columns first"
                )


def _add(access: Access, column: ColumnElement[str]) -> ExistingConstraint:
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
    condition = _is_encrypted(access, bare).compile(access.connection, compile_kwargs={"literal_binds": True})
    access.run(lambda: database.add_check(access.connection, access.target, name, str(condition)))
    return ExistingConstraint(name, is_validated=not database.validates_separately)


def _validate(access: Access, name: str) -> None:
    """Scan the table under a lock that lets others read and write."""
    try:
        access.run(lambda: access.database.validate_check(access.connection, access.target, name))
    except IntegrityError:
        # Left in place, it would fail each update of the rows that violate it.
        _drop(access, name)
    else:
        return
    raise RewriteError(
        f"{access.target.name}: plaintext was written while {name} was added, so it was dropped again; bring every"
        " process to rollout stage strict, run encrypt_columns, then this again"
    )


def _drop(access: Access, name: str) -> None:
    access.run(lambda: access.database.drop_check(access.connection, access.target, name))
