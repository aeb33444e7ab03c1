"""What INSERT and UPDATE write to columns whose values are bound to their row: each value with the parts of its row.

The parts come from the parameters of the same statement: a value for the column, a default in Python, or `WHERE part =
value`. An UPDATE that names none of these takes a `RowValue`, whose parts it compares with the row.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import func
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.elements import BindParameter, ClauseElement, ColumnElement
from sqlalchemy.sql.selectable import FromClause, Join

from sealchemy._column.elements import is_null, outputs, unwrap
from sealchemy._column.encrypted_type import bound_columns, require_encrypted
from sealchemy._column.writes import (
    replace_in_upsert,
    replace_values,
    tables_of,
    upsert_clauses,
    values_of_upsert,
)
from sealchemy.errors import UnsupportedOperationError

from .bound_values import BoundValue, Parameter, Part, equalities, is_bound_as, key_of, refuse, refuse_known_value
from .parts import find_parts, part_reader
from .upserts import is_own_value, is_row_fixed


class RowWrites:
    """The bound values of one INSERT or UPDATE, by its compile state."""

    def __init__(
        self,
        state: Any,
        dialect: Dialect,
        column_keys: Sequence[str] | None,
        *,
        is_executemany: bool,
        is_nested: bool,
    ) -> None:
        self._state, self._dialect, self._keys = state, dialect, column_keys
        self._is_executemany, self._is_nested = is_executemany, is_nested
        self._table: FromClause = state.statement.table
        self._where = dict(equalities(state.statement)) if state.isupdate else {}

    @property
    def names_one_row(self) -> bool:
        """Whether the WHERE of an UPDATE compares the whole primary key, so that it changes one row at most."""
        key = getattr(self._table, "primary_key", ())
        return bool(len(key)) and all(column in self._where for column in key)

    def pair(self) -> list[BoundValue]:
        """Return the values that the statement writes to bound columns.

        The guards of an UPDATE are added to its WHERE, in the state.

        Raises:
            UnsupportedOperationError: a value would be written that does not belong to its row.
        """
        self._refuse_other_tables()
        bound = {column: self._parts_of(column) for column in bound_columns(getattr(self._table, "c", ()))}
        if not bound:
            return []
        if getattr(self._state.statement, "select", None) is not None:
            self._refuse_insert_from_select(bound)
            return []
        self._give_types({*bound, *(part for parts in bound.values() for part in parts)})
        rows = self._state._multi_parameters or [self._state._dict_parameters or {}]
        found = [item for number, row in enumerate(rows) for item in self._values_of(bound, self._named(row), number)]
        named = [self._named(row) for row in rows]
        for clause in upsert_clauses(self._state.statement):
            found += self._values_of_upsert(clause, bound, named)
        for item in found:
            refuse_known_value(item)
        return found

    def _give_types(self, columns: Iterable[Any]) -> None:
        """Make parameters with the types of their columns, so that these very objects are rendered."""
        by_key = {column.key: column for column in columns}

        def give_type(key: Any, value: Any, name: str | None = None) -> Any:
            column = by_key.get(key_of(key))
            if column is None:
                return value
            if not isinstance(value, ClauseElement) and not hasattr(value, "__clause_element__"):
                return BindParameter(name, value, type_=column.type, unique=name is None)
            element = unwrap(value)
            is_typed = not isinstance(element, BindParameter) or not element.type._isnull
            return value if is_typed else element._with_binary_element_type(column.type)

        if rows := self._state._multi_parameters:
            self._state._multi_parameters = [
                {key: give_type(key, value, f"{key_of(key)}_m{number}") for key, value in row.items()}  # as SQLAlchemy
                for number, row in enumerate(rows)
            ]
            self._state._dict_parameters = self._state._multi_parameters[0]
        else:
            replace_values(self._state, give_type)
        replace_in_upsert(self._state, give_type)

    def _values_of(
        self, bound: Mapping[Any, tuple[Any, ...]], row: Mapping[str, Any], number: int
    ) -> Iterator[BoundValue]:
        for column, parts in bound.items():
            value = self._source(column, row, number)
            if value is None:
                self._refuse_move(column, parts, row)
            elif isinstance(value, BindParameter | str):
                sources = [self._source_of_part(part, row, number) for part in parts]
                yield self._bound_value(column, value, parts, sources)
            elif not is_null(value):
                refuse(column, "the value of another column, or an SQL expression")

    def _bound_value(
        self, column: Any, value: Parameter, parts: tuple[Any, ...], sources: list[Parameter | None]
    ) -> BoundValue:
        names = require_encrypted(column.type).bind_to
        guards = [self._guard(part) if source is None else None for part, source in zip(parts, sources, strict=True)]
        readers = [part_reader(part, self._dialect) for part in parts]
        return BoundValue(
            value, column.type, tuple(Part(*each) for each in zip(names, parts, readers, sources, guards, strict=True))
        )

    def _source(self, column: Any, row: Mapping[str, Any], number: int) -> Any:
        """Return the parameter, or the expression, that is written to a column; None if nothing is."""
        if column.key in row:
            return row[column.key]
        is_empty = self._keys is None and not row
        return column.key if number == 0 and (is_empty or column.key in (self._keys or ())) else None

    def _source_of_part(self, part: Any, row: Mapping[str, Any], number: int) -> Parameter | None:
        value = self._source(part, row, number)
        if value is not None and not isinstance(value, BindParameter | str):
            refuse(part, "an SQL expression for a column that secrets are bound to, beside a secret")
        if isinstance(value, BindParameter) and not is_bound_as(value, part):
            refuse(part, f"a parameter of another type, {value.type!r}, for a column that secrets are bound to")
        if value is None and self._state.isupdate:
            value = self._where.get(part)
            return value if value is not None and is_bound_as(value, part) else None
        if value is None and part.default is not None and not part.default.is_clause_element:
            return f"{part.key}_m{number}" if number else str(part.key)
        return value

    def _guard(self, part: ColumnElement[Any]) -> BindParameter[Any] | None:
        """Compare a part with that of a `RowValue`, if one is given."""
        if not self._state.isupdate or self._is_nested:  # rows are not counted inside of another statement
            return None
        guard: BindParameter[Any] = BindParameter(None, None, type_=part.type, unique=True)
        self._state.statement = statement = self._state.statement._clone()
        statement._where_criteria += (part == func.coalesce(guard, part),)
        return guard

    def _named(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        """Return values by the key of their column, which is all that SQLAlchemy looks at."""
        named = {key_of(key): value for key, value in row.items()}
        return {key: unwrap(value) if isinstance(value, ClauseElement) else value for key, value in named.items()}

    def _parts_of(self, column: Any) -> tuple[Any, ...]:
        names = require_encrypted(column.type).bind_to
        parts = find_parts(column, names)
        if parts is None:
            raise UnsupportedOperationError(f"{column}: {self._table} lacks one of {', '.join(names)}")
        return parts

    def _refuse_move(self, column: Any, parts: tuple[Any, ...], row: Mapping[str, Any]) -> None:
        moved = [part.key for part in parts if self._state.isupdate and self._source(part, row, 0) is not None]
        if moved:
            refuse(column, f"an UPDATE that sets {', '.join(moved)} and leaves this column as it is")

    def _refuse_other_tables(self) -> None:
        """Refuse an UPDATE of several tables, as MySQL has it: its values are told apart by the names of columns."""
        tables = [*tables_of(self._table), *getattr(self._state, "_extra_froms", ())]
        keys = [unwrap(key) for key in self._state._dict_parameters or ()]
        written = {hash(table) for key in keys if (table := getattr(key, "table", None)) is not None}
        columns = [column for table in tables for column in bound_columns(table.c)]
        if columns and (isinstance(self._table, Join) or not written <= {hash(self._table)}):
            refuse(columns[0], "an UPDATE of several tables")

    def _refuse_insert_from_select(self, bound: Iterable[Any]) -> None:
        statement = self._state.statement
        if getattr(self._table, "name", "").startswith("_alembic_tmp_"):
            return  # Alembic's batch mode copies whole rows
        names = list(statement._select_names or self._table.c.keys())
        for column in bound:
            for row in outputs(statement.select):
                if column.key in names and not is_null(unwrap(row[names.index(column.key)])):
                    refuse(column, "INSERT ... SELECT")

    def _values_of_upsert(
        self, clause: Any, bound: Mapping[Any, tuple[Any, ...]], rows: list[dict[str, Any]]
    ) -> Iterator[BoundValue]:
        values = self._named(dict(values_of_upsert(clause)))
        written = {key for row in rows for key in row} | set(self._keys or ())
        if self._keys is None and not any(rows):
            written = set(self._table.c.keys())
        for column, parts in bound.items():
            moved = [part for part in parts if part.key in values and not is_own_value(values[part.key], part)]
            if moved:
                refuse(column, f"changing {moved[0].key}, to which its values are bound, in an upsert")
            value = values.get(column.key)
            writes_value = value is not None and not is_null(value)
            if not writes_value and not any(part.key in values for part in parts):
                continue
            if not is_row_fixed(clause, self._table, parts, written):
                refuse(
                    column,
                    "an upsert that may find a row with other values in the columns it is bound to",
                    "Name a unique key of these columns as the target of the conflict, or load the row and change it",
                )
            if not writes_value:
                continue
            if isinstance(value, BindParameter) and len(rows) == 1 and not self._is_executemany:
                sources = [self._source_of_part(part, rows[0], 0) for part in parts]
                yield self._bound_value(column, value, parts, sources)
            elif not is_own_value(value, column):
                refuse(column, "anything but `excluded` (`inserted` on MySQL) in an upsert of several rows")
