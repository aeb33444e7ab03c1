"""Mask secrets in logs: `%s` and JSON print the text of a `SecretString`, where `repr` prints three stars."""

import logging
from collections.abc import Mapping, MutableMapping
from collections.abc import Set as AbstractSet
from typing import Any

from ._values.secret import SecretBytes, SecretString

__all__ = ["mask_event", "mask_log_records"]

_DEPTH = 50


def mask_log_records() -> None:
    """Have `logging` show `***` for every `SecretString` and `SecretBytes` among the arguments of a call.

    It wraps the factory of log records (`logging.setLogRecordFactory`), so it holds for all loggers, from then on; a
    second call does nothing. It cannot see a secret that is part of the text already, as in an f-string, nor `extra`.
    """
    make = logging.getLogRecordFactory()
    if not isinstance(make, _MaskingFactory):
        logging.setLogRecordFactory(_MaskingFactory(make))


class _MaskingFactory:
    """A class, so that a second call recognises it."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(*args, **kwargs)
        record.msg, record.args = _mask(record.msg), _mask(record.args)
        return record


def mask_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Return an event of structlog with `***` for every `SecretString` and `SecretBytes` in it.

    A processor: put it before the one that renders.
    """
    return {key: _mask(value) for key, value in event.items()}


def _mask(value: Any, outer: tuple[int, ...] = ()) -> Any:
    if isinstance(value, SecretString | SecretBytes):
        return "***"
    if not isinstance(value, Mapping | AbstractSet | list | tuple):
        return value
    if id(value) in outer or len(outer) > _DEPTH:
        return "..."
    outer = (*outer, id(value))
    if isinstance(value, Mapping):
        return {_mask(key, outer): _mask(item, outer) for key, item in value.items()}
    masked = [_mask(item, outer) for item in value]
    return masked if isinstance(value, list) else set(masked) if isinstance(value, AbstractSet) else tuple(masked)
