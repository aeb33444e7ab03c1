"""`BlindIndex`: the type of a column that holds the digest of a secret beside it."""

import sys
from collections.abc import Callable
from typing import Any, Literal, NoReturn

from sqlalchemy import String
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from sealchemy._column.engine_keys import engine_keys
from sealchemy._column.rollout import Rollout
from sealchemy._values.codecs import TEXT
from sealchemy._values.envelope import require_context
from sealchemy._values.secret import hide, type_name
from sealchemy.errors import ColumnDefinitionError, PlaintextTypeError, UnsupportedOperationError

from .lookups import Lookup, find_rows, is_for_the_compiler, lookup_by_index, refuse_operator
from .pairs import label_of

Normalize = Callable[[str], str]


class IndexComparator(TypeDecorator.Comparator[str]):
    """Compare with the digest of a text; refuse what a digest cannot answer."""

    __slots__ = ("_lookup",)

    @override
    def operate(self, op: OperatorType, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
        # SQLAlchemy's own dictionaries and lists compare columns with columns, and parameters with parameters.
        if isinstance(self.expr, BindParameter) or is_for_the_compiler(op, other):
            return super().operate(op, *other, **kwargs)
        try:
            lookup: Lookup | None = getattr(self, "_lookup", None)
            if lookup is None:
                lookup = self._lookup = lookup_by_index(self.expr)
            return find_rows(lookup, op, other)
        except BaseException:
            other, kwargs = (), {}  # error trackers print the variables of a frame
            raise

    @override
    def reverse_operate(self, op: OperatorType, other: Any, **kwargs: Any) -> NoReturn:
        other = hide(other)
        refuse_operator(self.expr.type, op, "in this order")


class BlindIndex(TypeDecorator[str]):
    """A column with a keyed hash of the secret beside it, by which rows are found and made unique.

    The library fills it in every INSERT and UPDATE that writes the secret, which is the one `EncryptedString` column of
    the same table with the same context. `Model.token_index == "..."`, `Model.token == "..."`, `in_()` and
    `filter_by(token="...")` compare digests. Reading the column returns the digest.

    **It tells** whoever reads the database which rows have the same value, and how many; whoever has the index key as
    well can test guesses. It is for tokens, API keys and addresses, not for what has few possible values.

    **A row that was found is only a candidate**, since a digest can be copied to another row: see `sealchemy.matches`.

    Raises, when used:
        MissingKeyError: the key ring has no index key.
        UnsupportedOperationError: a value is assigned to it; another operator; a lookup in another rollout stage than
            STRICT.
    """

    __module__ = "sealchemy"
    impl = String
    cache_ok = True
    is_blind_index = has_digests = True
    comparator_factory = IndexComparator  # pyright: ignore[reportAssignmentType] # as SQLAlchemy documents it

    def __init__(
        self,
        context: str,
        normalize: Normalize | None = None,
        *,
        during_rollout: Literal["plaintext"] | None = None,
    ) -> None:
        """Name the secret.

        Args:
            context: the context of the secret.
            normalize: a function of a module, `str` to `str`, that makes texts equal before they are hashed, such as
                `sealchemy.normalize_email`. To change it, run `sealchemy reindex`.
            during_rollout: in other stages than STRICT, lookups are refused, as they would miss rows. With "plaintext",
                they also compare values that are not encrypted yet with the plaintext, which the server may log. The
                database cannot normalize it, so with `normalize` they stay refused in PREPARE and MIGRATE.

        Raises:
            ColumnDefinitionError: an argument is malformed.
        """
        super().__init__(64)
        context, during_rollout = hide(context), hide(during_rollout)
        normalize = normalize if callable(normalize) else hide(normalize)
        self.context, self.normalize, self.during_rollout = context, normalize, during_rollout
        self.context = require_context(context)
        if during_rollout not in {None, "plaintext"}:
            raise ColumnDefinitionError(f'{self.context}: during_rollout is "plaintext", or left out')
        if normalize is not None:
            _require_importable(normalize, self.context)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse subclasses: statements fill the columns of this class."""
        super().__init_subclass__(**kwargs)
        if cls.__module__ != "sealchemy":
            raise ColumnDefinitionError(f"{cls.__name__}: use BlindIndex itself; to change what is hashed, normalize")

    @property
    def label(self) -> str:
        """The name of its digests."""
        return label_of(self.context)

    def __repr__(self) -> str:
        """Return the declaration."""
        known = vars(self)
        normalize = f", {getattr(self.normalize, '__qualname__', '...')}" if known.get("normalize") else ""
        rollout = ", during_rollout='plaintext'" if known.get("during_rollout") else ""
        return f"BlindIndex({known.get('context')!r}{normalize}{rollout})"

    @override
    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Return VARCHAR(64); a digest has 41 characters."""
        return String(64)

    @override
    def with_variant(self, type_: object, *dialect_names: str) -> NoReturn:
        """Refuse: the variant would store what it is given."""
        type_ = hide(type_)
        raise ColumnDefinitionError(f"{self.context}: a variant of BlindIndex would not be filled; leave it out")

    @override
    def coerce_compared_value(self, op: OperatorType | None, value: object) -> Any:
        """Return this type, with which every operand is bound."""
        value = hide(value)
        return self

    @override
    def bind_processor(self, dialect: Dialect) -> Any:
        """Return a function that refuses: parameters for the column are made of the secret, and lookups have a type."""
        return self._refuse_parameter

    @override
    def literal_processor(self, dialect: Dialect) -> Any:
        """Return the same for a literal."""
        return self._refuse_parameter

    def _refuse_parameter(self, value: object) -> None:
        is_null, value = value is None, None
        if not is_null:
            raise UnsupportedOperationError(
                f"{self.context}: a parameter of its blind index is not supported here. Compare the secret, or the"
                " index, with the text itself, as in Model.token == text; the library makes the digest"
            )

    def require_lookup(self, dialect: Dialect) -> None:
        """Refuse a lookup in a stage in which it could miss rows, or without keys."""
        keys = engine_keys(dialect)
        keys.digester(self.context)
        stage = keys.stage(self.context)
        is_compared = self.during_rollout is not None and not (self.normalize and keys.reads_plaintext(self.context))
        if stage is Rollout.STRICT or is_compared:
            return
        advice = 'or declare BlindIndex(..., during_rollout="plaintext"), which compares plaintext as well'
        if self.normalize is not None:
            advice = "the database cannot normalize plaintext, to compare it meanwhile"
        raise UnsupportedOperationError(
            f"{self.context}: its rollout stage is {stage}, in which a lookup could miss rows whose digest is missing"
            " or old. Fill the index (op.add_blind_index, `sealchemy reindex`), and look rows up in stage strict,"
            f" which an engine can have for this context alone (rollout={{context: stage}}); {advice}"
        )

    def lookup_processor(self, dialect: Dialect) -> Callable[[Any], str | None]:
        """Return the function that makes the digest of a text to look for."""
        digest = self.digester(dialect)

        def process(value: Any) -> str | None:
            try:
                if value is not None:
                    self.require_lookup(dialect)
                return digest(value)
            except BaseException:
                value = hide(value)  # this frame is in the traceback
                raise

        return process

    def digester(self, dialect: Dialect) -> Callable[[Any], str | None]:
        """Return the function that makes the digest of a text with whatever index key is attached; NULL stays NULL."""
        keys, context, normalize = engine_keys(dialect), self.context, self.normalize
        digesters, encode = keys.digesters, TEXT.value.encode

        def digest(value: Any) -> str | None:
            if value is None:
                return None
            data: Any = None
            try:
                if normalize is None:
                    return digesters[context](encode(value))
            except (TypeError, ValueError, LookupError):  # some of them hold the value
                pass
            try:
                data = _encode(value, normalize, context)
                return keys.digester(context)(data)
            except BaseException:
                value = data = None  # this frame is in the traceback
                raise

        return digest


def _encode(value: Any, normalize: Normalize | None, context: str) -> bytes:
    """Return the bytes that are hashed of a text; any text, since it may be what a stranger presents.

    Raises:
        PlaintextTypeError: it is not text, or `normalize` fails.
    """
    value, result, problem = hide(value), None, ""
    if not isinstance(value, str):
        problem = TEXT.value.find_problem(value)
        raise PlaintextTypeError(f"{context}: {problem}")
    try:
        result = value if normalize is None else hide(normalize(str(value)))
    except Exception as error:  # noqa: BLE001 - whatever it is, it may hold the value
        problem = f"raised {type(error).__name__}"
    if not problem and not isinstance(result, str):
        problem = f"returned {type_name(result)}"
    if normalize is not None and problem:
        raise PlaintextTypeError(f"{context}: {normalize.__qualname__} {problem}; it takes a str and returns one")
    return str.encode(result or "", "utf-8", "surrogatepass")


def _require_importable(normalize: Any, context: str) -> None:
    """Refuse a function that another process could not name: every process has to hash alike."""
    module, name = getattr(normalize, "__module__", None), getattr(normalize, "__qualname__", "")
    found = getattr(sys.modules.get(module or ""), name, None)
    is_new = found is None and name.isidentifier()  # its module is still being imported
    if not callable(normalize) or not (found is normalize or is_new):
        normalize = found = hide(normalize)
        raise ColumnDefinitionError(
            f"{context}: normalize takes a function that every process can import, so that all hash alike: one that a"
            " module declares with def, not a lambda, a method or a partial"
        )
