"""Columns with the digest of a secret: their type, how statements fill them, and how rows are found by them."""
