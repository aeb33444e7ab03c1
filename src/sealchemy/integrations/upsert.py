"""`upsert_integration`: store the grant of a user who has connected."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import inspect, or_, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Session

from sealchemy import IntegrationError, SealchemyError, UnsupportedOperationError
from sealchemy._values.secret import hide

from .details import merged_details
from .failures import NOT_OF_THE_GRANT, REJECTED
from .identity import label, require_identity
from .integration_row import WORKS
from .models import Integration, IntegrationMixin, UtcDateTime, utc_now
from .token_grant import TokenGrant, fitting

logger = logging.getLogger("sealchemy")

_INSERTS: dict[str, Callable[..., Any]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
    "mysql": mysql.insert,
    "mariadb": mysql.insert,
}
_AMBIGUOUS = {"invalid_request", "invalid_scope", "unauthorized_client"}
"""Codes that may be of the application, unless its client says that they are of the grant, and the row is marked."""

_Table = TypeVar("_Table", bound=IntegrationMixin)


def upsert_integration(
    session: Session,
    *,
    user_id: Any,
    provider: str,
    grant: TokenGrant,
    account: str = "",
    model: type[_Table] = Integration,  # type: ignore[assignment] # the default of a type variable
) -> _Table:
    """Store the grant of a user who has connected, in the one row of this user, provider and account.

    It is part of the caller's transaction: commit the session. Two callers at once make one row, and the later one
    wins. A grant without a refresh token, or without a scope, keeps the stored one, unless the provider has refused
    that refresh token.

    Args:
        session: with a key ring on its engine. From an `AsyncSession`:
            `await session.run_sync(upsert_integration, user_id=..., provider=..., grant=...)`.
        user_id: the application's id of the user: text, an integer or a UUID, as the model has it.
        provider: the application's name of the provider, such as `google-calendar`.
        grant: the tokens.
        account: the name of the account at the provider; a refresh token of one is never kept for another. Without
            it, a user has one account there, and a grant without a refresh token must be of the same account.
        model: the table, if it is not the ready-made one.

    Returns:
        the integration, without its tokens loaded.
    """
    problem = None if isinstance(grant, TokenGrant) else f"grant is {type(grant).__name__}, not a TokenGrant"
    if problem is not None:
        grant = hide(grant)
        raise IntegrationError(f"{problem}; TokenGrant.from_response(token) makes one of a dictionary")
    require_identity(model, user_id, provider, account)
    _refuse_inheritance(model)
    identity = {"user_id": user_id, "provider": provider, "account": account}
    now = session.scalars(select(utc_now()), bind_arguments={"mapper": model}).one()
    values = {**fitting(model, grant.columns(now)), "refreshed_at": None, "updated_at": now}
    works = {**WORKS, "reauthorization_required": False}
    session.flush()
    if grant.refresh_token is not None:
        session.execute(_upsert(session.get_bind(model).dialect, model, identity, {**values, **works}))
    else:
        session.execute(_upsert(session.get_bind(model).dialect, model, identity, values))  # locks the row
        of_row = update(model).filter_by(**identity).execution_options(synchronize_session=False)
        refused = or_(
            model.reauthorization_required, model.last_error.not_in([*NOT_OF_THE_GRANT, *_AMBIGUOUS, REJECTED])
        )
        session.execute(of_row.where(refused).values(refresh_token=None))
        session.execute(of_row.values(**works, updated_at=model.updated_at))
    _keep_details(session, model, identity, grant)
    query = select(model).filter_by(**identity).execution_options(populate_existing=True)
    integration = session.scalars(query).one()
    secrets = {"access_token", "refresh_token", "details"}
    session.expire(integration, secrets.intersection(inspect(model).columns.keys()))
    logger.info("%s: connected", label(integration.id, provider))
    return integration


def _keep_details(session: Session, model: type[IntegrationMixin], identity: dict[str, Any], grant: TokenGrant) -> None:
    """Add what a grant says besides its tokens to the row, which is locked."""
    details = merged_details(session, model, lambda column: select(column).filter_by(**identity), grant.details)
    if not details:
        return
    of_row = update(model).filter_by(**identity).execution_options(synchronize_session=False)
    try:
        session.execute(of_row.values(**details, updated_at=model.updated_at))
    except SealchemyError as error:  # the tokens exist nowhere else
        logger.error("details of an integration could not be stored (%s)", type(error).__name__)  # noqa: TRY400


def _refuse_inheritance(model: type[IntegrationMixin]) -> None:
    mapper = inspect(model)
    has_other_table = mapper.inherits is not None and mapper.inherits.local_table is not mapper.local_table
    if (has_other_table and not mapper.concrete) or mapper.polymorphic_on is not None:
        raise IntegrationError(
            f"{model.__name__} is part of an inheritance, whose other columns an upsert cannot fill; give the"
            " integrations a table of their own"
        )


def _upsert(dialect: Dialect, model: type[IntegrationMixin], identity: dict[str, Any], values: dict[str, Any]) -> Any:
    """Return the INSERT that updates the row of this identity if there is one, in the syntax of the database."""
    if dialect.name not in _INSERTS:
        raise UnsupportedOperationError(f"upsert_integration supports {', '.join(_INSERTS)}, not {dialect.name}")
    insert: Any = _INSERTS[dialect.name](model).values(**identity, **values)
    if isinstance(inspect(model).columns["created_at"].type, UtcDateTime):
        insert = insert.values(created_at=values["updated_at"])
    columns = inspect(model).columns  # by attribute; a model may name its columns otherwise
    keys = [columns[name].key for name in values]
    if isinstance(insert, mysql.Insert):
        return insert.on_duplicate_key_update({key: insert.inserted[key] for key in keys})
    replaced = {key: insert.excluded[key] for key in keys}
    return insert.on_conflict_do_update(index_elements=[columns[name] for name in identity], set_=replaced)
