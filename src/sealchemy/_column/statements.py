"""Refuse statements that ask an encrypted column for something it cannot answer, or that would store plaintext.

The refusals are in the dialect's compiler, which sees every statement that is rendered: Core and ORM, lambda
statements, CTEs, upserts, `execute(compiled)`. A cached statement was checked when it was compiled and costs nothing.

The rule is to refuse by default. An encrypted column renders only in a position that permits it: the columns clause or
RETURNING, `IS NULL`, `count()`, a comparison with a column of the same context, and as a value for such a column. The
position permits the very object that it is about to render, once; anything that does not know the rule, such as a
function, an operator, ORDER BY or a construct of a later SQLAlchemy, has no permit to give.
"""

import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from sqlalchemy.engine import Dialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter, ColumnClause, Null
from sqlalchemy.sql.functions import count
from sqlalchemy.sql.selectable import ScalarSelect

from sealchemy.errors import SealchemyError, UnsupportedOperationError

from .encrypted_type import context_of
from .writes import accepted_values, has_primary_key_of, is_null, outputs, require_plain_rows, unwrap

_NULL_TESTS = frozenset({operators.is_, operators.is_not})
_COLUMN_TESTS = frozenset({operators.eq, operators.ne})

_OTHER_WAYS = (
    "only IS NULL, count() and comparisons with a column of the same context work. Select the column, and use its value"
    " in Python"
)


def protect(dialect: Dialect) -> None:
    """Have the compiler of a dialect refuse such statements."""
    compiler = dialect.statement_compiler
    if not issubclass(compiler, ProtectedCompiler):
        dialect.statement_compiler = type(compiler.__name__, (ProtectedCompiler, compiler), {})


class ProtectedCompiler(SQLCompiler):
    """A mixin over the compiler of a dialect."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Compile; a refusal leaves no values in the frames of its traceback."""
        self._permits: Counter[int] = Counter()
        try:
            super().__init__(*args, **kwargs)
        except SealchemyError as error:
            args, kwargs = (), {}
            traceback.clear_frames(error.__traceback__)  # parameters show their values
            raise

    @contextmanager
    def _permitting(self, *elements: object) -> Iterator[None]:
        """Permit each of these objects to be rendered once."""
        before = self._permits.copy()
        self._permits.update(map(id, elements))
        try:
            yield
        finally:
            self._permits = before

    def _require_permit(self, element: Any) -> None:
        context = context_of(element)
        if context is None:
            return
        if not self._permits[id(element)]:
            _refuse(context, "an expression over it, or ORDER BY or GROUP BY")
        self._permits[id(element)] -= 1

    def visit_column(self, column: ColumnClause[Any], *args: Any, **kwargs: Any) -> str:
        """Render a column, if its position permits it."""
        self._require_permit(column)
        return super().visit_column(column, *args, **kwargs)

    def visit_grouping(self, grouping: Any, *args: Any, **kwargs: Any) -> str:
        """Render parentheses, or a scalar subquery if its position permits it."""
        if isinstance(grouping, ScalarSelect):
            self._require_permit(grouping)
        return super().visit_grouping(grouping, *args, **kwargs)

    def _label_select_column(self, select: Any, column: Any, *args: Any, **kwargs: Any) -> Any:
        """Render an item of a columns clause or of RETURNING."""
        context = context_of(column)
        if context is None:
            return super()._label_select_column(select, column, *args, **kwargs)
        element = unwrap(column)
        if not isinstance(element, ColumnClause | ScalarSelect | BindParameter) and not is_null(element):
            _refuse(context, "an expression over it")
        with self._permitting(element):
            return super()._label_select_column(select, column, *args, **kwargs)

    def visit_label(self, label: Any, *args: Any, **kwargs: Any) -> str:
        """Render a label; by its name alone in ORDER BY and GROUP BY."""
        if kwargs.get("render_label_as_label") is label and (context := context_of(label)) is not None:
            _refuse(context, "ORDER BY or GROUP BY")
        return super().visit_label(label, *args, **kwargs)

    def visit_binary(self, binary: Any, *args: Any, **kwargs: Any) -> str:
        """Render an operator, if it can work on ciphertext."""
        sides = [unwrap(binary.left), unwrap(binary.right)]
        contexts = [context_of(side) for side in sides]
        encrypted = [context for context in contexts if context is not None]
        if not encrypted:
            if binary.operator in {operators.in_op, operators.not_in_op}:
                self._refuse_output(sides[1], "the operator IN")
            return super().visit_binary(binary, *args, **kwargs)
        if not _is_meaningful(binary.operator, sides, contexts):
            _refuse(encrypted[0], f"the operator {binary.operator.__name__}")
        with self._permitting(*sides):
            return super().visit_binary(binary, *args, **kwargs)

    def visit_unary(self, unary: Any, *args: Any, **kwargs: Any) -> str:
        """Render an operator; EXISTS does not look at the values."""
        permitted = [unary.element] if unary.operator is operators.exists else []
        with self._permitting(*permitted):
            return super().visit_unary(unary, *args, **kwargs)

    def visit_function(self, func: Any, *args: Any, **kwargs: Any) -> str:
        """Render a function; `count()` looks for NULL only."""
        permitted = [unwrap(item) for item in func.clauses] if isinstance(func, count) else []
        with self._permitting(*(item for item in permitted if isinstance(item, ColumnClause))):
            return super().visit_function(func, *args, **kwargs)

    def get_select_precolumns(self, select: Any, **kwargs: Any) -> str:
        """Render DISTINCT, which works with the primary key only: two encryptions of one text differ."""
        if select._distinct and not select._distinct_on:
            self._refuse_unless_keyed(list(select.selected_columns), "DISTINCT")
        return super().get_select_precolumns(select, **kwargs)

    def visit_compound_select(self, cs: Any, *args: Any, **kwargs: Any) -> str:
        """Render UNION and its kin, if each column has one context."""
        keyword = self.compound_keywords[cs.keyword]
        rows = outputs(cs)
        for column in zip(*rows, strict=False):
            contexts = {context_of(item) for item in column if not is_null(unwrap(item))}
            if len(contexts) > 1:
                _refuse(next(filter(None, contexts)), f"{keyword} with a column of another context")
        if keyword != "UNION ALL":
            for row in rows:
                self._refuse_unless_keyed(row, keyword)
        return super().visit_compound_select(cs, *args, **kwargs)

    def visit_textual_select(self, taf: Any, *args: Any, **kwargs: Any) -> str:
        """Render text with the types of its columns, which it selects."""
        with self._permitting(*taf.column_args):
            return super().visit_textual_select(taf, *args, **kwargs)

    def visit_values(self, element: Any, *args: Any, **kwargs: Any) -> str:
        """Render VALUES, if the values for encrypted columns are plain data."""
        require_plain_rows(element)
        return super().visit_values(element, *args, **kwargs)

    def visit_insert(self, insert_stmt: Any, *args: Any, **kwargs: Any) -> str:
        """Render INSERT, if every value for an encrypted column will be encrypted."""
        with self._permitting(*self._accepted_values(insert_stmt, kwargs)):
            return super().visit_insert(insert_stmt, *args, **kwargs)

    def visit_update(self, update_stmt: Any, *args: Any, **kwargs: Any) -> str:
        """Render UPDATE, if every value for an encrypted column will be encrypted."""
        with self._permitting(*self._accepted_values(update_stmt, kwargs)):
            return super().visit_update(update_stmt, *args, **kwargs)

    def _accepted_values(self, statement: Any, options: dict[str, Any]) -> Iterable[object]:
        options = {name: value for name, value in options.items() if name not in {"visiting_cte", "visited_bindparam"}}
        return accepted_values(statement._compile_state_factory(statement, self, **options))

    def _refuse_output(self, side: Any, what: str) -> None:
        """Refuse a subquery that is compared with something."""
        for row in outputs(side):
            for column in row:
                if (context := context_of(column)) is not None:
                    _refuse(context, what)

    def _refuse_unless_keyed(self, columns: list[Any], what: str) -> None:
        for column in columns:
            context = context_of(column)
            if context is not None and not is_null(unwrap(column)) and not has_primary_key_of(unwrap(column), columns):
                _refuse(context, f"{what} without the primary key")


def _is_meaningful(operator: Any, sides: list[Any], contexts: list[str | None]) -> bool:
    if operator in _NULL_TESTS:
        return isinstance(sides[1], Null)
    is_compared_with_itself = operator in _COLUMN_TESTS and contexts[0] == contexts[1]
    return (
        is_compared_with_itself
        and type(sides[0]) is not ScalarSelect
        and all(isinstance(side, ColumnClause) for side in sides)
    ) or all(isinstance(side, BindParameter) for side in sides)


def _refuse(context: str, what: str) -> NoReturn:
    raise UnsupportedOperationError(
        f"{context}: {what} is not supported, because two encryptions of one text differ and ciphertext has no order;"
        f" {_OTHER_WAYS}"
    )
