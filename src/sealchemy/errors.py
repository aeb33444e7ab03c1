"""Every error that sealchemy raises.

SealchemyError
├── KeyRingError
│   ├── MissingKeyError             no key where one is needed
│   ├── KeyFormatError              a key that is malformed, weak, or there twice
│   ├── UnknownKeyError             a value names a key that the ring does not hold
│   ├── KeyRingNotAttachedError     an encrypted column on an engine without a ring
│   └── RolloutError                a rollout stage that does not exist
├── EnvelopeError
│   ├── EnvelopeFormatError         not a stored value of ours, or a damaged one
│   ├── UnsupportedVersionError     written by a later version of this library
│   └── PlaintextFoundError         plaintext where only ciphertext is allowed
├── DecryptionError                 tampered, wrong key bytes or wrong context
├── PlaintextTypeError              a value that is no encodable text
├── AlreadyEncryptedError           a plaintext that starts like a stored value
├── UnsupportedOperationError       an operation that ciphertext cannot take part in
├── ColumnDefinitionError           a column that cannot be encrypted as declared
├── RewriteError                    rows that could not be rewritten
└── IntegrationError
    ├── IntegrationNotFoundError        nothing is stored for this user and provider
    ├── ReauthorizationRequiredError    the user must connect again
    ├── RefreshFailedError              the provider or the database did not answer as it must
    └── RevocationFailedError           a token is still valid at the provider

A text names the column or variable, the key id, and what to do. It never carries a plaintext, a stored
value or a key, and neither does an attribute or a chained exception.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import DontWrapMixin


class SealchemyError(DontWrapMixin, Exception):
    """Base of all errors here.

    `DontWrapMixin` keeps SQLAlchemy from wrapping it in a `StatementError`, whose text prints the
    parameters of the whole row before they were encrypted.
    """


class KeyRingError(SealchemyError):
    """Something is wrong with the keys, not with a value."""


class MissingKeyError(KeyRingError):
    """No key where one is needed."""


class KeyFormatError(KeyRingError):
    """A key that is malformed, too short, weak, a placeholder, or present twice."""


class UnknownKeyError(KeyRingError):
    """A stored value names a key that the ring does not hold."""

    def __init__(self, message: str, key_id: str | None = None) -> None:
        """Keep `key_id`, the 12 hex digits that the stored value names."""
        super().__init__(message)
        self.key_id = key_id


class KeyRingNotAttachedError(KeyRingError):
    """An encrypted column is used on an engine that has no key ring."""


class RolloutError(KeyRingError, ValueError):
    """A rollout stage that does not exist."""


class EnvelopeError(SealchemyError):
    """A stored value does not have the form that it must have."""


class EnvelopeFormatError(EnvelopeError):
    """Not a stored value of this library, or a damaged one."""


class UnsupportedVersionError(EnvelopeError):
    """A stored value of a version that this release cannot read."""


class PlaintextFoundError(EnvelopeError):
    """Plaintext is stored where only ciphertext is allowed."""


class DecryptionError(SealchemyError):
    """A stored value did not authenticate.

    Tampered, encrypted under other key bytes, or written for another context: one error on purpose, so
    that an attacker learns nothing about which.
    """

    def __init__(self, message: str, context: str | None = None, key_id: str | None = None) -> None:
        """Keep the context that was asked for and the key id that the value names."""
        super().__init__(message)
        self.context = context
        self.key_id = key_id


class PlaintextTypeError(SealchemyError, TypeError):
    """A value that is not a `str`, or a `str` that has no UTF-8 form."""


class AlreadyEncryptedError(SealchemyError):
    """A plaintext that starts like a stored value: encrypting it would hide which one it is."""


class UnsupportedOperationError(SealchemyError, TypeError):
    """An operation that is refused here because it would fail silently or leak."""


class ColumnDefinitionError(SealchemyError):
    """A column that cannot be encrypted the way it is declared."""


class RewriteError(SealchemyError):
    """A rewriting ended with rows that it could not, or must not, change.

    `report` is the `sealchemy.rewrite.Report` of the run: it names rows by primary key, never by value.
    """

    def __init__(self, message: str, report: Any = None) -> None:
        """Keep the report of the run."""
        super().__init__(message)
        self.report = report


class IntegrationError(SealchemyError):
    """Base of the errors of `sealchemy.integrations`."""


class IntegrationNotFoundError(IntegrationError):
    """No integration is stored for this user and provider."""


class ReauthorizationRequiredError(IntegrationError):
    """The provider refuses the grant: the user must connect again."""


class RefreshFailedError(IntegrationError):
    """The provider gave no new token; what is stored is unchanged, try again later."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        """Keep the seconds that the provider asked to wait (its Retry-After), if it did."""
        super().__init__(message)
        self.retry_after = retry_after


class RevocationFailedError(IntegrationError):
    """The provider did not revoke a token; it is still stored, so that it can be tried again."""
