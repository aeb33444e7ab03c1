"""Operations for Alembic revisions, and autogenerate; Alembic finds them through the entry point in `plugin.py`."""
