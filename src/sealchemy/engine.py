"""The import path in pickles of version 0.1."""

from ._column.counters import plaintext_reads
from ._column.engine import attach_key_ring
from ._column.rollout import Rollout

__all__ = ["Rollout", "attach_key_ring", "plaintext_reads"]
