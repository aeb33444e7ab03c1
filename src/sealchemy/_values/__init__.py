"""Text to encrypted value and back, and the keys for it; nothing here knows SQLAlchemy."""
