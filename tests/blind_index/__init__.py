"""Blind indexes: columns with the digest of a secret."""
