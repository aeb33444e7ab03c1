"""Keys in Azure Key Vault: its client against a stand-in on loopback, with TLS and its challenge."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.transport import RequestsTransport

from sealchemy import Key, KeyRing, KmsError
from sealchemy._values.kms.wrapped_key import parse
from sealchemy.kms.azure import AzureKeyVault, client_for
from tests.support import kms_servers
from tests.support.kms_servers import AZURE_HOST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sealchemy.kms import OpenKms

KEY = Key.generate()
URI = f"azure-kv://{AZURE_HOST}/keys/app/v1"


class Credential:
    """A token that is there already."""

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert scopes == ("https://vault.azure.net/.default",)
        return AccessToken("token", int(time.time()) + 3600)


class Loopback(RequestsTransport):
    """Sends what is meant for Azure to a server on loopback."""

    def __init__(self, url: str, authority: str) -> None:
        super().__init__(connection_verify=authority)
        self._url = url

    def send(self, request: Any, **options: Any) -> Any:
        meant = request.url
        request.url = meant.replace(f"https://{AZURE_HOST}", self._url)
        response = super().send(request, **options)
        request.url = meant  # against which the challenge is verified
        return response


def open_at(url: str, authority: str) -> OpenKms:
    def open_kms(uri: str) -> AzureKeyVault:
        return AzureKeyVault(client_for(uri.partition("://")[2], Credential(), transport=Loopback(url, authority)))

    return open_kms


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenKms]:
    authority, context = kms_servers.certificate()
    file: Path = tmp_path_factory.mktemp("azure") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    with kms_servers.serve(kms_servers.azure(), context) as running:
        yield open_at(running.url, str(file))


def test_a_key_is_wrapped_and_used(server: OpenKms) -> None:
    text = KEY.wrap(URI, open_kms=server)
    assert parse(text).uri == URI
    ring = KeyRing.from_env("T", {"T_KEY": text}, open_kms=server)
    assert ring.decrypt(ring.encrypt("ya29.token", "a.b"), "a.b") == "ya29.token"


def test_the_version_of_the_key_is_kept(server: OpenKms) -> None:
    text = KEY.wrap(f"azure-kv://{AZURE_HOST}/keys/app", open_kms=server)
    assert parse(text).uri == f"azure-kv://{AZURE_HOST}/keys/app/v1"
    assert Key.parse(text, open_kms=server) == KEY


def test_the_seal_binds_what_azure_does_not(server: OpenKms) -> None:
    found = parse(KEY.wrap(URI, open_kms=server))
    with pytest.raises(KmsError, match="put together"):
        Key.parse(str(found._replace(key_id=Key.generate().id)), open_kms=server)
    other = parse(Key.generate().wrap(URI, open_kms=server))
    with pytest.raises(KmsError, match="put together"):
        Key.parse(str(found._replace(wrapped=other.wrapped)), open_kms=server)


def test_wrong_ciphertext(server: OpenKms) -> None:
    found = parse(KEY.wrap(URI, open_kms=server))
    with pytest.raises(KmsError, match=HttpResponseError.__name__):
        Key.parse(str(found._replace(wrapped=bytes(256))), open_kms=server)
