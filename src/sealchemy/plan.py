"""Where each encrypted column stands, what is in the way of the next step, and the steps that are left."""

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Connection, Engine, MetaData, Table

from sealchemy._column.engine_keys import engine_keys
from sealchemy._databases.access import Access, open_table
from sealchemy._databases.table import TableColumns
from sealchemy._inspection.findings import WIDENED, Finding, Severity
from sealchemy._inspection.preflight import hidden_rows, inspect_columns, sample_problems
from sealchemy._inspection.steps import steps
from sealchemy._inspection.table_plan import ColumnPlan, IndexPlan, TablePlan
from sealchemy._inspection.uniqueness import missing_uniqueness
from sealchemy._inspection.width import count_plaintext_bytes
from sealchemy._rewriting.blind_index.checking import count_missing
from sealchemy._rewriting.blind_index.index_columns import IndexColumns, open_columns
from sealchemy._rewriting.column_states import count_states
from sealchemy._rewriting.constraint import existing_constraints
from sealchemy._rewriting.declared import declared_indexes, declared_tables
from sealchemy._rewriting.pages import Pages
from sealchemy.errors import ColumnDefinitionError

__all__ = ["ColumnPlan", "Finding", "IndexPlan", "Severity", "TablePlan", "plan", "steps"]


def plan(bind: Engine | Connection, metadata: MetaData) -> list[TablePlan]:
    """Inspect the tables of the encrypted columns that models declare. Reads only, and needs no key.

    The database reads every row, more than once.

    Args:
        bind: an engine or a connection.
        metadata: of the models, such as `Base.metadata`.

    Raises:
        ColumnDefinitionError: no model has an encrypted column.
        UnsupportedOperationError: the kind of database is not supported.
    """
    indexes = declared_indexes(metadata)
    models = {(table.name, table.schema): table for table in metadata.tables.values()}
    return [
        _plan_table(
            bind,
            table,
            [item for item in indexes if (item.table, item.schema) == (table.name, table.schema)],
            models[table.name, table.schema],
        )
        for table in declared_tables(metadata)
    ]


def _plan_table(
    bind: Engine | Connection, wanted: TableColumns, indexes: Sequence[IndexColumns], model: Table
) -> TablePlan:
    try:
        with open_table(bind, wanted, any_key=True) as access:
            found = _inspect(access, indexes)
            present = [item.index for item in found.indexes if item.missing is not None]
            with access.transaction(write=False):
                for index in present:
                    found.findings += missing_uniqueness(access.connection, model, index)
            return found
    except ColumnDefinitionError as error:
        problem = Finding("table", Severity.BLOCKS, wanted.name, str(error))
    return TablePlan(wanted.name, wanted.schema, findings=[problem])


def _inspect(access: Access, indexes: Sequence[IndexColumns]) -> TablePlan:
    target = access.target
    found = TablePlan(target.table.name, target.table.schema, findings=inspect_columns(access))
    if hidden_rows(found.findings):
        return found
    found.rows = Pages(access).count()
    with access.transaction(write=False):
        problem = access.database.key_problem(access.connection, target)
        found.plaintext_bytes = count_plaintext_bytes(access)
        constraints = existing_constraints(
            access.connection, target.table.schema, target.table.name, [item.name for item in target.columns]
        )
    if problem is not None:
        found.findings.append(Finding("key-type", Severity.BLOCKS, target.table.name, problem))
    narrow = {item.name for item in found.findings if item.code in WIDENED}
    found.columns = [
        ColumnPlan(
            status,
            any(item.is_validated and (item.is_bound or not status.bind_to) for item in constraints[status.column]),
            status.column in narrow,
        )
        for status in count_states(access)
    ]
    found.indexes = list(_index_plans(access, indexes))
    found.findings += _wrong_bindings(access, found.columns)
    return found


def _index_plans(access: Access, indexes: Sequence[IndexColumns]) -> Iterator[IndexPlan]:
    for item in indexes:
        try:
            open_columns(access, item)
        except ColumnDefinitionError:
            yield IndexPlan(item.column, item.secret, None)
        else:
            yield IndexPlan(item.column, item.secret, count_missing(access, item))


def _wrong_bindings(access: Access, columns: Iterable[ColumnPlan]) -> Iterator[Finding]:
    """Decrypt one bound value of each column and key, where the engine has the keys."""
    key_ring = engine_keys(access.connection.dialect).key_ring
    for column in columns:
        status = column.status
        if status.bound and not status.bind_to:
            yield Finding(
                "binding",
                Severity.BLOCKS,
                status.column,
                f"values of {status.column} are bound to their row, and the models do not declare it with bind_to, so"
                " they cannot be read; declare it as it was, and undo the binding first",
            )
        if key_ring is not None and status.bind_to and any(sample_problems(key_ring, [status])):
            yield Finding(
                "binding",
                Severity.BLOCKS,
                status.column,
                f"a value of {status.column} does not authenticate in its row. Run `sealchemy verify`: if only a few"
                " rows fail, they were changed or moved; if all fail, the names in bind_to or their order differ from"
                " those that the values were bound with: declare these, undo the binding, and bind again",
            )
