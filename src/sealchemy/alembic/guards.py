"""What the operations refuse because it may have been planted, or was not confirmed."""

from __future__ import annotations

from alembic.operations import Operations

from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.rollout import Rollout
from sealchemy._databases.access import Access
from sealchemy._rewriting import constraint
from sealchemy._rewriting.column_states import count_states
from sealchemy.errors import DecryptionError, PlaintextFoundError, UnsupportedOperationError

from .operations import DecryptColumnsOp


def refuse_planted_plaintext(access: Access) -> None:
    """Refuse plaintext in a column that requires encryption, in stage strict: no process should have written it."""
    keys, required = engine_keys(access.connection.dialect), constraint.required_columns(access)
    for status in count_states(access) if required else ():
        is_strict = keys.stage(status.context) is Rollout.STRICT
        if status.column in required and status.plaintext and is_strict:
            raise PlaintextFoundError(
                f"encrypt_columns {status.table}.{status.column}: {status.plaintext} values are plaintext, although the"
                " column requires encryption and the rollout stage is strict: they may have been planted, and"
                " encrypting them would authenticate them for ever. Find out who wrote them and delete or correct them;"
                " or drop the CHECK (op.allow_plaintext), go to stage migrate, and encrypt them there"
            )


def refuse_planted_copies(access: Access) -> None:
    """Refuse values that are not bound where the database requires that they are: no process can have written them."""
    required = constraint.required_columns(access, bound=True)
    for status in count_states(access) if required else ():
        if status.column in required and status.unbound:
            raise DecryptionError(
                f"bind_columns {status.table}.{status.column}: {status.unbound} values are not bound to their row,"
                " although the column requires it: they may have been copied from other rows, and binding them would"
                " authenticate that. Find out who wrote them, and restore them from a backup",
                context=status.context,
            )


def require_consent(operations: Operations, operation: DecryptColumnsOp) -> None:
    """Refuse to write plaintext unless that was confirmed, and unless processes can read it."""
    environment = operations.migration_context.environment_context
    arguments = environment.get_x_argument(as_dictionary=True) if environment else {}
    if arguments.get("allow-plaintext") != "yes":
        raise UnsupportedOperationError(
            f"decrypt_columns writes the plaintext of {', '.join(operation.columns.values())} into the database, its"
            " logs and its backups. If that is what you want: alembic -x allow-plaintext=yes downgrade ..."
        )
    keys = engine_keys(operations.get_bind().dialect)
    stages = {keys.stage(context) for context in operation.columns.values()}
    for stage in stages - {Rollout.PREPARE, Rollout.MIGRATE}:
        raise UnsupportedOperationError(
            f"decrypt_columns {operation.table_name}: the rollout stage is {stage}, and processes in stage {stage}"
            " cannot read plaintext. Bring every process to stage migrate first, this one too: set"
            " <prefix>_ROLLOUT=migrate (INTEGRATION_TOKEN_ENCRYPTION_ROLLOUT for the ready-made table), or attach the"
            " key ring with rollout=Rollout.MIGRATE"
        )
