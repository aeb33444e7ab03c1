"""What is looked at before the first row is rewritten, and before an application starts."""

import logging
from collections.abc import Collection, Iterable, Iterator

from sealchemy._column.engine_keys import EngineKeys
from sealchemy._column.rollout import Rollout
from sealchemy._databases.access import Access
from sealchemy._rewriting.column_states import ColumnStatus
from sealchemy._rewriting.constraint import existing_constraints
from sealchemy._rewriting.conversions import BIND, ENCRYPT, Conversion
from sealchemy._values.codecs import BYTES, KINDS
from sealchemy._values.key_ring import KeyRing, decryptor
from sealchemy._values.rows import text_decryptor
from sealchemy.errors import DecryptionError, SealchemyError, UnknownKeyError, UnsupportedOperationError

from . import mysql, postgresql, sqlite
from .findings import ABOUT_ROWS, WIDENED, Finding, Severity
from .parts import find_inexact_parts
from .width import find_narrow, find_other_types

_ABOUT_EVERY_WRITE = {
    "trigger",
    "rule",
    "versioning",
    "engine",
    "row-security",
    "foreign-table",
    "foreign-key",
    "check",
}
"""The findings that matter to whatever changes rows; the others matter to encrypting only."""

_ABOUT_WIDENING = {"view", "materialized-view", "rule", "generated", "policy", "dependency", "partition-key"}

_ABOUT_CONVERTING = {"index", "unique", "primary-key", "foreign-key", "check"}
"""What would be lost with a column of JSON or bytes, or would not hold for its text."""

_INSPECTORS = {
    "postgresql": postgresql.inspect,
    "sqlite": sqlite.inspect,
    "mysql": mysql.inspect,
    "mariadb": mysql.inspect,
}

logger = logging.getLogger("sealchemy")

_UNKNOWN_KEYS = 10


def inspect(access: Access) -> list[Finding]:
    """Return what the database's catalog says of an open table; in a transaction."""
    return list(_INSPECTORS[access.connection.dialect.name](access.connection, access.target))


def inspect_columns(access: Access, *, measure: bool = True) -> list[Finding]:
    """Return everything that the plan shows of an open table, but for the states of its values.

    With `measure`, the database reads every value for its size. If row-level security hides rows, that alone is
    returned: every query of the rows would fail.
    """
    with access.transaction(write=False):
        found = inspect(access)
        if hidden := hidden_rows(found):
            return hidden
        return list(
            dict.fromkeys(
                [
                    *find_other_types(access),
                    *find_narrow(access, measure=measure),
                    *find_inexact_parts(access),
                    *found,
                    *_locks(access),
                ]
            )
        )


def hidden_rows(found: Iterable[Finding]) -> list[Finding]:
    """Return the finding that row-level security hides rows, if it does."""
    return [item for item in found if item.code == "row-security"]


def refuse_obstacles(
    access: Access, found: Iterable[Finding], conversion: Conversion, accept: Collection[str], *, widens: bool
) -> None:
    """Refuse to go on while a finding blocks a rewrite, or must be accepted and is not; log the others.

    Raises:
        UnsupportedOperationError: there are such findings; the text names them all, with the repair of each.
    """
    labels = parse_accept(accept)
    relevant = [item for item in found if _concerns(item, conversion, widens=widens)]
    problems = [item for item in relevant if is_obstacle(item, labels)]
    if problems:
        raise UnsupportedOperationError(
            f"{conversion.name} {access.target.name}: {'; '.join(map(str, problems))}. Nothing was changed"
        )
    for item in relevant:
        if item.label not in labels:
            logger.warning("%s %s: %s", conversion.name, access.target.name, item)


def refuse_obstacles_to_widening(access: Access) -> None:
    """Raise `UnsupportedOperationError` for what the server would refuse: objects that use a column's type."""
    with access.transaction(write=False):
        found, converts = inspect(access), bool(find_other_types(access))
    problems = [item for item in found if item.severity is Severity.BLOCKS and item.code in _ABOUT_WIDENING]
    if converts:
        problems += [item for item in found if item.code in _ABOUT_CONVERTING]
    if problems:
        raise UnsupportedOperationError(
            f"widen {access.target.name}: {'; '.join(map(str, problems))}. Nothing was changed"
        )


def announce(access: Access, conversion: Conversion, *, measure: bool) -> None:
    """Log the findings that would stop the Alembic operation and the command."""
    for item in inspect_columns(access, measure=measure):
        if _concerns(item, conversion, widens=False):
            logger.warning("%s %s: %s", conversion.name, access.target.name, item)


def is_obstacle(finding: Finding, accepted: Collection[str]) -> bool:
    """Return whether a finding stops a rewrite."""
    return finding.severity is Severity.BLOCKS or (
        finding.severity is Severity.ACCEPT and finding.label not in accepted
    )


def parse_accept(accept: Collection[str]) -> set[str]:
    """Return the labels that an operator accepts, or raise `UnsupportedOperationError` for what is not a label."""
    labels = {accept} if isinstance(accept, str) else set(accept)
    for label in labels:
        if not isinstance(label, str) or not all(label.partition(":")):
            raise UnsupportedOperationError("accept takes labels such as trigger:NAME, as `sealchemy plan` shows them")
    return labels


def unknown_keys(found: Iterable[ColumnStatus], key_ring: KeyRing) -> Iterator[UnknownKeyError]:
    """Yield an error for the most frequent key ids that are not in the ring: anyone may invent more."""
    known = {key.id for key in (key_ring.primary, *key_ring.previous)}
    for status in found:
        unknown = [key_id for key_id, _ in status.keys.most_common() if key_id not in known]
        for key_id in unknown[:_UNKNOWN_KEYS]:
            yield UnknownKeyError(
                f"{status.table}.{status.column}: {status.keys[key_id]} values are under key {key_id}, which is not in"
                f" the key ring ({', '.join(sorted(known))}): these are not the application's keys, or one is missing;"
                " use the application's, or add it to the previous keys",
                key_id=key_id,
            )


def settings_problems(access: Access, keys: EngineKeys) -> Iterator[SealchemyError]:
    """Yield what would make the writes of an application in its rollout stage fail, or be cut."""
    contexts = {item.name: context for item, context in zip(access.target.columns, access.target.contexts, strict=True)}
    writes_ciphertext = {name for name, context in contexts.items() if keys.stage(context) is not Rollout.PREPARE}
    with access.transaction(write=False):
        narrow, others = find_narrow(access, measure=False), [*find_other_types(access), *find_inexact_parts(access)]
        cuts = access.database.cuts_silently(access.connection)
        required = existing_constraints(
            access.connection, access.target.table.schema, access.target.table.name, contexts
        )
    for item in [*others, *(item for item in narrow if item.name in writes_ciphertext)]:
        yield UnsupportedOperationError(f"{access.target.name}: {item}")
    for column, type_ in zip(access.target.columns, access.target.types, strict=True):
        if type_ is BYTES and column.name not in writes_ciphertext and not access.database.can_alter_types:
            yield UnsupportedOperationError(
                f"{access.target.name}.{column.name}: its rollout stage is prepare, which stores bytes as text, and a"
                " release that declares the column as bytes would read the text; stop that release, and go to stage"
                " migrate"
            )
    if cuts and writes_ciphertext:
        yield UnsupportedOperationError(
            f"{access.target.name}: {cuts}, so the server would cut a value that is too long instead of refusing it"
        )
    for name in contexts.keys() - writes_ciphertext:
        if required[name]:
            yield UnsupportedOperationError(
                f"{access.target.name}.{name}: its rollout stage is prepare, in which plaintext is written, and its"
                f" CHECK {required[name][0].name} refuses plaintext; go to stage migrate, or drop it first"
                " (op.allow_plaintext)"
            )

    for name, context in contexts.items():
        if keys.stage(context) is Rollout.BIND_PREPARE and any(item.is_bound for item in required[name]):
            yield UnsupportedOperationError(
                f"{access.target.name}.{name}: its rollout stage is bind_prepare, in which values are written that are"
                " not bound to their row, and its CHECK refuses these; go to stage bind_migrate, or have it require"
                " encrypted values alone first (op.allow_unbound)"
            )


def sample_problems(key_ring: KeyRing, found: Iterable[ColumnStatus]) -> Iterator[SealchemyError]:
    """Decrypt one value of each column and key, so that a changed context shows; yield the errors."""
    known = {key.id for key in (key_ring.primary, *key_ring.previous)}
    for status in found:
        codec = KINDS[status.kind].value
        decrypt = decryptor(key_ring, status.context, codec)
        if status.bind_to:
            decrypt = text_decryptor(key_ring, status.context, codec, status.bind_to, decrypt)
        elif status.bound:
            continue  # `check` says so
        for key_id, sample in sorted(status.samples.items()):
            try:
                if key_id.partition(":")[0] in known:
                    decrypt(sample)
            except DecryptionError as error:
                problem: SealchemyError = DecryptionError(
                    f"{status.column}: {error}. `sealchemy verify` names all such rows",
                    context=status.context,
                    key_id=error.key_id,
                )
            except SealchemyError as error:
                problem = error
            else:
                continue
            yield problem


def _concerns(finding: Finding, conversion: Conversion, *, widens: bool) -> bool:
    if finding.code == "lock":
        return False
    if finding.code in WIDENED:
        return conversion is ENCRYPT and not widens
    if finding.code in ABOUT_ROWS:
        return conversion in {ENCRYPT, BIND}
    return conversion is ENCRYPT or finding.code in _ABOUT_EVERY_WRITE


def _locks(access: Access) -> list[Finding]:
    return [
        Finding("lock", Severity.SAYS, access.target.name, f"a change of its definition now would wait for {holder}")
        for holder in access.database.lock_holders(access.connection, access.target, older_than=1)
    ]
