"""Values that are bound to their row: how they are declared, read, written and flushed."""
