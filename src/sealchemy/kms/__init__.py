"""Keys in a key management service (KMS): `open_kms`, which `KeyRing.from_env` uses, and the protocol of a provider."""

from sealchemy._values.kms.services import Kms, OpenKms, open_kms

__all__ = ["Kms", "OpenKms", "open_kms"]
