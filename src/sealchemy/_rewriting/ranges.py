"""Ranges of primary keys, as lines of JSON: what one of several runs over a table works on.

    [["20", "1000"], ["21", "5"]]

These are the rows after the first key and up to the second one, in the order of the primary key. A key is a list of its
columns as the database writes them as text; null is an open end.
"""

import json
from functools import partial
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError

from sealchemy._databases.access import Access
from sealchemy._databases.table import KeyText, RangeEnds
from sealchemy.errors import UnsupportedOperationError


class Range(NamedTuple):
    """The rows after `low` and up to `high`; None is an open end."""

    low: KeyText | None = None
    high: KeyText | None = None

    def __str__(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps([self.low and list(self.low), self.high and list(self.high)], ensure_ascii=False)


def parse_range(text: str) -> Range:
    """Return the range in a line of JSON; raises `UnsupportedOperationError` if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        found = None
    if isinstance(found, list) and len(found) == 2 and all(_is_key(key) for key in found):  # noqa: PLR2004 - both ends
        return Range(*(key and tuple(key) for key in found))
    raise UnsupportedOperationError(
        'a range is a line of JSON with the keys before and at its ends, such as [["20"], ["1000"]] or [null, ["20"]],'
        " as `sealchemy plan --split` prints it"
    )


def between(boundaries: list[KeyText]) -> list[Range]:
    """Return the ranges that boundaries make, the outer ones open."""
    return [Range(low, high) for low, high in zip([None, *boundaries], [*boundaries, None], strict=True)]


def split(access: Access, parts: int) -> list[Range]:
    """Return ranges of about equal numbers of rows, at most so many, that are the whole table together."""
    find = partial(access.database.parallel.boundaries, access.connection, access.target, parts)
    return between(access.run(find, write=False))


def ends(access: Access, text: str) -> RangeEnds:
    """Return the keys at the ends of a range, which is a line of JSON.

    Raises:
        UnsupportedOperationError: they are not keys of this table, or in the wrong order.
    """
    range_ = parse_range(text)
    problem = f"range {range_}: its ends are not primary keys of {access.target.name}"
    if all(len(key) == len(access.target.key) for key in range_ if key is not None):
        try:
            find = partial(access.database.parallel.range_ends, access.connection, access.target, range_)
            found = access.run(find, write=False)
            if found is not None:
                return found
            problem = f"range {range_}: its first key does not come before the second one in {access.target.name}"
        except ValueError:
            pass
        except DBAPIError as error:  # its text may quote the end
            if access.database.is_lost(error):
                raise
    raise UnsupportedOperationError(problem)


def _is_key(key: object) -> bool:
    return key is None or (isinstance(key, list) and bool(key) and all(isinstance(item, str) for item in key))
