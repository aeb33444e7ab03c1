"""The import path in pickles of version 0.1."""

from ._column.engine import attach_key_ring
from ._column.engine_keys import Rollout, plaintext_reads

__all__ = ["Rollout", "attach_key_ring", "plaintext_reads"]
