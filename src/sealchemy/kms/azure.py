"""Azure Key Vault and Managed HSM: `azure-kv://<host>/keys/<name>/<version>`, with the default credential."""

from typing import Any

from azure.core.credentials import TokenCredential
from azure.identity import DefaultAzureCredential
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm

_LIMITS = {"connection_timeout": 3, "read_timeout": 5, "retry_total": 2, "permit_redirects": False}
_SLASHES = 3  # host/keys/name/version
_SECONDS = 8  # for a call with its retries; each operation makes two, of which the first gets the public key


class AzureKeyVault:
    """An RSA key of Azure, with RSA-OAEP-256, which binds what it wraps to nothing: the seal does that."""

    loggers = ("azure", "urllib3", "msal")

    def __init__(self, client: CryptographyClient) -> None:
        """Take the client for one version of a key."""
        self._client = client

    def wrap(self, secret: bytes, key_id: str) -> tuple[bytes, str]:
        """Return bytes wrapped, and the id of the key with its version."""
        del key_id
        answer = self._client.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret, timeout=_SECONDS)
        rest = str(answer.key_id).removeprefix("https://")
        if rest.count("/") < _SLASHES:
            message = "Azure did not name the version of its key: put that into the URI, or allow keys/get"
            raise ValueError(message)
        return answer.encrypted_key, rest

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """Return the bytes."""
        del key_id
        return self._client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped, timeout=_SECONDS).key


def connect(rest: str) -> AzureKeyVault:
    """Return the key with an id."""
    return AzureKeyVault(client_for(rest, DefaultAzureCredential()))


def client_for(rest: str, credential: TokenCredential, **options: Any) -> CryptographyClient:
    """Return a client with limits."""
    return CryptographyClient(f"https://{rest}", credential, **_LIMITS, **options)
