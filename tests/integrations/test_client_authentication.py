"""How a client proves that it is the one, at a server that checks it."""

from __future__ import annotations

import base64
import json
import pickle
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from joserfc.jwk import ECKey, OctKey, RSAKey

from sealchemy import IntegrationError, ReauthorizationRequiredError, RefreshFailedError
from sealchemy.integrations import OAuthClient
from tests.support import provider as authlib_server
from tests.support.authority import Authority
from tests.support.leaks import assert_silent
from tests.support.provider import CLIENT_ID, CLIENT_SECRET, Answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.provider import Provider

REFRESH = "1//SENTINEL-refresh-token-of-this-test"
ODD_SECRET = "client:secret%41+/SENTINEL ü&="
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
}


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


RSA = pem(KEYS["RS256"])


def refreshed(provider: Provider, client: OAuthClient) -> str:
    """Refresh and revoke, and return the access token of the time between."""
    grant = client.refresh(str(provider.grant().refresh_token))
    client.revoke(str(grant.refresh_token))
    assert next(token for token in provider.tokens if token.access_token == grant.access_token).revoked
    return str(grant.access_token)


def test_basic_is_form_encoded_and_raw_is_not(oauth_provider: Provider) -> None:
    sent = []
    with authlib_server.running() as provider:
        provider.answers += [Answer(200, {"access_token": "a"})] * 2
        for method in ("client_secret_basic", "client_secret_basic_raw"):
            client = provider.client(client_id="a b:c", client_secret="s:%41", auth_method=method)
            client._requests.form.authentication.add("https://x", {}, headers := {})
            sent.append(base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode())
            client.refresh("1//x")
    assert sent == ["a%20b%3Ac:s%3A%2541", "a b:c:s:%41"]


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
def test_a_secret_with_special_characters_is_sent_as_the_server_reads_it(oauth_provider: Provider, method: str) -> None:
    oauth_provider.client_secret = ODD_SECRET
    assert refreshed(oauth_provider, oauth_provider.client(client_secret=ODD_SECRET, auth_method=method))


def test_a_refused_client_is_told_the_switch_and_nothing_is_repeated(oauth_provider: Provider) -> None:
    oauth_provider.client_secret = secret = "client:secret-SENTINEL%41"
    client = oauth_provider.client(client_secret=secret, auth_method="client_secret_basic_raw")
    with pytest.raises(RefreshFailedError, match="auth_method='client_secret_basic'") as caught:
        client.refresh(str(oauth_provider.grant().refresh_token))
    assert_silent(caught.value, oauth_provider.client_secret)
    oauth_provider.answers.append(Answer(401, {"error": "invalid_client"}))
    with pytest.raises(RefreshFailedError, match="'client_secret_basic_raw' or 'client_secret_post'"):
        oauth_provider.client(client_secret=secret).refresh(str(oauth_provider.grant().refresh_token))
    oauth_provider.answers.append(Answer(401, {"error": "invalid_client"}))
    with pytest.raises(RefreshFailedError, match=r"auth_method='client_secret_post'$"):  # encoding changes nothing
        oauth_provider.client(client_secret="plain").refresh(str(oauth_provider.grant().refresh_token))
    assert oauth_provider.counts["/token"] == 3


@pytest.mark.parametrize("algorithm", KEYS)
def test_private_key_jwt(oauth_provider: Provider, algorithm: str) -> None:
    kind = RSAKey if algorithm == "RS256" else ECKey
    oauth_provider.auth_methods = {"client_assertion_jwt"}
    oauth_provider.client_key = kind.import_key(pem(KEYS[algorithm]))
    how: dict[str, Any] = {"client_secret": None, "auth_method": "private_key_jwt"}
    client = oauth_provider.client(**how, private_key=pem(KEYS[algorithm]), assertion_headers={"kid": "k1"})
    assert refreshed(oauth_provider, client)
    assert len(oauth_provider.assertions) == 2

    assert client.request_client_credentials().access_token
    other = oauth_provider.client(**how, private_key=pem(KEYS["RS256" if algorithm == "ES256" else "ES256"]))
    with pytest.raises(RefreshFailedError, match="invalid_client") as caught:
        other.refresh(str(oauth_provider.grant().refresh_token))
    assert_silent(caught.value, *pem(KEYS[algorithm]).splitlines()[1:3])


def test_client_secret_jwt(oauth_provider: Provider) -> None:
    secret = f"{CLIENT_SECRET}-which-is-long-enough"
    oauth_provider.auth_methods, oauth_provider.client_key = {"client_assertion_jwt"}, OctKey.import_key(secret)
    assert refreshed(oauth_provider, oauth_provider.client(client_secret=secret, auth_method="client_secret_jwt"))
    elsewhere = oauth_provider.client(
        client_secret=secret, auth_method="client_secret_jwt", assertion_audience="https://elsewhere.example"
    )
    with pytest.raises(RefreshFailedError, match="invalid_client"):
        elsewhere.refresh(str(oauth_provider.grant().refresh_token))


def test_an_assertion_is_short_lived_and_names_its_key(oauth_provider: Provider) -> None:
    client = oauth_provider.client(
        client_secret=None,
        auth_method="private_key_jwt",
        private_key=pem(KEYS["RS256"]),
        assertion_headers={"kid": "k1", "alg": "PS256"},
    )
    fields: dict[str, str] = {}
    client._requests.form.authentication.add("https://provider.example/token", fields, {})
    header, claims = (
        json.loads(base64.urlsafe_b64decode(part + "==")) for part in fields["client_assertion"].split(".")[:2]
    )
    assert (header["kid"], header["alg"]) == ("k1", "PS256")
    assert (claims["iss"], claims["sub"], claims["aud"]) == (CLIENT_ID, CLIENT_ID, "https://provider.example/token")
    assert claims["exp"] - claims["iat"] == 60


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def strict_provider(authority: Authority) -> Iterator[Provider]:
    with authlib_server.running(authority.context(ssl.CERT_REQUIRED)) as found:
        found.auth_methods = {"tls_client_auth"}
        yield found


@pytest.mark.parametrize("method", ["tls_client_auth", "self_signed_tls_client_auth"])
def test_a_client_certificate(strict_provider: Provider, authority: Authority, method: str) -> None:
    files = authority.files("client.example")
    how: dict[str, Any] = {"client_secret": None, "auth_method": method, "verify": authority.file}
    assert refreshed(strict_provider, strict_provider.client(**how, client_certificate=files))
    assert strict_provider.certificates

    together = authority.folder / "both.pem"
    together.write_text("".join((authority.folder / file).read_text() for file in files))
    assert refreshed(strict_provider, strict_provider.client(**how, client_certificate=together))


def test_without_its_certificate_a_client_is_refused(strict_provider: Provider, authority: Authority) -> None:
    client = strict_provider.client(verify=authority.file)
    with pytest.raises(RefreshFailedError, match=r"certificate of this client|ended the TLS handshake") as caught:
        client.refresh(REFRESH)
    assert_silent(caught.value, REFRESH, CLIENT_SECRET)


def test_an_authority_of_ones_own_replaces_the_others(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with authlib_server.running(authority.context(ssl.CERT_NONE)) as provider:
        assert refreshed(provider, provider.client(verify=authority.file))
        for more in ({}, {"verify": Authority(authority.folder).file}):  # it overwrites the file
            with pytest.raises(RefreshFailedError, match="no certificate that this machine trusts"):
                provider.client(**more).refresh("1//x")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.folder / "absent.pem"))
        right = str(authority.folder / "right.pem")
        authority.authority.cert_pem.write_to_path(right)
        assert refreshed(provider, provider.client(verify=right))


def test_a_netrc_file_takes_no_part(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    (authority.folder / "netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(authority.folder / "netrc"))
    with authlib_server.running(authority.context(ssl.CERT_NONE)) as provider:
        assert refreshed(provider, provider.client(verify=authority.file))


def test_a_client_can_be_sent_to_another_process() -> None:
    common: dict[str, Any] = {"client_id": "id", "token_endpoint": "https://provider.example/token"}
    for how in (
        {"client_secret": CLIENT_SECRET, "headers": {"X-Key": "SENTINEL-of-a-header"}},
        {"client_secret": None, "auth_method": "private_key_jwt", "private_key": pem(KEYS["ES256"])},
    ):
        client = OAuthClient(**common, **how)
        copied = pickle.loads(pickle.dumps(client))  # noqa: S301 - made here
        assert repr(copied) == repr(client)
        copied._requests.form.authentication.add("https://x", fields := {}, {})
        assert "SENTINEL" not in f"{client._requests!r}{fields!r}"


def test_generators_name_what_they_name(oauth_provider: Provider) -> None:
    oauth_provider.answers.append(Answer(200, {"access_token": "a", "user": {"access_token": "b", "team": "t"}}))
    client = oauth_provider.client(
        details=(name for name in ["team"]), response_path=(name for name in ["user"]), use_pkce=False
    )
    grant = client.exchange_code("code", "https://app.example/callback")
    assert (grant.access_token, grant.details) == ("b", {"team": "t"})


def encrypted_pem() -> str:
    options = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password-SENTINEL"))
    return str(KEYS["RS256"].private_bytes(*options).decode())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"auth_method": "private_key_jwt"}, "needs a private_key"),
        ({"private_key": pem(KEYS["RS256"])}, "is for auth_method private_key_jwt, and this"),
        ({"auth_method": "private_key_jwt", "private_key": "-----BEGIN SENTINEL-key"}, "private_key cannot be read"),
        ({"auth_method": "private_key_jwt", "private_key": encrypted_pem()}, "private_key cannot be read"),
        ({"auth_method": "private_key_jwt", "private_key": pem(Ed25519PrivateKey.generate())}, "cannot be read"),
        (
            {
                "auth_method": "private_key_jwt",
                "private_key": pem(KEYS["RS256"]),
                "assertion_headers": {"alg": "ES256"},
            },
            "cannot sign with ES256",
        ),
        ({"auth_method": "client_secret_jwt", "assertion_headers": {"alg": "none"}}, "cannot sign with none"),
        (
            {
                "auth_method": "private_key_jwt",
                "private_key": pem(KEYS["RS256"]),
                "assertion_headers": {"alg": "HS256"},
            },
            "cannot sign with HS256",
        ),
        ({"auth_method": ""}, "auth_method must be one of"),
        ({"auth_method": []}, "auth_method must be one of"),
        ({"verify": ""}, "always verified"),
        ({"client_certificate": 5}, "client_certificate takes a PEM file"),
        ({"revocation": {"method": []}}, "revocation takes a dictionary"),
        ({"details": None}, "details takes names"),
        ({"headers": {"X-Key": "client-secret-SENTINEL\n"}}, "each in one line"),
        ({"auth_method": "client_secret_post", "client_secret": None}, "needs a client_secret"),
        ({"auth_method": "tls_client_auth"}, "needs a client_certificate"),
        ({"auth_method": "none", "token_endpoint_auth_method": "none"}, "pass one"),
        ({"client_certificate": "/absent/SENTINEL.pem"}, "client_certificate takes a PEM file"),
        ({"client_certificate": ("a", "b", "c")}, "client_certificate takes a PEM file"),
        ({"verify": False}, "always verified"),
        ({"verify": "/absent/SENTINEL.pem"}, "must exist"),
        ({"body": "xml"}, "body must be one of form, json"),
        ({"refresh_grant_type": "password"}, "refresh_grant_type must be one of"),
        ({"headers": {"A": 1}}, "headers takes a dictionary of text"),
        ({"details": "instance_url"}, "details takes names"),
        ({"revocation": {"method": "PUT"}}, "revocation takes a dictionary"),
        ({"revocation": {"unknown": 1}}, "revocation takes a dictionary"),
        ({"on_grant": "x"}, "on_grant is str"),
        ({"requests_per_second": 0}, "requests_per_second is 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(given: dict[str, Any], text: str) -> None:
    common: dict[str, Any] = {"client_id": "id", "client_secret": CLIENT_SECRET}
    with pytest.raises(IntegrationError, match=text) as caught:
        OAuthClient(**{**common, "token_endpoint": "https://provider.example/token", **given})
    secrets = [str(value) for value in (given.get("private_key"), CLIENT_SECRET) if value]
    assert_silent(caught.value, *(line for secret in secrets for line in secret.splitlines() if len(line) > 20))


def test_a_grant_is_dead_and_no_key_shows_with_a_jwt_too(oauth_provider: Provider) -> None:
    oauth_provider.auth_methods = {"client_assertion_jwt"}
    oauth_provider.client_key = RSAKey.import_key(pem(KEYS["RS256"]))
    client = oauth_provider.client(client_secret=None, auth_method="private_key_jwt", private_key=pem(KEYS["RS256"]))
    with pytest.raises(ReauthorizationRequiredError) as caught:
        client.refresh(REFRESH)
    assert_silent(caught.value, REFRESH, *pem(KEYS["RS256"]).splitlines()[1:3])
    assert "SENTINEL" not in f"{client!r}{vars(client)}"
