"""What INSERT and UPDATE write to an index: the digest of the very value that they write to its secret."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from sqlalchemy import null
from sqlalchemy.sql.elements import BindParameter, ClauseElement, ColumnClause
from sqlalchemy.sql.selectable import FromClause, Join, ScalarSelect, Select

from sealchemy._column.elements import ALWAYS, PERMIT, is_null, outputs, unwrap
from sealchemy._column.rows.bound_values import Parameter, key_of
from sealchemy._column.writes import change_upserts, tables_of
from sealchemy.errors import UnsupportedOperationError

from .index_type import BlindIndex
from .pairs import context_of_secret, pairs_of
from .sources import digest_beside, is_one_row


class IndexValue(NamedTuple):
    """A parameter for an index, and that for its secret.

    Attributes:
        parameter: that for the index; a name if the application may give a digest, which is replaced.
        index_type: the type of the index.
        secret: the parameter for the secret.
        secret_type: its type.
    """

    parameter: Parameter
    index_type: BlindIndex
    secret: Parameter
    secret_type: Any


class IndexWrites:
    """The values for indexes in one INSERT or UPDATE, by its compile state."""

    def __init__(self, state: Any, column_keys: Sequence[str] | None) -> None:
        self._state, self._keys = state, column_keys
        self._table: FromClause = state.statement.table
        self._pairs = pairs_of(self._table)

    def fill(self) -> list[IndexValue]:
        """Add the digests to the state, and return those that are made of parameters.

        Raises:
            UnsupportedOperationError: the statement sets an index, or a secret to something that has no digest.
        """
        self._refuse_other_tables()
        found = list[IndexValue]()
        if not self._pairs:
            return found
        if getattr(self._state.statement, "select", None) is not None:
            self._fill_from_select(found)
        else:
            self._fill_values(found)
        change_upserts(self._state, lambda values: self._fill_upsert(values, found))
        return found

    def _fill_values(self, found: list[IndexValue]) -> None:
        state = self._state
        many = state._multi_parameters
        rows = [dict(row) for row in many] if many else [dict(state._dict_parameters or {})]
        for secret, index in self._pairs:
            for number, row in enumerate(rows):
                if not number or secret.key in map(key_of, rows[0]):  # SQLAlchemy goes by the keys of the first row
                    self._fill_row(row, number, secret, index, found)
        if many:
            state._multi_parameters = rows
        if many or rows[0]:
            state._dict_parameters = rows[0]
        if getattr(state, "_ordered_values", None):  # SQLAlchemy 2.0
            known = [key for key, _ in state._ordered_values]
            state._ordered_values = [
                (key, rows[0][key]) for key in [*known, *(key for key in rows[0] if key not in known)]
            ]

    def _fill_row(self, row: dict[Any, Any], number: int, secret: Any, index: Any, found: list[IndexValue]) -> None:
        by_key = {key_of(key): key for key in row}
        if index.key in by_key:
            refuse_value(index)
        if secret.key in by_key:
            key = by_key[secret.key]
            value = row[key] = _as_parameter(row[key], secret, number if self._state._multi_parameters else None)
            digest = self._digest(value, secret, index, found)
            if digest is not None:
                row[index] = digest
        elif self._is_given(secret, row, number):
            name = index.key if self._is_given(index, row, number) else None
            parameter = name or _parameter(index)
            found.append(IndexValue(parameter, index.type, secret.key, secret.type))
            if name is None:
                row[index] = parameter
        elif self._keys and index.key in self._keys:
            refuse_value(index)

    def _is_given(self, column: Any, row: Mapping[Any, Any], number: int) -> bool:
        """Return whether a value comes with the execution."""
        if number:
            return False
        return column.key in self._keys if self._keys is not None else not row

    def _digest(self, value: Any, secret: Any, index: Any, found: list[IndexValue]) -> Any:
        """Return what is written to an index beside a value; None for the value that the row has already."""
        element = unwrap(value)
        if isinstance(element, ColumnClause) and hash(element) == hash(secret):
            return None
        return self._digest_of(element, secret, index, found)

    def _digest_of(self, element: Any, secret: Any, index: Any, found: list[IndexValue]) -> Any:
        if is_null(element):
            return null()
        if isinstance(element, BindParameter):
            parameter = _parameter(index)
            type_ = secret.type if context_of_secret(element.type) is None else element.type
            found.append(IndexValue(parameter, index.type, element, type_))
            return parameter
        if isinstance(element, ScalarSelect) and is_one_row(element.element, self._table):
            select: Any = element.element
            digest = self._digest_of(unwrap(select.selected_columns[0]), secret, index, found)
            return select.with_only_columns(digest).scalar_subquery()._annotate({PERMIT: ALWAYS})
        digest = digest_beside(element, index)
        if digest is None:
            _refuse_source(secret, index)
        return digest

    def _fill_upsert(self, values: list[tuple[Any, Any]], found: list[IndexValue]) -> list[tuple[Any, Any]]:
        keys = {key_of(key): value for key, value in values}
        for secret, index in self._pairs:
            if index.key in keys and not (
                isinstance(element := unwrap(keys[index.key]), ColumnClause)
                and secret.key in keys
                and getattr(unwrap(keys[secret.key]), "table", None) is element.table
                and element.key == index.key
            ):
                refuse_value(index)
            values = [(key, value) for key, value in values if key_of(key) != index.key]
            for at, (key, value) in enumerate(values):
                if key_of(key) != secret.key:
                    continue
                written = _as_parameter(value, secret, None)
                values[at] = key, written
                if (digest := self._digest(written, secret, index, found)) is not None:
                    values.append((index.key if isinstance(key, str) else index, digest))
        return values

    def _fill_from_select(self, found: list[IndexValue]) -> None:
        statement = self._state.statement
        if getattr(self._table, "name", "").startswith("_alembic_tmp_"):
            return  # Alembic's batch mode copies whole rows
        names, source = list(statement._select_names or self._table.c.keys()), statement.select
        for secret, index in self._pairs:
            if secret.key not in names:
                if index.key in names:
                    refuse_value(index)
                continue
            at = names.index(secret.key)
            for row in outputs(source):
                element = unwrap(row[at])
                digest = self._digest_of(element, secret, index, found)
                if index.key in names:
                    other = unwrap(row[names.index(index.key)])
                    if hash(other) != hash(digest) and not (is_null(element) and is_null(other)):
                        refuse_value(index)
                elif not isinstance(source, Select):
                    refuse(secret, f"INSERT ... SELECT with UNION; select {index.key} as well")
                else:
                    source = source.add_columns(digest)
            if index.key not in names:
                names = [*names, index.key]
                self._state._dict_parameters = {**self._state._dict_parameters, index.key: null()}  # as SQLAlchemy
        self._state.statement = statement = statement._clone()
        statement.select, statement._select_names = source, names

    def _refuse_other_tables(self) -> None:
        """Refuse an UPDATE of several tables, as MySQL has it: its values are told apart by the names of columns."""
        tables = [*tables_of(self._table), *getattr(self._state, "_extra_froms", ())]
        indexes = [index for table in tables for _, index in pairs_of(table)]
        keys = [unwrap(key) for key in self._state._dict_parameters or ()]
        written = {hash(table) for key in keys if (table := getattr(key, "table", None)) is not None}
        others = {hash(table) for table in tables} - {hash(self._table)}
        if indexes and (isinstance(self._table, Join) or written & others):
            refuse(indexes[0], "an UPDATE of several tables")


def _parameter(index: Any) -> BindParameter[Any]:
    return BindParameter(None, None, type_=index.type, unique=True)


def _as_parameter(value: Any, secret: Any, number: int | None) -> Any:
    """Return a plain value as a parameter, which SQLAlchemy would make of it later."""
    if isinstance(value, ClauseElement) or hasattr(value, "__clause_element__"):
        element = unwrap(value)
        is_untyped = isinstance(element, BindParameter) and element.type._isnull
        return element._with_binary_element_type(secret.type) if is_untyped else value
    name = None if number is None else f"{secret.key}_m{number}"
    return BindParameter(name, value, type_=secret.type, unique=name is None)


def refuse_value(index: Any) -> NoReturn:
    """Raise `UnsupportedOperationError` for a digest that an application gives."""
    refuse(index, "setting it")


def _refuse_source(secret: Any, index: Any) -> NoReturn:
    raise UnsupportedOperationError(
        f"{secret}: it has the blind index {index}, and this value comes without a digest. Write the text itself, or a"
        " column of a table that has an index of the same context and normalize function. A scalar subquery has to"
        " compare the whole primary key of one table, and another one has to select that index as well"
    )


def refuse(index: Any, what: str) -> NoReturn:
    raise UnsupportedOperationError(
        f"{index}: {what} is not supported, because a blind index is filled with the digest of its secret: write the"
        " secret, and leave the index out"
    )
