"""How the operations, and the types of encrypted columns, are written into a generated revision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from alembic.autogenerate.render import renderers  # not from alembic.autogenerate: this runs during its import
from alembic.util import PriorityDispatchResult
from sqlalchemy.types import TypeDecorator

from sealchemy._column.encrypted_type import encrypted_type

from .index_operations import AddBlindIndexOp, KeepDigestsOp
from .operations import ColumnsOp, RequireEncryptionOp, RewriteOp, StayWideOp, WidenColumnsOp

if TYPE_CHECKING:  # Alembic loads this module while it is itself being imported
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps


MIXED = "# commits the changes beside it: move it into a revision of its own, which can be run again"


def render_item(kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    """Render the types of this package as their types in the database: an encrypted column as `sa.Text()`.

    On MySQL and MariaDB that is MEDIUMTEXT. So revisions import nothing from here, and outlive the models. Pass this
    function to `context.configure(render_item=...)` in `env.py`; naming the plugin there, in
    `autogenerate_plugins=["alembic.autogenerate.*", "sealchemy"]`, does so as well.
    """
    if kind != "type":
        return False
    encrypted = encrypted_type(item)
    if encrypted is not None:
        item = encrypted
    elif not isinstance(item, TypeDecorator) or type(item).__module__.partition(".")[0] != "sealchemy":
        return False
    implementation = item.load_dialect_impl(context.dialect)
    dialect = re.match(r"sqlalchemy\.dialects\.(\w+)", type(implementation).__module__)
    if dialect:
        context.imports.add(f"from sqlalchemy.dialects import {dialect[1]}")
        return f"{dialect[1]}.{implementation!r}"
    return f"{context.opts.get('sqlalchemy_module_prefix') or 'sa.'}{implementation!r}"


def render_types(context: AutogenContext, _upgrade: UpgradeOps) -> PriorityDispatchResult:
    """Render our types as SQLAlchemy's; the user's own `render_item` is asked first."""
    users_own = context.opts.get("render_item")

    def render(kind: str, item: Any, context: AutogenContext) -> Any:
        rendered = users_own(kind, item, context) if users_own else False
        return render_item(kind, item, context) if rendered is False else rendered

    context.opts["render_item"] = render
    return PriorityDispatchResult.CONTINUE


@renderers.dispatch_for(StayWideOp)
def _render_nothing(_context: AutogenContext, operation: StayWideOp) -> list[str]:
    columns = list(operation.columns)
    return [f"# {operation.table_name!r}: {columns!r} stay wide, which plaintext can use as well", "pass"]


@renderers.dispatch_for(KeepDigestsOp)
def _render_no_digests(_context: AutogenContext, operation: KeepDigestsOp) -> list[str]:
    return [f"# {operation.table_name!r}: the digests go with their column", "pass"]


@renderers.dispatch_for(AddBlindIndexOp)
def _render_index(context: AutogenContext, operation: AddBlindIndexOp) -> list[str]:
    normalize = ""
    if operation.normalize is not None:
        module, name = operation.normalize.__module__, operation.normalize.__qualname__
        context.imports.add(f"import {module}")
        normalize = f", normalize={module}.{name}"
    schema = f", schema={operation.schema!r}" if operation.schema else ""
    bind_to = {name: tuple(parts) for name, parts in operation.bind_to.items()}
    bound = f", bind_to={bind_to!r}" if bind_to else ""
    call = f"op.{operation.name}({str(operation.table_name)!r}, {operation.columns!r}, index={operation.index!r}"
    return [*_comments(operation), f"{call}{normalize}{bound}{schema})"]


@renderers.dispatch_for(ColumnsOp)
def _render(_context: AutogenContext, operation: ColumnsOp) -> list[str]:
    schema = f", schema={operation.schema!r}" if operation.schema else ""
    columns = list(operation.columns) if isinstance(operation, WidenColumnsOp) else operation.columns
    kinds = f", kinds={operation.kinds!r}" if operation.kinds and isinstance(operation, RewriteOp) else ""
    bind_to = ""
    if operation.bind_to and isinstance(operation, RewriteOp):
        bind_to = f", bind_to={ {name: tuple(parts) for name, parts in operation.bind_to.items()}!r}"
    bound = ", bound=True" if operation.bound and isinstance(operation, RequireEncryptionOp) else ""
    call = f"op.{operation.name}({str(operation.table_name)!r}, {columns!r}{kinds}{bind_to}{bound}{schema})"
    return [*_comments(operation), call]


def _comments(operation: ColumnsOp) -> Iterator[str]:
    if operation.info.get("sealchemy_is_mixed"):
        yield MIXED
    if comment := operation.info.get("sealchemy_comment"):
        yield comment
