"""What INSERT and UPDATE may write to an encrypted column: values that are encrypted, or will be when they are bound.

An SQL expression brings a type of its own, so `values(token=func.coalesce(table.c.token, "ya29..."))` would silently
store the text in plaintext. Accepted are plain values and NULL, parameters of the column's context, and columns that
hold encrypted values of that context.
"""

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from sqlalchemy.engine import Dialect
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BindParameter, ClauseElement, ColumnClause, TextClause
from sqlalchemy.sql.selectable import FromClause, Join, ScalarSelect, TableClause, Values

from sealchemy.errors import UnsupportedOperationError

from .elements import PERMIT, column_of, is_null, outputs, unwrap
from .encrypted_type import context_of

_VALUES = {
    "on_conflict_do_nothing": "update_values_to_set",
    "on_conflict_do_update": "update_values_to_set",
    "on_duplicate_key_update": "update",
}
"""The known clauses behind the VALUES of an INSERT, by `__visit_name__`: the attribute with what they set."""


class WriteRules:
    """The rules for values, with the types of columns as one dialect has them."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def check(self, state: Any) -> list[object]:
        """Check an INSERT or UPDATE by its compile state; return permits for the elements that it may render.

        Accepted columns and subqueries are replaced, in the state, by copies that are annotated with a permit: the same
        object may be used elsewhere in the statement, where it is not accepted, and a dialect may clone it. A parameter
        without a type is replaced by one with the type of its column, which SQLAlchemy does not do in every position.

        Raises:
            UnsupportedOperationError: a value of an encrypted column would be stored in plaintext, or a key may be one.
        """
        statement = state.statement
        tables = tables_of(statement.table) + list(getattr(state, "_extra_froms", ()))
        if getattr(statement, "select", None) is not None:
            self._require_same_contexts(statement)
        if self._first_context(tables) is None:
            return []
        if any(clause.__visit_name__ not in _VALUES for clause in upsert_clauses(statement)):
            _refuse(str(self._first_context(tables)), "an unknown clause behind the VALUES of an INSERT")
        accepted: list[object] = []

        def replace(columns: list[Any], target: Any, value: Any) -> Any:
            contexts = [context for column in columns if (context := self._context_of(column)) is not None]
            for context in contexts:
                if not self._is_encrypted(value, context):
                    _refuse(context, "an SQL expression as the value of an encrypted column")
            element = unwrap(value)
            if not contexts or not isinstance(element, ColumnClause | ScalarSelect | BindParameter):
                return value
            if isinstance(element, BindParameter):
                return self._typed(element, target)
            accepted.append(permit := object())
            return element._annotate({PERMIT: permit})

        if getattr(statement, "select", None) is None:
            replace_values(state, lambda key, value: replace(self._targets(key, tables), _target(key, tables), value))
        replace_in_upsert(state, lambda key, value: self._replace_in_upsert(replace, key, value, statement))
        return accepted

    def _typed(self, parameter: BindParameter[Any], target: Any) -> BindParameter[Any]:
        if not parameter.type._isnull or self._context_of(target) is None:
            return parameter
        return parameter._with_binary_element_type(target.type)

    def _replace_in_upsert(self, replace: Any, key: Any, value: Any, statement: Any) -> Any:
        target = self._target_of_upsert(key, statement)
        if self._context_of(target) is None and isinstance(value, ClauseElement):
            for item in visitors.iterate(value):
                if (context := self._context_of(item)) is not None:
                    _refuse(context, "copying ciphertext to another column, in an upsert")
        return replace([target], target, value)

    def require_plain_rows(self, values: Any) -> None:
        """Refuse VALUES with expressions for encrypted columns."""
        contexts = [self._context_of(column) for column in values._column_args]
        for row in (row for rows in values._data for row in rows) if any(contexts) else ():
            for context, value in zip(contexts, row, strict=False):
                if context is not None and not self._is_encrypted(value, context, is_typed=True):
                    _refuse(context, "an SQL expression in VALUES")

    def _context_of(self, element: object) -> str | None:
        return context_of(element, self._dialect)

    def _first_context(self, tables: Iterable[FromClause]) -> str | None:
        columns = (column for table in tables for column in table.c)
        return next((context for column in columns if (context := self._context_of(column)) is not None), None)

    def _targets(self, key: Any, tables: list[FromClause]) -> list[Any]:
        """Return the columns that a key may name; SQLAlchemy goes by the name of a column alone."""
        key = unwrap(key)
        if not isinstance(key, str | ColumnClause):
            _refuse(str(self._first_context(tables)), "an SQL expression in place of a column")
        names = {key} if isinstance(key, str) else {key.key, key.name}
        found = [column for table in tables for column in table.c if not names.isdisjoint({column.key, column.name})]
        return found if isinstance(key, str) else [*found, key]

    def _target_of_upsert(self, key: Any, statement: Any) -> Any:
        """Return the column that a key of an upsert names; SQLAlchemy stores the value of an unknown one as it is."""
        tables = [statement.table]
        found = column_of(key, tables)
        if found is None:
            context = str(self._first_context(tables))
            _refuse(context, "in the set_ of an upsert, anything but a column of the table by its key")
        return found

    def _require_same_contexts(self, statement: Any) -> None:
        """Refuse INSERT ... SELECT between columns of different contexts."""
        if getattr(statement.table, "name", "").startswith("_alembic_tmp_"):
            return  # Alembic's batch mode copies the rows of a table as they are
        names = list(statement._select_names or statement.table.c.keys())
        targets = [self._context_of(statement.table.c.get(name)) for name in names]
        for row in outputs(statement.select) or [[]]:
            sources = row if len(row) == len(targets) else [TextClause("")] * len(targets)
            for target, source in zip(targets, sources, strict=True):
                source_context = self._context_of(source)
                if target is not None and not self._is_encrypted(source, target, is_typed=True):
                    _refuse(target, "a column that does not hold its encrypted values, in INSERT ... SELECT")
                if target is None and source_context is not None:
                    _refuse(source_context, "copying ciphertext to another column, in INSERT ... SELECT")

    def _is_encrypted(self, value: Any, context: str, *, is_typed: bool = False) -> bool:
        """Return whether a value is NULL, will be encrypted when it is bound, or comes from such a column.

        `is_typed` says that nothing gives a parameter the type of the column.
        """
        if not isinstance(value, ClauseElement) and not hasattr(value, "__clause_element__"):
            return True  # a plain value: it is bound with the column's type
        element = unwrap(value)
        if is_null(element):
            return True
        if isinstance(element, BindParameter):
            return self._context_of(element) == context or (bool(element.type._isnull) and not is_typed)
        if isinstance(element, ScalarSelect):
            rows = outputs(element)
            return bool(rows) and all(
                len(row) == 1 and self._is_encrypted(row[0], context, is_typed=True) for row in rows
            )
        return self._is_stored(element, context)

    def _is_stored(self, element: Any, context: str) -> bool:
        """Return whether a column, through all subqueries, is one of a table."""
        if not isinstance(element, ColumnClause) or element.is_literal or self._context_of(element) != context:
            return False
        table: Any = element.table
        rows = outputs(getattr(table, "element", None))
        if rows:
            at = next((at for at, item in enumerate(table.c) if item.key == element.key), None)
            return at is not None and all(
                len(row) > at and self._is_encrypted(row[at], context, is_typed=True) for row in rows
            )
        if element._proxies:
            return all(self._is_encrypted(proxy, context, is_typed=True) for proxy in element._proxies)
        return isinstance(table, TableClause | Values)


def tables_of(table: Any) -> list[FromClause]:
    """Return the tables of a target, which may be a join."""
    return [item for item in table._from_objects if not isinstance(item, Join)]


def _target(key: Any, tables: list[FromClause]) -> Any:
    """Return the column that takes the value of a key; None if SQLAlchemy will not find one."""
    found = column_of(key, tables)
    return tables[0].c.get(unwrap(key).key) if found is None and not isinstance(key, str) else found


def replace_values(state: Any, replace: Callable[[Any, Any], Any]) -> None:
    """Replace the values in the state of an INSERT or UPDATE."""
    rows = getattr(state, "_multi_parameters", None)
    if rows:
        state._multi_parameters = [{key: replace(key, value) for key, value in row.items()} for row in rows]
        state._dict_parameters = state._multi_parameters[0]
        return
    if state._dict_parameters:
        state._dict_parameters = {key: replace(key, value) for key, value in state._dict_parameters.items()}
    if getattr(state, "_ordered_values", None):  # SQLAlchemy 2.0
        state._ordered_values = [(key, state._dict_parameters[key]) for key, _ in state._ordered_values]


def update_targets(state: Any) -> list[Any]:
    """Return the keys of an UPDATE, by its compile state."""
    return [unwrap(key) for key in state._dict_parameters or ()] if state.isupdate else []


def upsert_clauses(statement: Any) -> tuple[Any, ...]:
    """Return the ON CONFLICT and ON DUPLICATE KEY clauses of an INSERT, and whatever else it has behind its VALUES."""
    clause = getattr(statement, "_post_values_clause", None)
    if clause is None:
        return ()
    return tuple(clause.clauses) if _has_several(clause) else (clause,)


def values_of_upsert(clause: Any) -> list[tuple[Any, Any]]:
    """Return what a clause sets."""
    values = getattr(clause, _VALUES[clause.__visit_name__], None) or ()
    return list(values.items() if isinstance(values, dict) else values)


def replace_in_upsert(state: Any, replace: Callable[[Any, Any], Any]) -> None:
    """Replace the values in the ON CONFLICT or ON DUPLICATE KEY clauses of an INSERT."""
    change_upserts(state, lambda values: [(key, replace(key, value)) for key, value in values])


def change_upserts(state: Any, change: Callable[[list[tuple[Any, Any]]], list[tuple[Any, Any]]]) -> None:
    """Change what the ON CONFLICT or ON DUPLICATE KEY clauses of an INSERT set."""
    changed = [_changed(clause, change) for clause in upsert_clauses(state.statement)]
    if changed:
        state.statement = state.statement._clone()
        whole = state.statement._post_values_clause
        state.statement._post_values_clause = type(whole)(changed) if _has_several(whole) else changed[0]


def _changed(clause: Any, change: Callable[[list[tuple[Any, Any]]], list[tuple[Any, Any]]]) -> Any:
    new, name = clause._clone(), _VALUES[clause.__visit_name__]
    if found := change(values_of_upsert(clause)):
        setattr(new, name, dict(found) if isinstance(getattr(clause, name), dict) else found)
    return new


def _has_several(clause: Any) -> bool:
    return bool(clause.__visit_name__ == "element_list")  # SQLAlchemy 2.1


def _refuse(context: str, what: str) -> NoReturn:
    raise UnsupportedOperationError(
        f"{context}: {what} is not supported, because the text would be stored in plaintext; compute the value in"
        " Python, or assign NULL or a column of the same context; to store a token in plaintext on purpose, in a column"
        " that is not encrypted, pass str(token)"
    )
