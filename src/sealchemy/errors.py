"""Every error that sealchemy raises.

SealchemyError
├── KeyRingError
│   ├── MissingKeyError             a required key is not configured
│   ├── KeyFormatError              a key is malformed, weak, or in the ring twice
│   ├── UnknownKeyError             a value was encrypted with a key that is not in the ring
│   ├── KeyRingNotAttachedError     an encrypted column on an engine without a key ring
│   ├── KmsError                    a key management service did not open, or wrap, a key
│   └── RolloutError                an unknown rollout stage
├── EnvelopeError
│   ├── EnvelopeFormatError         not an encrypted value, or a damaged one
│   ├── UnsupportedVersionError     written by a later version of this library
│   └── PlaintextFoundError         plaintext where only ciphertext is allowed
├── DecryptionError                 tampered with, wrong key bytes or wrong context
├── PlaintextTypeError              the value is not text, or has no UTF-8 form
├── AlreadyEncryptedError           a plaintext that looks like an encrypted value
├── UnsupportedOperationError       an operation that cannot work on ciphertext
├── ColumnDefinitionError           a column that cannot be encrypted as declared
├── RewriteError                    rows that could not be rewritten
└── IntegrationError
    ├── IntegrationNotFoundError        the user has not connected this provider
    ├── ReauthorizationRequiredError    the user must connect again
    ├── RefreshFailedError              no new token, for a reason that may pass
    └── RevocationFailedError           a token is still valid at the provider

Messages name the column or variable, the key id, and what to do. No message, attribute or chained exception
carries a plaintext, an encrypted value or a key.
"""

from typing import Any as _Any

from sqlalchemy.exc import DontWrapMixin as _DontWrapMixin


class SealchemyError(_DontWrapMixin, Exception):
    """Base of all errors of this library.

    `DontWrapMixin` keeps SQLAlchemy from wrapping it in a `StatementError`, whose text prints the unencrypted
    parameters of the whole row.
    """


class KeyRingError(SealchemyError):
    """Something is wrong with the keys, not with a value."""


class MissingKeyError(KeyRingError):
    """A required key is not configured."""


class KeyFormatError(KeyRingError):
    """A key is malformed, too short, weak, a placeholder, or in the ring twice."""


class UnknownKeyError(KeyRingError):
    """A value was encrypted with a key that is not in the ring.

    Attributes:
        key_id: the 12 hex digits that the value names.
    """

    def __init__(self, message: str, key_id: str | None = None) -> None:
        super().__init__(message)
        self.key_id = key_id


class KeyRingNotAttachedError(KeyRingError):
    """An encrypted column is used on an engine that has no key ring."""


class KmsError(KeyRingError):
    """A key management service did not open, or wrap, a key."""


class RolloutError(KeyRingError, ValueError):
    """An unknown rollout stage."""


class EnvelopeError(SealchemyError):
    """A stored value does not have the required form."""


class EnvelopeFormatError(EnvelopeError):
    """Not an encrypted value, or a damaged one."""


class UnsupportedVersionError(EnvelopeError):
    """An encrypted value of a version that this release cannot read."""


class PlaintextFoundError(EnvelopeError):
    """Plaintext is stored where only ciphertext is allowed."""


class DecryptionError(SealchemyError):
    """An encrypted value did not authenticate.

    Tampered with, encrypted with other key bytes, or written for another context: one error on purpose, so that
    an attacker does not learn which.

    Attributes:
        context: the context that the value was read for.
        key_id: the key id that the value names.
    """

    def __init__(self, message: str, context: str | None = None, key_id: str | None = None) -> None:
        super().__init__(message)
        self.context = context
        self.key_id = key_id


class PlaintextTypeError(SealchemyError, TypeError):
    """A value to encrypt is not a `str`, or is one without a UTF-8 form."""


class AlreadyEncryptedError(SealchemyError):
    """A plaintext starts like an encrypted value, so the two could not be told apart later."""


class UnsupportedOperationError(SealchemyError, TypeError):
    """An operation that would fail silently or leak."""


class ColumnDefinitionError(SealchemyError):
    """A column cannot be encrypted the way it is declared."""


class RewriteError(SealchemyError):
    """A rewrite ended with rows that it could not, or must not, change.

    Attributes:
        report: the `sealchemy.rewrite.Report` of the run; it names rows by primary key, never by value.
    """

    def __init__(self, message: str, report: _Any = None) -> None:
        super().__init__(message)
        self.report = report


class IntegrationError(SealchemyError):
    """Base of the errors of `sealchemy.integrations`.

    Attributes:
        code: what the provider calls the problem, such as `invalid_grant` or `AADSTS70008`, in at most 64 characters:
            `unrecognized_error` if it says nothing that is known to be no secret; None if it was not asked.
    """

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class IntegrationNotFoundError(IntegrationError):
    """The user has not connected this provider."""


class ReauthorizationRequiredError(IntegrationError):
    """The provider refuses the grant: the user must connect again."""


class RefreshFailedError(IntegrationError):
    """The provider issued no new token; the stored ones are unchanged. Try again later.

    Attributes:
        retry_after: the seconds until the provider is asked again, where that is known: it said so (its Retry-After
            header), or it failed several times.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class RevocationFailedError(IntegrationError):
    """The provider did not revoke a token; it is still stored, so you can try again."""


for _error in [item for item in vars().values() if isinstance(item, type) and issubclass(item, SealchemyError)]:
    _error.__module__ = "sealchemy"
