"""What to do when a database refuses a statement, by the code of its error."""

from collections.abc import Mapping
from typing import Any

POSTGRESQL: Mapping[Any, str] = {
    "22001": "a column is too narrow: op.widen_columns, or `sealchemy widen`",
    "54000": "an index cannot hold ciphertext of this size, and is of no use on it: drop it, see `sealchemy plan`",
    "0A000": "an object that uses the column is in the way, such as a view: see `sealchemy plan`",
    "42501": "this role lacks a privilege: it needs SELECT and UPDATE, and for a definition it must own the table",
    "25006": "the server is read-only here: connect to the primary",
    "53100": "the disk of the server is full: free space, then run it again",
    "P0001": "a trigger or a function refuses the change: see `sealchemy plan`",
    **dict.fromkeys(("23502", "23503", "23505", "23514"), "a constraint refuses the new value: see `sealchemy plan`"),
}

MYSQL: Mapping[Any, str] = {
    **dict.fromkeys((1265, 1406), "a column is too narrow: op.widen_columns, or `sealchemy widen`"),
    **dict.fromkeys(
        (1267, 1366), "the character set of a column cannot hold a character: convert the column to utf8mb4"
    ),
    1062: "two rows would have the same value in a unique key: see `sealchemy plan`",
    1644: "a trigger refuses the change: see `sealchemy plan`",
    **dict.fromkeys((1142, 1143), "this account lacks a privilege: it needs SELECT and UPDATE, and ALTER for CHECKs"),
    **dict.fromkeys((1290, 1836), "the server is read-only: connect to the primary"),
    **dict.fromkeys((1021, 1114), "the disk of the server is full: free space, then run it again"),
    **dict.fromkeys((3819, 4025), "a CHECK refuses the new value: see `sealchemy plan`"),
}

SQLITE: Mapping[Any, str] = {
    **dict.fromkeys(
        ("SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_LOCKED"),
        "another connection has the write lock: let it end, or raise the `timeout` of the driver's connect()",
    ),
    **dict.fromkeys(
        ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_READONLY_DIRECTORY"),
        "the file and its folder must be writable: SQLite puts a journal beside the file",
    ),
    "SQLITE_FULL": "the disk is full: free space, then run it again",
    "SQLITE_CONSTRAINT_TRIGGER": "a trigger refuses the change: see `sealchemy plan`",
    **dict.fromkeys(
        ("SQLITE_CONSTRAINT_CHECK", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_NOTNULL"),
        "a constraint refuses the new value: see `sealchemy plan`",
    ),
}
