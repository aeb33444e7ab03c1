"""A ready-made table for OAuth integrations, built on the public API of sealchemy."""
