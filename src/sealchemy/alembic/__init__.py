"""Operations for Alembic revisions, and autogenerate; Alembic finds them through the entry point in `plugin.py`."""

import alembic  # noqa: F401 - it loads the plugin, and so all of this package, whatever is imported first
