"""The entry point by which Alembic 1.18 and later finds the operations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Alembic loads this module while it is itself being imported
    from alembic.runtime.plugins import Plugin
    from alembic.util import PriorityDispatchResult


class _IterableModule(ModuleType):
    """Some releases of Alembic iterate over the loaded entry point, and fail on their own import if they cannot."""

    def __iter__(self) -> Iterator[ModuleType]:
        yield self


sys.modules[__name__].__class__ = _IterableModule


def setup(plugin: Plugin) -> None:
    """Register the operations, and the comparators for users who name the plugin in `env.py`.

    They are imported here and not above because Alembic loads this module while it is itself being imported.
    """
    from alembic.util import DispatchPriority  # noqa: PLC0415

    from . import implementations, index_implementations, rendering  # noqa: F401, PLC0415 - importing them registers the operations

    first, last = DispatchPriority.FIRST, DispatchPriority.LAST
    plugin.add_autogenerate_comparator(rendering.render_types, "autogenerate", "sealchemy", priority=first)
    plugin.add_autogenerate_comparator(_later("compare_table"), "table", "sealchemy", priority=last)
    plugin.add_autogenerate_comparator(_later("put_in_order"), "autogenerate", "sealchemy", priority=last)


def _later(name: str) -> Callable[..., PriorityDispatchResult]:
    """Return a function of `autogenerate`, which is imported when it is called."""

    def compare(*args: Any) -> PriorityDispatchResult:
        from . import autogenerate  # noqa: PLC0415 - see setup

        result: PriorityDispatchResult = getattr(autogenerate, name)(*args)
        return result

    return compare
