"""Encrypted columns for SQLAlchemy, and the way there from plaintext."""

from .engine import Rollout, attach_key_ring
from .errors import (
    AlreadyEncryptedError,
    ColumnDefinitionError,
    DecryptionError,
    EnvelopeError,
    EnvelopeFormatError,
    IntegrationError,
    IntegrationNotFoundError,
    KeyFormatError,
    KeyRingError,
    KeyRingNotAttachedError,
    MissingKeyError,
    PlaintextFoundError,
    PlaintextTypeError,
    ReauthorizationRequiredError,
    RefreshFailedError,
    RewriteError,
    RolloutError,
    SealchemyError,
    UnknownKeyError,
    UnsupportedOperationError,
    UnsupportedVersionError,
)
from .keys import Key, KeyRing
from .redaction import SecretString
from .types import EncryptedString

__all__ = [
    "AlreadyEncryptedError",
    "ColumnDefinitionError",
    "DecryptionError",
    "EncryptedString",
    "EnvelopeError",
    "EnvelopeFormatError",
    "IntegrationError",
    "IntegrationNotFoundError",
    "Key",
    "KeyFormatError",
    "KeyRing",
    "KeyRingError",
    "KeyRingNotAttachedError",
    "MissingKeyError",
    "PlaintextFoundError",
    "PlaintextTypeError",
    "ReauthorizationRequiredError",
    "RefreshFailedError",
    "RewriteError",
    "Rollout",
    "RolloutError",
    "SealchemyError",
    "SecretString",
    "UnknownKeyError",
    "UnsupportedOperationError",
    "UnsupportedVersionError",
    "attach_key_ring",
]
