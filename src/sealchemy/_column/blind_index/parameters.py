"""How a parameter for an index meets the parameter for its secret, when a statement is executed."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.util import memoized_property

from sealchemy._column.rows.bound_values import Parameter
from sealchemy._column.rows.parameters import Pair, RowsCompiler, origin
from sealchemy._column.rows.parts import without_row
from sealchemy._column.rows.wrappers import converting
from sealchemy._values.blind_index import PREFIX
from sealchemy._values.secret import SecretString, hide

from .index_type import BlindIndex
from .writes import IndexValue, IndexWrites, refuse_value

_PLAIN = frozenset({str, SecretString, type(None)})


class _Place(NamedTuple):
    """An `IndexValue` by the names of its parameters, and the function that makes the digest of a secret."""

    name: str
    secret: str
    digest: Callable[[Any], str | None]


class _ConstructsDigests(SQLCompiler):
    """The part of `IndexesCompiler` that other statements would pay for: it runs for each row of parameters."""

    index_places: list[_Place]
    index_names: list[str]

    def construct_params(self, *args: Any, **kwargs: Any) -> Any:
        """Return the parameters of one row, in which those for indexes know their secret."""
        for name in self.index_names:
            if args and args[0] is not None and name not in args[0]:  # a statement for all columns asks for it
                args = ({name: None, **args[0]}, *args[1:])
        try:
            parameters: Any = super().construct_params(*args, **kwargs)
        except BaseException:
            args, kwargs = (), {}  # this frame is in the traceback
            raise
        for name, secret, _ in self.index_places:
            given = parameters[name]
            # An object that was flushed before, or is copied, has a digest of its own.
            if given is not None and not (isinstance(given, str) and given.startswith(PREFIX)):
                args, kwargs, parameters, given = (), {}, {}, None  # this frame is in the traceback
                refuse_value(name)
            parameters[name] = parameters[secret]
        return parameters


@cache
def _constructing_digests(compiler: type[Any]) -> type[Any]:
    """Return the class of compilers whose parameters for indexes know their secret."""
    return type(compiler.__name__, (_ConstructsDigests, compiler), {})


class IndexesCompiler(RowsCompiler):
    """The part of `ProtectedCompiler` for blind indexes."""

    def fill_indexes(self, state: Any) -> None:
        """Have an INSERT or UPDATE write the digests of the secrets that it writes."""
        self._index_values.extend(IndexWrites(state, self.column_keys).fill())
        if self._index_values and not isinstance(self, _ConstructsDigests):
            self.__class__ = _constructing_digests(type(self))  # type: ignore[arg-type] # a class can be hashed

    @memoized_property
    def _index_values(self) -> list[IndexValue]:
        return []

    @memoized_property
    def index_places(self) -> list[_Place]:
        """Return the parameters for indexes, by name."""
        return [
            _Place(self._name_or_refuse(item.parameter), self._name_or_refuse(item.secret), self._digester(item))
            for item in self._index_values
        ]

    @memoized_property
    def index_names(self) -> list[str]:
        """Return the names of the parameters for which the application may give a digest."""
        return [item.parameter for item in self._index_values if isinstance(item.parameter, str)]

    def _name_or_refuse(self, parameter: Parameter) -> str:
        name = self._name_of(parameter)
        if name is None or name not in self.binds:
            refuse_value("a blind index")
        return name

    def _digester(self, item: IndexValue) -> Callable[[Any], str | None]:
        return converting(item.secret_type, self.dialect, item.index_type.digester(self.dialect))

    def visit_bindparam(self, bindparam: Any, *args: Any, **kwargs: Any) -> str:
        """Render a parameter; a literal for an index is the digest of the literal for its secret."""
        if kwargs.get("literal_binds") and isinstance(bindparam.type, BlindIndex):
            for item in self._index_values:
                if isinstance(item.parameter, BindParameter) and origin(item.parameter) is origin(bindparam):
                    digest = self._digest_now(item)
                    return "NULL" if digest is None else f"'{digest}'"  # its characters need no quoting
        return str(super().visit_bindparam(bindparam, *args, **kwargs))  # type: ignore[no-untyped-call]

    def _digest_now(self, item: IndexValue) -> str | None:
        secret: Any = item.secret
        try:
            return self._digester(item)(without_row(getattr(secret, "effective_value", None)))
        except BaseException:
            item, secret = item._replace(secret=""), None  # this frame is in the traceback
            raise

    def make_bind_processors(self) -> Any:
        """Return the functions that convert parameters, of which those for indexes take a secret."""
        processors: Any = super().make_bind_processors()
        for place in self.index_places if self._index_values else ():
            processors[place.name] = _processor(place)
        return processors


def _processor(place: _Place) -> Callable[[Any], str | None]:
    make = place.digest

    def process(secret: Any) -> str | None:
        try:
            if type(secret) in _PLAIN:
                return make(secret)
            return make(secret.get_secret_value() if isinstance(secret, Pair) else without_row(secret))
        except BaseException:
            secret = hide(secret)  # this frame is in the traceback
            raise

    return process
