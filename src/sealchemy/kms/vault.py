"""The transit engine of Vault or OpenBao: `vault-transit://<mount>/<key>`, with VAULT_ADDR and VAULT_TOKEN."""

import os
from base64 import b64decode, b64encode
from typing import Any

import hvac

_SECONDS = 5


class VaultTransit:
    """A key of the transit engine. It binds nothing, since it could not wrap again what it has bound."""

    loggers = ("hvac", "urllib3")

    def __init__(self, client: hvac.Client, rest: str) -> None:
        """Take a client that has a token, and `<mount>/<key>`."""
        self._transit, self._rest = client.secrets.transit, rest
        self._mount, _, self._name = rest.rpartition("/")
        if not {"", ".", ".."}.isdisjoint([self._mount, *rest.split("/")]):
            message = "the URI is vault-transit://<mount>/<key>"
            raise ValueError(message)

    def wrap(self, secret: bytes, key_id: str) -> tuple[bytes, str]:
        """Return bytes wrapped under the latest version of the key."""
        del key_id
        plaintext = b64encode(secret).decode()
        answer = self._transit.encrypt_data(self._name, plaintext=plaintext, mount_point=self._mount)
        return _data(answer)["ciphertext"].encode(), self._rest

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """Return the bytes."""
        del key_id
        answer = self._transit.decrypt_data(self._name, ciphertext=wrapped.decode(), mount_point=self._mount)
        return b64decode(_data(answer)["plaintext"])

    def rewrap(self, wrapped: bytes, key_id: str, to: str) -> tuple[bytes, str] | None:
        """Wrap bytes again under the latest version of the same key, within the server."""
        del key_id
        if to != self._rest:
            return None
        answer = self._transit.rewrap_data(self._name, ciphertext=wrapped.decode(), mount_point=self._mount)
        return _data(answer)["ciphertext"].encode(), to


def connect(rest: str) -> VaultTransit:
    """Return the key at a path."""
    missing = [name for name in ("VAULT_ADDR", "VAULT_TOKEN") if not os.environ.get(name)]
    if missing:
        message = f"{' and '.join(missing)} must be set; the token of `vault login` in ~/.vault-token is not used"
        raise ValueError(message)
    if not os.environ["VAULT_TOKEN"].isprintable() or " " in os.environ["VAULT_TOKEN"]:
        message = "VAULT_TOKEN has a newline or a blank, which no token has"
        raise ValueError(message)
    client = hvac.Client(
        os.environ["VAULT_ADDR"],
        os.environ["VAULT_TOKEN"],
        namespace=os.environ.get("VAULT_NAMESPACE"),
        timeout=_SECONDS,
        allow_redirects=False,  # to another host, it would take the token along
    )
    return VaultTransit(client, rest)


def _data(answer: Any) -> Any:
    if not isinstance(answer, dict):
        message = (
            "the answer is not that of Vault: a page of a proxy, or a redirect to another host, which is not followed;"
            " set VAULT_ADDR to the active server"
        )
        raise TypeError(message)
    return answer["data"]
