"""What the process of a range tells the one that started it, in pickles: there is nothing secret among it."""

from typing import NamedTuple

from sealchemy._rewriting.report import Report


class Committing(NamedTuple):
    """A transaction, by its id, is about to commit so many rows."""

    transaction: str
    written: int


class Crossed(NamedTuple):
    """So many rows were read, and so many written; what was written is committed."""

    rows: int
    written: int


class Finished(NamedTuple):
    """A range is done."""

    report: Report


class Refused(NamedTuple):
    """An error ends the run: the name of its class, and its text."""

    error: str
    text: str


class Unavailable(NamedTuple):
    """The process could not connect, which says nothing about its range."""

    text: str


class Logged(NamedTuple):
    """A line for the log."""

    level: int
    text: str


Message = Committing | Crossed | Finished | Refused | Unavailable | Logged
