"""Blind indexes of tables with rows: how they are added, filled and compared."""
