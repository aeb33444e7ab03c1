"""Keys in Google Cloud KMS: its client against a stand-in on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.auth.credentials import AnonymousCredentials

from sealchemy import Key, KeyRing, KmsError
from sealchemy._values.kms.wrapped_key import parse
from sealchemy.kms.google import GoogleKms, session_with
from tests.support import kms_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sealchemy.kms import OpenKms
    from tests.support.kms_servers import Running

KEY = Key.generate()
URI = "gcp-kms://projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k"


def open_at(url: str) -> OpenKms:
    session = session_with(AnonymousCredentials())
    return lambda uri: GoogleKms(session, uri.partition("://")[2], url)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with kms_servers.serve(kms_servers.google()) as running:
        yield running


def test_a_key_is_wrapped_and_used(server: Running) -> None:
    text = KEY.wrap(URI, open_kms=open_at(server.url))
    assert parse(text).uri == URI
    ring = KeyRing.from_env("T", {"T_KEY": text}, open_kms=open_at(server.url))
    assert ring.decrypt(ring.encrypt("ya29.token", "a.b"), "a.b") == "ya29.token"


def test_the_key_id_is_authenticated(server: Running) -> None:
    found = parse(KEY.wrap(URI, open_kms=open_at(server.url)))
    with pytest.raises(KmsError, match=r"HTTP 400: .*Decryption failed"):
        Key.parse(str(found._replace(key_id=Key.generate().id)), open_kms=open_at(server.url))


def test_the_default_credentials_are_used(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from sealchemy.kms import google

    asked: list[Any] = []

    def default(scopes: Any) -> Any:
        asked.append(scopes)
        return AnonymousCredentials(), None

    monkeypatch.setattr(google.google.auth, "default", default)
    text = KEY.wrap(URI, open_kms=open_at(server.url))
    kms = google.connect(URI.partition("://")[2])
    kms._url = f"{server.url}/v1/{URI.partition('://')[2]}"
    assert Key.parse(text, open_kms=lambda _: kms) == KEY
    assert asked == [["https://www.googleapis.com/auth/cloudkms"]]
