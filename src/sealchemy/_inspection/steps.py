"""The steps of a rollout that are left, as `sealchemy plan` prints them."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence

from .findings import WIDENED, Finding, Severity
from .table_plan import VALUES_A_SECOND, ColumnPlan, TablePlan

_REWRITES = {"reindex", "encrypt", "bind"}
"""The commands that triggers fire for, but for `rekey`, which comes with the next key."""


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
    command_options = f" {command_options}" if command_options else ""
    accepted = command_options + "".join(f" --accept {shlex.quote(label)}" for label in accept)
    columns = [column for table in found for column in table.columns]
    if any(not table.columns for table in found) or any(item.code == "binding" for item in _findings(found)):
        yield from _repairs(found)
    else:
        lines = list(_all_steps(found, columns, command_options, accepted, prefix))
        yield from _with_triggers_disabled(
            lines, [item for item in _findings(found) if item.severity is Severity.ACCEPT]
        )


def _with_triggers_disabled(lines: Sequence[str], to_accept: Sequence[Finding]) -> Iterator[str]:
    """Yield the steps, and around those that rewrite rows, what the operator disables meanwhile or accepts."""
    commands = [line.partition("  #")[0].split()[:2] for line in lines]
    of_rows = [at for at, words in enumerate(commands) if words[0] == "sealchemy" and words[-1] in _REWRITES]
    for at, line in enumerate(lines):
        if of_rows and at == of_rows[0]:
            for item in to_accept:
                yield (
                    f"disable {item.label} for the commands that rewrite rows, or keep"
                    f" --accept {shlex.quote(item.label)}"
                )
        yield line
        if of_rows and at == of_rows[-1] and to_accept:
            yield "enable again what you disabled"


def _all_steps(
    found: Collection[TablePlan], columns: Sequence[ColumnPlan], command_options: str, accepted: str, prefix: str
) -> Iterator[str]:
    unbound = any(column.status.bind_to and column.status.unbound for column in columns)
    yield from _missing_index_columns(found)
    is_plain = any(column.status.plaintext for column in columns)
    if not is_plain and _is_to_index(found):
        yield f"deploy everywhere with {prefix}_INDEX_KEY and {prefix}_ROLLOUT=migrate, or without lookups meanwhile"
        yield from _steps_to_index(found, accepted)
        yield f"sealchemy verify{command_options}"
        yield f"deploy everywhere with {prefix}_ROLLOUT=strict"
    yield from _steps_to_uniqueness(found)
    if is_plain or not (unbound or all(table.is_done for table in found)):
        yield from _steps_to_encrypt(found, command_options, accepted, prefix)
        if unbound:  # stage migrate reads both forms, and writes bound values
            yield f"sealchemy bind{accepted}"
            yield f"sealchemy status{command_options} --fail-if-unbound"
    elif unbound:
        yield from _steps_to_bind(found, command_options, accepted, prefix)
    if any(column.state != "required" for column in columns):
        yield f"deploy everywhere with {prefix}_ROLLOUT=strict"
        yield f"sealchemy check{command_options}"
        for table in found:
            left = [item.status for item in table.columns if item.state != "required"]
            for is_bound in (False, True):
                contexts = {status.column: status.context for status in left if bool(status.bind_to) is is_bound}
                more = f", schema={table.schema!r}" if table.schema else ""
                more = f", bound=True{more}" if is_bound else more
                if contexts:
                    yield f"in a revision of its own: op.require_encryption({table.table!r}, {contexts!r}{more})"
    yield f"sealchemy scrub{command_options}  # once, after the last value was encrypted; it locks, see the playbook"
    keys = {key_id for column in columns for key_id in column.status.keys}
    if all(table.is_done for table in found):
        which = f"values are under {len(keys)} keys" if len(keys) > 1 else "if the key is not the primary one any more"
        yield f"sealchemy rekey{accepted}  # {which}"


def _steps_to_bind(found: Collection[TablePlan], options: str, accepted: str, prefix: str) -> Iterator[str]:
    yield f"deploy everywhere with {prefix}_ROLLOUT=bind_prepare"
    yield f"sealchemy check{options}"
    yield from _repairs(found)
    yield f"deploy everywhere with {prefix}_ROLLOUT=bind_migrate"
    yield f"sealchemy check{options}"
    values = sum(column.status.unbound for table in found for column in table.columns if column.status.bind_to)
    yield f"sealchemy bind{accepted}  # {values:,} values, {_describe_time(values / VALUES_A_SECOND)}"
    yield f"sealchemy status{options} --fail-if-unbound"
    yield f"sealchemy verify{options}"


def _steps_to_encrypt(found: Collection[TablePlan], options: str, accepted: str, prefix: str) -> Iterator[str]:
    if not any(column.state == "partly encrypted" for table in found for column in table.columns):
        yield f"sealchemy generate-key  # unless there is a key; set {prefix}_KEY everywhere"
        if _is_to_index(found):
            yield f"sealchemy generate-key  # another one, for the blind index; set {prefix}_INDEX_KEY everywhere"
        yield f"deploy everywhere with {prefix}_ROLLOUT=prepare"
        yield f"sealchemy check{options}"
    if _is_to_index(found):
        yield from _steps_to_index(found, accepted)
    yield from _repairs(found)
    if any(column.is_narrow for table in found for column in table.columns):
        yield f"sealchemy widen{options}  # then restart the application, or replace its connections"
    if any("view" in item.code and item.severity is Severity.BLOCKS for item in _findings(found)):
        yield "create the views again that you dropped"
    yield f"deploy everywhere with {prefix}_ROLLOUT=migrate"
    yield f"sealchemy check{options}"
    values = sum(column.status.plaintext for table in found for column in table.columns)
    size = sum(table.plaintext_bytes for table in found)
    seconds = sum(table.seconds for table in found)
    yield f"sealchemy encrypt{accepted}  # {values:,} values, {size:,} bytes, {_describe_time(seconds)}"
    yield f"sealchemy verify{options}"


def _missing_index_columns(found: Collection[TablePlan]) -> Iterator[str]:
    for table in found:
        for item in table.indexes:
            if item.missing is None:
                more = f", schema={table.schema!r}" if table.schema else ""
                yield (
                    "in a revision, before the release that declares it:"
                    f" op.add_column({table.table!r}, sa.Column({item.index!r}, sa.String(64)){more})"
                )


def _is_to_index(found: Collection[TablePlan]) -> bool:
    return any(item.missing or item.missing is None for table in found for item in table.indexes)


def _steps_to_index(found: Collection[TablePlan], accepted: str) -> Iterator[str]:
    yield "end the last process that does not know the blind index: it would leave old digests behind"
    yield f"sealchemy reindex{accepted}  # or op.add_blind_index, in a revision"
    names = [f"{table.table}.{item.index}" for table in found for item in table.indexes]
    yield f"create the unique index that the models declare, if they do, and NOT NULL: {', '.join(names)}"


def _steps_to_uniqueness(found: Collection[TablePlan]) -> Iterator[str]:
    """Yield what comes before the unique constraint of the secret is dropped."""
    for table in () if _is_to_index(found) else found:
        names = dict.fromkeys(item.name for item in table.findings if item.code == "not-unique")
        if names:
            listed = ", ".join(f"{table.table}.{name}" for name in names)
            yield f"create the unique index that the models declare: {listed}"


def _findings(found: Collection[TablePlan]) -> list[Finding]:
    return [item for table in found for item in table.findings]


def _repairs(found: Collection[TablePlan]) -> Iterator[str]:
    for table in found:
        blocking = [item for item in table.findings if item.severity is Severity.BLOCKS]
        labels = [item.label for item in blocking if item.code not in WIDENED]  # the step after these
        if labels:
            yield f"repair {table.table}, each as its finding says: {', '.join(labels)}"


def _describe_time(seconds: float) -> str:
    if seconds < 30:  # noqa: PLR2004
        return "less than a minute"
    minutes, hours = max(round(seconds / 60), 1), seconds / 3600
    return f"about {hours:.1f} hours" if hours > 1 else f"about {minutes} minute{'s' if minutes > 1 else ''}"
