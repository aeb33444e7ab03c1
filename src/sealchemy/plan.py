"""Where each encrypted column stands, what is in the way of the next step, and the steps that are left."""

import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, MetaData

from sealchemy._column.engine_keys import engine_keys
from sealchemy._databases.access import Access, open_table
from sealchemy._databases.table import TableColumns
from sealchemy._inspection.findings import WIDENED, Finding, Severity
from sealchemy._inspection.preflight import (
    hidden_rows,
    inspect_columns,
    is_obstacle,
    parse_accept,
    sample_problems,
)
from sealchemy._inspection.width import count_plaintext_bytes
from sealchemy._rewriting.column_states import ColumnStatus, count_states
from sealchemy._rewriting.constraint import existing_constraints
from sealchemy._rewriting.declared import declared_tables
from sealchemy._rewriting.pages import Pages
from sealchemy.errors import ColumnDefinitionError

__all__ = ["ColumnPlan", "Finding", "Severity", "TablePlan", "plan", "steps"]

_VALUES_A_SECOND = 10_000  # of one process; it only has to tell minutes from hours


@dataclass
class ColumnPlan:
    """Where one column stands.

    Attributes:
        status: its values by state.
        is_required: the database refuses plaintext in it, and values that are not bound to their row if it has
            `bind_to`.
        is_narrow: its type has no room for ciphertext, or is not text.
    """

    status: ColumnStatus
    is_required: bool = False
    is_narrow: bool = False

    @property
    def state(self) -> str:
        """`required`, `encrypted`, `not bound`, `partly encrypted`, `plaintext` or `empty`."""
        encrypted = sum(self.status.keys.values()) + self.status.unknown
        if self.status.bind_to and self.status.unbound and not self.status.plaintext:
            return "not bound"
        if self.is_required and not self.status.plaintext:
            return "required"
        if self.status.plaintext:
            return "partly encrypted" if encrypted else "plaintext"
        return "encrypted" if encrypted else "empty"


@dataclass
class TablePlan:
    """Where the columns of one table stand, and what was found about it.

    Attributes:
        table: the table's name.
        schema: its schema, if it is not the default one.
        columns: its encrypted columns.
        findings: what blocks, must be accepted or must be known.
        rows: its rows.
        plaintext_bytes: the size of its plaintext values.
    """

    table: str
    schema: str | None = None
    columns: list[ColumnPlan] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    rows: int = 0
    plaintext_bytes: int = 0

    @property
    def seconds(self) -> float:
        """An estimate of the time that one process takes to encrypt the plaintext, without pauses."""
        return sum(column.status.plaintext for column in self.columns) / _VALUES_A_SECOND

    @property
    def is_done(self) -> bool:
        """Whether the table has values, and all of them are encrypted, and bound if they are to be."""
        return bool(self.columns) and all(
            column.state in {"encrypted", "required"} or (column.state == "empty" and self.rows)
            for column in self.columns
        )

    def obstacles(self, accept: Collection[str] = ()) -> list[Finding]:
        """Return the findings that stop the rewrite that is left to do, unless the operator accepts them by label."""
        labels = parse_accept(accept)
        if self.is_done:
            return []
        return [item for item in self.findings if is_obstacle(item, labels)]


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
    return [_plan_table(bind, table) for table in declared_tables(metadata)]


def _plan_table(bind: Engine | Connection, wanted: TableColumns) -> TablePlan:
    try:
        with open_table(bind, wanted, any_key=True) as access:
            return _inspect(access)
    except ColumnDefinitionError as error:
        problem = Finding("table", Severity.BLOCKS, wanted.name, str(error))
    return TablePlan(wanted.name, wanted.schema, findings=[problem])


def _inspect(access: Access) -> TablePlan:
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
    found.findings += _wrong_bindings(access, found.columns)
    return found


def _wrong_bindings(access: Access, columns: Iterable[ColumnPlan]) -> Iterator[Finding]:
    """Decrypt one bound value of each column and key, where the engine has the keys."""
    key_ring = engine_keys(access.connection.dialect).key_ring
    for column in columns:
        status = column.status
        if key_ring is not None and status.bind_to and any(sample_problems(key_ring, [status])):
            yield Finding(
                "binding",
                Severity.BLOCKS,
                status.column,
                f"a value of {status.column} is bound to other columns than {', '.join(status.bind_to)}, or does not"
                " authenticate; bind_to and its order cannot change: declare it as it was, undo the binding, and bind"
                " again",
            )


def steps(
    found: Collection[TablePlan], *, command_options: str, prefix: str, accept: Collection[str] = ()
) -> Iterator[str]:
    """Yield the steps that are left, in order: commands to paste, with notes after `#`, and things to do by hand.

    Args:
        found: what `plan` returned.
        command_options: the options of the commands for this project, such as `--models shop:Base --prefix SHOP`.
        prefix: the start of the names of the key variables.
        accept: the labels of the findings that the operator accepts.
    """
    accepted = command_options + "".join(f" --accept {shlex.quote(label)}" for label in accept)
    columns = [column for table in found for column in table.columns]
    if any(not table.columns for table in found):
        yield from _repairs(found)
        return
    unbound = any(column.status.bind_to and column.status.unbound for column in columns)
    if any(column.status.plaintext for column in columns) or not (unbound or all(table.is_done for table in found)):
        yield from _steps_to_encrypt(found, command_options, accepted, prefix)
        if unbound:  # stage migrate reads both forms, and writes bound values
            yield f"sealchemy bind {accepted}"
            yield f"sealchemy verify {command_options}"
    elif unbound:
        yield from _steps_to_bind(found, command_options, accepted, prefix)
    if any(column.state != "required" for column in columns):
        yield f"deploy everywhere with {prefix}_ROLLOUT=strict"
        yield f"sealchemy check {command_options}"
        for table in found:
            left = [item.status for item in table.columns if item.state != "required"]
            for is_bound in (False, True):
                contexts = {status.column: status.context for status in left if bool(status.bind_to) is is_bound}
                more = f", schema={table.schema!r}" if table.schema else ""
                more = f", bound=True{more}" if is_bound else more
                if contexts:
                    yield f"in a revision of its own: op.require_encryption({table.table!r}, {contexts!r}{more})"
    yield f"sealchemy scrub {command_options}  # once, after the last value was encrypted; it locks, see the playbook"
    keys = {key_id for column in columns for key_id in column.status.keys}
    if all(table.is_done for table in found):
        which = f"values are under {len(keys)} keys" if len(keys) > 1 else "if the key is not the primary one any more"
        yield f"sealchemy rekey {accepted}  # {which}"


def _steps_to_bind(found: Collection[TablePlan], options: str, accepted: str, prefix: str) -> Iterator[str]:
    yield f"deploy everywhere with {prefix}_ROLLOUT=bind_prepare"
    yield f"sealchemy check {options}"
    yield from _repairs(found)
    yield f"deploy everywhere with {prefix}_ROLLOUT=bind_migrate"
    yield f"sealchemy check {options}"
    values = sum(column.status.unbound for table in found for column in table.columns if column.status.bind_to)
    yield f"sealchemy bind {accepted}  # {values:,} values, about {_describe_time(values / _VALUES_A_SECOND)}"
    yield f"sealchemy verify {options}"


def _steps_to_encrypt(found: Collection[TablePlan], options: str, accepted: str, prefix: str) -> Iterator[str]:
    if not any(column.state == "partly encrypted" for table in found for column in table.columns):
        yield f"sealchemy generate-key  # unless there is a key; set {prefix}_KEY everywhere"
        yield f"deploy everywhere with {prefix}_ROLLOUT=prepare"
        yield f"sealchemy check {options}"
    yield from _repairs(found)
    if any(column.is_narrow for table in found for column in table.columns):
        yield f"sealchemy widen {options}  # then restart the application, or replace its connections"
    yield f"deploy everywhere with {prefix}_ROLLOUT=migrate"
    yield f"sealchemy check {options}"
    values = sum(column.status.plaintext for table in found for column in table.columns)
    size = sum(table.plaintext_bytes for table in found)
    seconds = sum(table.seconds for table in found)
    to_accept = [item for table in found for item in table.findings if item.severity is Severity.ACCEPT]
    for item in to_accept:
        yield f"disable {item.label} for the next command, or keep --accept {shlex.quote(item.label)}"
    yield f"sealchemy encrypt {accepted}  # {values:,} values, {size:,} bytes, about {_describe_time(seconds)}"
    yield f"sealchemy verify {options}"
    if to_accept or any(table.obstacles() for table in found):
        yield "enable again what you disabled, and create the views again that you dropped"


def _repairs(found: Collection[TablePlan]) -> Iterator[str]:
    for table in found:
        blocking = [item for item in table.findings if item.severity is Severity.BLOCKS]
        labels = [item.label for item in blocking if item.code not in WIDENED]  # the step after these
        if labels:
            yield f"repair {table.table}, each as its finding says: {', '.join(labels)}"


def _describe_time(seconds: float) -> str:
    minutes, hours = max(round(seconds / 60), 1), seconds / 3600
    return f"{hours:.1f} hours" if hours > 1 else f"{minutes} minute{'s' if minutes > 1 else ''}"
