"""Primary keys of MariaDB and MySQL, and whether they name their row."""

from .table import Target

_EXACT_KEYS = ("INTEGER", "BIGINT", "MEDIUMINT", "SMALLINT", "TINYINT", "BOOLEAN", "UUID", "BINARY", "VARBINARY")
_KEYS = (*_EXACT_KEYS, "CHAR", "VARCHAR", "DECIMAL", "NUMERIC", "DATE", "DATETIME", "YEAR", "INET4", "INET6")
"""Types whose values name their row when the driver hands them back: not ENUM, SET, TIME, TIMESTAMP, FLOAT, BIT."""


def key_problem(target: Target) -> str | None:
    """Return the problem of keys whose parameters do not compare as the values in the table do."""
    for item, type_ in zip(target.key, target.key_types, strict=True):
        if type(type_).__name__ not in _KEYS:
            return (
                f"primary key {item.name} is of type {type_!r}, whose values do not name their row when they are"
                " handed back; give the table an integer or UUID key"
            )
    return None


def has_exact_keys(target: Target) -> bool:
    """Return whether keys of these types are certain to compare as the values in the table do."""
    return all(
        type(type_).__name__ in _EXACT_KEYS or str(getattr(type_, "collation", "")).endswith("_bin")
        for type_ in target.key_types
    )
