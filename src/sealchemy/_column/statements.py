"""Refuse statements that ask an encrypted column for something it cannot answer, or that would store plaintext.

The refusals are in the dialect's compiler, which sees every statement that is rendered: Core and ORM, lambda
statements, CTEs, upserts, `execute(compiled)`. A cached statement was checked when it was compiled and costs nothing.

The rule is to refuse by default. An encrypted column renders only in a position that permits it: the columns clause or
RETURNING, `IS NULL`, `count()`, a comparison with a column of the same context, and as a value for such a column. The
position permits the very object that it is about to render, once. Anything that does not know the rule, such as a
function, an operator, ORDER BY or a construct of a later SQLAlchemy, has no permit to give.
"""

import traceback
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from sqlalchemy.engine import Dialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BindParameter, ColumnClause, Null
from sqlalchemy.sql.functions import count
from sqlalchemy.sql.selectable import ScalarSelect

from sealchemy._values.secret import mask
from sealchemy.errors import SealchemyError, UnsupportedOperationError

from .blind_index.lookups import is_lookup, refuse_over_index
from .blind_index.pairs import has_digests
from .blind_index.parameters import IndexesCompiler
from .elements import ALWAYS, PERMIT, Permitted, has_primary_key_of, is_null, outputs, unwrap
from .encrypted_type import context_of
from .parameters import ParametersCompiler
from .writes import WriteRules, update_targets

_NULL_TESTS = frozenset({operators.is_, operators.is_not})
_COLUMN_TESTS = frozenset({operators.eq, operators.ne})
_EXPRESSION = "an expression over it, or ORDER BY or GROUP BY"


def protect(dialect: Dialect) -> None:
    """Have the compiler of a dialect refuse such statements."""
    compiler = dialect.statement_compiler
    if not issubclass(compiler, ProtectedCompiler):
        dialect.statement_compiler = type(compiler.__name__, (ProtectedCompiler, compiler), {})


class ProtectedCompiler(IndexesCompiler, ParametersCompiler):
    """A mixin over the compiler of a dialect."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Compile; a refusal leaves no values in the frames of its traceback."""
        self._permits: dict[int, int] = {}
        self._update_targets: frozenset[int] = frozenset()
        try:
            super().__init__(*args, **kwargs)
            self.require_one_context_per_parameter()
            self.require_rows()
        except SealchemyError as error:
            # Parameters show their values: in the frames below, and in the cache key that frames above hold.
            traceback.clear_frames(error.__traceback__)
            # They belong to statements that the application may execute again, so the values stay equal.
            for parameter in getattr(kwargs.get("cache_key"), "bindparams", None) or ():
                parameter.value = mask(parameter.value)
            args, kwargs, parameter = (), {}, None
            raise

    def _render(self, render: Callable[..., Any], permitted: Iterable[object], *args: Any, **kwargs: Any) -> Any:
        """Render something that permits each of these objects once, and no others."""
        permits: dict[int, int] = {}
        for item in permitted:
            permits[id(item)] = permits.get(id(item), 0) + 1
        if not permits and not self._permits:
            return render(*args, **kwargs)
        outer, self._permits = self._permits, permits
        try:
            return render(*args, **kwargs)
        finally:
            self._permits = outer

    def _take_permit(self, element: Any, context: str) -> None:
        if self.statement is None:  # which is so for expressions in DDL
            return
        if has_digests(element.type) and not self.statement.supports_execution:  # in the definition of an index
            return
        permitted = element._annotations.get(PERMIT, element)
        if permitted is ALWAYS:
            return
        permit = id(permitted)
        if not self._permits.get(permit):
            _refuse(context, _EXPRESSION)
        self._permits[permit] -= 1

    def _is_update_target(self, column: ColumnClause[Any], kwargs: dict[str, Any]) -> bool:
        """Return whether this is a target of UPDATE, which MySQL renders as a column, with one argument alone."""
        return kwargs.keys() == {"include_table"} and hash(column) in self._update_targets

    def visit_column(self, column: ColumnClause[Any], *args: Any, **kwargs: Any) -> str:
        """Render a column, if its position permits it."""
        context = context_of(column, self.dialect)
        # Outside of a SELECT, a column with a place in the result is one of text(), which is not rendered.
        is_rendered = self.stack or kwargs.get("add_to_result_map") is None
        if context is not None and is_rendered and not self._is_update_target(column, kwargs):
            self._take_permit(column, context)
        return super().visit_column(column, *args, **kwargs)

    def visit_grouping(self, grouping: Any, *args: Any, **kwargs: Any) -> str:
        """Render parentheses, or a scalar subquery if its position permits it."""
        if isinstance(grouping, ScalarSelect) and (context := self.context_of_element(grouping)) is not None:
            self._take_permit(grouping, context)
        return super().visit_grouping(grouping, *args, **kwargs)

    def visit_dmltargetcopy(self, element: Any, *args: Any, **kwargs: Any) -> str:
        """Render a copy of the value that another column is given (SQLAlchemy 2.1), if that is not encrypted."""
        if (context := self.context_of_element(element.column)) is not None:
            _refuse(context, "from_dml_column()")
        return str(super().visit_dmltargetcopy(element, *args, **kwargs))

    def visit_table_valued_column(self, element: Any, *args: Any, **kwargs: Any) -> str:
        """Render a whole row as a value, if it has no encrypted column."""
        for column in element.scalar_alias.c:
            if (context := self.context_of_element(column)) is not None:
                _refuse(context, "a whole row as a value")
        return super().visit_table_valued_column(element, *args, **kwargs)

    def _label_select_column(self, select: Any, column: Any, *args: Any, **kwargs: Any) -> Any:
        """Render an item of a columns clause or of RETURNING."""
        context, permitted = self.context_of_element(column), []
        if context is not None:
            permitted = [unwrap(column)]
            if not isinstance(permitted[0], ColumnClause | ScalarSelect | BindParameter) and not is_null(permitted[0]):
                _refuse(context, _EXPRESSION)
        return self._render(super()._label_select_column, permitted, select, column, *args, **kwargs)

    def returning_clause(self, stmt: Any, returning_cols: Any, *args: Any, **kwargs: Any) -> str:
        """Render RETURNING, whose columns some dialects render by themselves."""
        return self._render(
            super().returning_clause, map(unwrap, returning_cols), stmt, returning_cols, *args, **kwargs
        )

    def visit_textual_select(self, taf: Any, *args: Any, **kwargs: Any) -> str:
        """Render text with the types of its columns, which it selects, if none is bound to its row."""
        self.refuse_bound_columns_of_text(taf.column_args)
        return self._render(super().visit_textual_select, taf.column_args, taf, *args, **kwargs)

    def visit_label(self, label: Any, *args: Any, **kwargs: Any) -> str:
        """Render a label; by its name alone in ORDER BY and GROUP BY."""
        if kwargs.get("render_label_as_label") is label and (context := self.context_of_element(label)) is not None:
            _refuse(context, _EXPRESSION)
        return super().visit_label(label, *args, **kwargs)

    def visit_binary(self, binary: Any, *args: Any, **kwargs: Any) -> str:
        """Render an operator, if it can work on ciphertext."""
        if is_lookup(binary.left):
            return self._render(super().visit_binary, [], binary, *args, **kwargs)
        sides: list[Any] = [binary.left, binary.right]
        is_null_test = binary.operator in _NULL_TESTS and isinstance(binary.right, Null)
        for side in sides if not is_null_test else []:
            if not isinstance(side, ColumnClause | BindParameter):
                self._refuse_outputs(side)
        contexts = [context_of(side, self.dialect) for side in sides]
        context = contexts[0] or contexts[1]
        if context is not None:
            sides = [unwrap(side) for side in sides]
            if not is_null_test and not _is_meaningful(binary.operator, sides, contexts):
                _refuse(context, f"the operator {binary.operator.__name__}")
        return self._render(super().visit_binary, sides if context else [], binary, *args, **kwargs)

    def visit_type_coerce(self, type_coerce: Any, *args: Any, **kwargs: Any) -> str:
        """Render an element with another type, which may permit what is in it."""
        permitted = [unwrap(type_coerce.clause)] if isinstance(type_coerce, Permitted) else []
        return self._render(super().visit_type_coerce, permitted, type_coerce, *args, **kwargs)

    def visit_unary(self, unary: Any, *args: Any, **kwargs: Any) -> str:
        """Render an operator; EXISTS does not look at the values."""
        permitted = [unary.element] if unary.operator is operators.exists else []
        return self._render(super().visit_unary, permitted, unary, *args, **kwargs)

    def visit_function(self, func: Any, *args: Any, **kwargs: Any) -> str:
        """Render a function; `count()` looks for NULL only."""
        arguments = [unwrap(item) for item in func.clauses] if isinstance(func, count) else []
        permitted = [item for item in arguments if isinstance(item, ColumnClause)]
        return self._render(super().visit_function, permitted, func, *args, **kwargs)

    def get_select_precolumns(self, select: Any, **kwargs: Any) -> str:
        """Render DISTINCT, which works with the primary key only: two encryptions of one text differ."""
        if select._distinct and not select._distinct_on:
            self._refuse_unless_keyed(list(select.selected_columns), "DISTINCT")
        return super().get_select_precolumns(select, **kwargs)

    def visit_compound_select(self, cs: Any, *args: Any, **kwargs: Any) -> str:
        """Render UNION and its kin, if each column has one context."""
        keyword, rows = self.compound_keywords[cs.keyword], outputs(cs)
        for column in zip(*rows, strict=False):
            contexts = {self.context_of_element(item) for item in column if not is_null(unwrap(item))}
            if len(contexts) > 1:
                _refuse(next(filter(None, contexts)), f"{keyword} with a column of another context")
        for row in rows if keyword != "UNION ALL" else []:
            self._refuse_unless_keyed(row, keyword)
        return super().visit_compound_select(cs, *args, **kwargs)

    def visit_values(self, element: Any, *args: Any, **kwargs: Any) -> str:
        """Render VALUES, if the values for encrypted columns are plain data."""
        WriteRules(self.dialect).require_plain_rows(element)
        return self._render(super().visit_values, [*element._column_args, *element.c], element, *args, **kwargs)

    def visit_insert(self, insert_stmt: Any, *args: Any, **kwargs: Any) -> str:
        """Render INSERT, if every value for an encrypted column will be encrypted."""
        return self._visit_checked(super().visit_insert, insert_stmt, args, kwargs)

    def visit_update(self, update_stmt: Any, *args: Any, **kwargs: Any) -> str:
        """Render UPDATE, if every value for an encrypted column will be encrypted."""
        return self._visit_checked(super().visit_update, update_stmt, args, kwargs)

    def _visit_checked(self, visit: Any, statement: Any, args: Any, kwargs: dict[str, Any]) -> str:
        options = {name: value for name, value in kwargs.items() if name not in {"visiting_cte", "visited_bindparam"}}
        state = statement._compile_state_factory(statement, self, **options)
        permitted = WriteRules(self.dialect).check(state)
        self.pair_with_rows(state)
        self.fill_indexes(state)
        statement = statement._clone()
        statement._compile_state_factory = lambda *_args, **_kwargs: state
        outer, self._update_targets = self._update_targets, frozenset(map(hash, update_targets(state)))
        try:
            return str(self._render(visit, permitted, statement, *args, **kwargs))
        finally:
            self._update_targets = outer

    def _refuse_outputs(self, side: Any) -> None:
        for column in (column for row in outputs(side) for column in row):
            if (context := self.context_of_element(column)) is not None:
                _refuse(context, "comparing a subquery over it")

    def _refuse_unless_keyed(self, columns: list[Any], what: str) -> None:
        for column in columns:
            context = self.context_of_element(column)
            if context is not None and not is_null(unwrap(column)) and not has_primary_key_of(unwrap(column), columns):
                _refuse(context, f"{what} without the primary key")


def _is_meaningful(operator: Any, sides: list[Any], contexts: list[str | None]) -> bool:
    if operator in _COLUMN_TESTS and all(isinstance(side, ColumnClause) for side in sides):
        return contexts[0] == contexts[1] and not has_digests(sides[0].type)
    return all(isinstance(side, BindParameter) for side in sides)


def _refuse(context: str, what: str) -> NoReturn:
    refuse_over_index(context, what)
    raise UnsupportedOperationError(
        f"{context}: {what} is not supported, because two encryptions of one text differ and ciphertext has no order."
        " Select the column, and use its value in Python. IS NULL and count() work, and a comparison of two columns of"
        " one context finds copies of one encrypted value"
    )
