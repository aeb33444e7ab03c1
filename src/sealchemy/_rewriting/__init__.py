"""Rewrite the values of a table in place, and constrain them; `sealchemy.rewrite` is the door."""
