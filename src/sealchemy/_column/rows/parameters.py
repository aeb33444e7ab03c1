"""How a parameter for a bound column meets the parameters of its row, when a statement is executed."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple, NoReturn

from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.util import memoized_property

from sealchemy._column.encrypted_type import EncryptedType, bound_columns, encrypted_type, require_encrypted
from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.rows.wrappers import converting
from sealchemy._values.rows import RowValue, associated_data
from sealchemy._values.secret import hide
from sealchemy.errors import UnsupportedOperationError

from .bound_values import BoundValue, Parameter, Part, refuse_unsaid
from .parts import NOT_A_PART, refuse_part, refuse_without_row, without_row
from .writes import RowWrites


class _Place(NamedTuple):
    """A `BoundValue` by the names of its parameters: of each part, its source and its guard.

    `sources` has what the usual case needs: of each part, the function that reads it and the name of its source.
    Values with the same `row` are bound to the same parameters.
    """

    name: str
    type_: Any
    encrypted: EncryptedType[Any]
    parts: tuple[tuple[Part, str | None, str | None], ...]
    sources: tuple[tuple[Callable[[Any], str], str | None], ...]
    row: tuple[tuple[str, str | None], ...]


class Pair:
    """A value for a bound column, and the parameters of its row.

    SQLAlchemy puts the defaults of other columns into these later, so they are read when the value is encrypted.
    """

    __slots__ = ("_parameters", "_place", "_row", "_rows", "value")

    def __init__(
        self, value: Any, row: dict[str, Any], parameters: dict[str, Any], place: _Place, rows: dict[Any, bytes]
    ) -> None:
        self.value, self._row, self._parameters, self._place = value, row, parameters, place
        self._rows = {} if row else rows  # by `_Place.row`, for all pairs of these parameters

    def __repr__(self) -> str:
        """Show nothing: SQLAlchemy's frames hold it."""
        return "Pair('***')"

    def get_secret_value(self) -> Any:
        """Return the value alone, as a default in Python of another column may want it."""
        return without_row(self.value)

    def __str__(self) -> str:
        """Return the text of the value, as `str(token)` does."""
        return str(self.get_secret_value())

    def __bytes__(self) -> bytes:
        """Return the bytes of the value."""
        return bytes(self.get_secret_value())

    def row_data(self) -> bytes:
        """Return the associated data of the row; raises `UnsupportedOperationError` if a part is not said."""
        data = self._rows.get(self._place.row)
        if data is None:
            try:
                parts = self._read() if self._row else self._read_quickly()
            except (KeyError, *NOT_A_PART):
                parts = self._read()  # which says what is wrong
            data = self._rows[self._place.row] = associated_data(parts)
        self._parameters = {}  # which hold this object
        return data

    def _read_quickly(self) -> list[str]:
        parameters = self._parameters
        return [read(parameters[source]) for read, source in self._place.sources]  # type: ignore[index] # a KeyError

    def _read(self) -> list[str]:
        row, encrypted = self._row, self._place.encrypted
        if row and row.keys() != set(encrypted.bind_to):
            _refuse(encrypted, f"its RowValue has {', '.join(row)}; give {', '.join(encrypted.bind_to)}")
        return [self._part(*each) for each in self._place.parts]

    def _part(self, part: Part, source: str | None, guard: str | None) -> str:
        row = self._row
        value = row.get(part.name) if source is None and guard is not None else self._parameters.get(source or "")
        if value is None:
            refuse_unsaid(self._place.encrypted, part.name)
        text = _text_of(part, value)
        if part.name in row and _text_of(part, row[part.name]) != text:
            _refuse(self._place.encrypted, f"its RowValue has another {part.name} than the statement")
        return text


def _text_of(part: Part, value: object) -> str:
    try:
        return part.read(value)
    except NOT_A_PART:
        pass
    return refuse_part(part.column, value)


class _ConstructsRows(SQLCompiler):
    """The part of `RowsCompiler` that other statements would pay for: it runs for each row of parameters."""

    places: list[_Place]

    def construct_params(self, *args: Any, **kwargs: Any) -> Any:
        """Return the parameters of one row, in which values for bound columns know their row."""
        try:
            parameters: Any = super().construct_params(*args, **kwargs)
        except BaseException:
            args, kwargs = (), {}  # this frame is in the traceback
            raise
        rows: dict[Any, bytes] = {}
        for place in self.places:
            value = parameters.get(place.name)
            if value is None and place.type_ is place.encrypted:
                continue
            row = value.row if isinstance(value, RowValue) else {}
            if row:
                for part, _, guard in place.parts:
                    if guard is not None:
                        parameters[guard] = row.get(part.name)
            if place.name in parameters:
                parameters[place.name] = Pair(value, row, parameters, place, rows)
        return parameters


@cache
def _constructing_rows(compiler: type[Any]) -> type[Any]:
    """Return the class of compilers whose parameters know their row."""
    return type(compiler.__name__, (_ConstructsRows, compiler), {})


class RowsCompiler(SQLCompiler):
    """The part of `ProtectedCompiler` for columns whose values are bound to their row."""

    names_one_row = False
    """Whether the statement is an UPDATE that names its row by the primary key."""

    def pair_with_rows(self, state: Any) -> None:
        """Note which parameters of an INSERT or UPDATE are for bound columns, and where their rows are said."""
        writes = RowWrites(
            state,
            self.dialect,
            self.column_keys,
            is_executemany=self.for_executemany,
            is_nested=bool(self.stack),
        )
        self._bound_values.extend(writes.pair())
        self.names_one_row = writes.names_one_row
        if self._bound_values and not isinstance(self, _ConstructsRows):
            self.__class__ = _constructing_rows(type(self))  # type: ignore[arg-type] # a class can be hashed

    @memoized_property
    def _bound_values(self) -> list[BoundValue]:
        return []

    @memoized_property
    def places(self) -> list[_Place]:
        """Return the parameters for bound columns, by name."""
        return [
            _Place(
                self._name_of(item.parameter) or "",
                item.type_,
                require_encrypted(item.type_),
                tuple((part, self._name_of(part.source), self._name_of(part.guard)) for part in item.parts),
                tuple((part.read, self._name_of(part.source)) for part in item.parts),
                tuple((part.name, self._name_of(part.source)) for part in item.parts),
            )
            for item in self._bound_values
        ]

    def require_rows(self) -> None:
        """Refuse a parameter of a bound type that is not known to be written to such a column."""
        known = {place.name for place in self.places} if self._bound_values else set()
        for parameter, name in getattr(self, "bind_names", {}).items():
            type_ = encrypted_type(parameter.type)
            if type_ is not None and type_.bind_to and name not in known:
                _refuse(type_, "this parameter is not a value of an INSERT or UPDATE; write it with one of these")

    def refuse_bound_columns_of_text(self, columns: Iterable[Any]) -> None:
        """Refuse text() that returns a bound column: it does not return the row with each value."""
        for column in bound_columns(columns):
            type_ = require_encrypted(column.type)
            refuse_without_row(type_.context, type_.bind_to)

    def make_bind_processors(self) -> Any:
        """Return the functions that convert parameters, of which those for bound columns take a value and its row."""
        processors: Any = super().make_bind_processors()  # type: ignore[misc] # the class after this one has it
        for place in self.places if self._bound_values else ():
            processors[place.name] = _processor(place, self.dialect)
        return processors

    def _name_of(self, parameter: Parameter | None) -> str | None:
        if not isinstance(parameter, BindParameter):
            return parameter
        names = self.bind_names
        if parameter in names:
            return names[parameter]
        # MySQL renders a clone in an upsert.
        return next((name for item, name in names.items() if origin(item) is origin(parameter)), None)


def origin(parameter: BindParameter[Any]) -> Any:
    """Return the parameter that this one is a clone of, or itself."""
    return parameter if parameter._is_clone_of is None else parameter._is_clone_of


def _processor(place: _Place, dialect: Any) -> Callable[[Any], Any]:
    """Return the function that encrypts one value for its row, after what the wrappers of its type do."""
    encrypted = place.encrypted
    encrypt = engine_keys(dialect).encryptor(encrypted.context, encrypted.kind, encrypted.bind_to)
    convert = converting(place.type_, dialect, lambda value: value)

    def process(pair: Any) -> Any:
        if pair is None:
            return None
        value = pair.get_secret_value()
        try:
            value = convert(value)
            return None if value is None else encrypt((value, pair.row_data()))
        except BaseException:
            value = hide(value)  # this frame is in the traceback
            raise

    return process


def _refuse(encrypted: EncryptedType[Any], problem: str) -> NoReturn:
    raise UnsupportedOperationError(
        f"{encrypted.context}: its values are bound to {', '.join(encrypted.bind_to)}: {problem}"
    )
