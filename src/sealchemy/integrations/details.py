"""What is kept of a response besides the tokens, in the column `details`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import Session

from sealchemy import SealchemyError
from sealchemy._values.secret import hide

from .models import IntegrationMixin

_LONGEST_DETAIL = 64 * 1024  # bytes

logger = logging.getLogger("sealchemy")


def picked(response: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return what a response has under names such as `team.name`, by these names."""
    found: dict[str, Any] = {}
    for name in names:
        value: Any = response
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found[name] = value
    return found


def hide_texts(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object whose texts, but for the names, are `SecretString`s, without what is nested too deeply."""
    hidden: dict[str, Any] = {}
    for name, value in response.items():
        try:
            hidden[name] = _hide(value)
        except RecursionError:
            hidden[name] = None
    return hidden


def _hide(value: Any) -> Any:
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {name: _hide(item) for name, item in value.items()}
    return [_hide(item) for item in value] if isinstance(value, list | tuple) else value


def is_storable(value: Any) -> bool:
    """Return whether the row can have this besides the tokens, which exist nowhere else, and must not fail for it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        # Names that are not text would come back as text.
        return len(text.encode()) <= _LONGEST_DETAIL and json.loads(text) == value
    except (ValueError, TypeError, RecursionError):  # not JSON, or not in UTF-8
        return False


def merged_details(
    session: Session, model: type[IntegrationMixin], find: Callable[[Any], Any], new: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the column `details` of a locked row with more in it; nothing if that is not possible.

    Args:
        session: in the transaction that locked it.
        model: of the row.
        find: returns the query for a column of it.
        new: what is added.
    """
    if not new or "details" not in inspect(model).columns:
        return {}
    try:
        kept = session.scalar(find(model.details))
    except SealchemyError as error:  # its tokens exist nowhere else
        logger.error("details of an integration cannot be read (%s)", type(error).__name__)  # noqa: TRY400 - nor shown
        return {}
    if not isinstance(kept, dict | None):
        logger.warning("details of an integration are no object, so nothing is added to them")
        return {}
    details = {**(kept or {}), **new}
    return {} if details == kept else {"details": details}
