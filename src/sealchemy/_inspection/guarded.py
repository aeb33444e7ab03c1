"""A rewrite that is refused while something stands in its way: the Alembic operations and the commands."""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from sealchemy._column.engine_keys import engine_keys
from sealchemy._databases.access import Access
from sealchemy._rewriting.column_states import ColumnStatus, count_states
from sealchemy._rewriting.conversions import BIND, DECRYPT, ENCRYPT, UNBIND, Conversion
from sealchemy._rewriting.options import Options
from sealchemy._rewriting.report import Report
from sealchemy._rewriting.run import OnProgress, run
from sealchemy._values.key_ring import KeyRing
from sealchemy.errors import RewriteError

from . import preflight


def rewrite_if_clear(
    access: Access,
    conversion: Conversion,
    options: Options,
    accept: Collection[str],
    *,
    widen: Callable[[], object] | None = None,
    progress: OnProgress | None = None,
    legacy_reader: Callable[[str], str | bytes] | None = None,
) -> Report:
    """Rewrite the columns of an open table, unless a finding stands in the way.

    If no value is left to rewrite, the values are only verified, and findings do not matter: so it can be run again.

    Args:
        access: the open table.
        conversion: ENCRYPT, REKEY, DECRYPT, BIND or UNBIND.
        options: as of `run`.
        accept: the labels of findings that the operator accepts, such as `trigger:audit_accounts`.
        widen: widens the columns, before the first row is encrypted; without it, narrow columns stand in the way.
        progress: as of `run`.
        legacy_reader: as of `run`.

    Raises:
        UnsupportedOperationError: something stands in the way; the text names it all, with the repair of each.
        UnknownKeyError: ENCRYPT, BIND or UNBIND, and values are under keys that are not in the ring.
        RewriteError: as of `run`; or values were written meanwhile.
    """
    key_ring = engine_keys(access.connection.dialect).require_ring(access.target.name)
    findings = preflight.inspect_columns(access, measure=options.range is None)
    refuse = partial(preflight.refuse_obstacles, access, findings, conversion, accept, widens=widen is not None)
    if preflight.hidden_rows(findings):
        refuse()
    if options.range is not None:  # whoever made the ranges looks at the whole table, once
        refuse()
        access.require_transactions()
        return run(access, conversion, options, progress, legacy_reader)
    states = count_states(access)
    if conversion in {ENCRYPT, BIND, UNBIND}:
        for problem in preflight.unknown_keys(states, key_ring):
            raise problem
    converts = any(item.code == "type" for item in findings)
    if _is_done(conversion, states, key_ring) and not converts:
        report = run(access, conversion, replace(options, dry_run=True), progress, legacy_reader)
        if report.pending and not options.dry_run:
            raise RewriteError(f"{conversion.name} {report.table}: values were written meanwhile; run it again", report)
        if access.owns_connection and not options.dry_run:  # an earlier run may have been killed before it cleaned up
            report.left_behind = access.database.finish(access.connection, access.target)
        return report
    refuse()
    access.require_transactions()
    if widen is not None:
        widen()
    report = run(access, conversion, options, progress, legacy_reader)
    if conversion is ENCRYPT:
        report.left_behind += [str(item) for item in findings if item.code in {"materialized-view", "full-text"}]
    return report


def _is_done(conversion: Conversion, states: list[ColumnStatus], key_ring: KeyRing) -> bool:
    """Return whether there are values, and none of them has to change."""
    plaintext = sum(status.plaintext for status in states)
    keys = {key_id for status in states for key_id in status.keys}
    if conversion is DECRYPT:
        return bool(plaintext) and not keys
    is_left = {
        ENCRYPT.name: False,
        BIND.name: any(status.unbound for status in states),
        UNBIND.name: any(status.bound for status in states),
    }.get(conversion.name, keys != {key_ring.primary.id})
    return not plaintext and bool(keys) and not is_left
