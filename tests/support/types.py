"""Types of an application, which are built on the encrypted ones."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from sqlalchemy.types import TypeDecorator

from sealchemy import EncryptedString

if TYPE_CHECKING:
    from sqlalchemy import Dialect


class EncryptedDate(TypeDecorator[dt.date]):
    """A date, stored as the encrypted text of its ISO form."""

    impl = EncryptedString
    cache_ok = True

    def process_bind_param(self, value: dt.date | None, dialect: Dialect) -> str | None:
        return None if value is None else value.isoformat()

    def process_result_value(self, value: str | None, dialect: Dialect) -> dt.date | None:
        return None if value is None else dt.date.fromisoformat(value)
