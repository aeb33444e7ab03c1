"""How a request proves which application it is from."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from sealchemy import IntegrationError, SecretString
from sealchemy._values.secret import hide

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523, section 2.2
_ASSERTION_SECONDS = 60
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}  # RFC 7518, section 3.4
_NEED_SECRET = {"client_secret_basic", "client_secret_basic_raw", "client_secret_post", "client_secret_jwt"}
_NEED_CERTIFICATE = {"tls_client_auth", "self_signed_tls_client_auth"}
METHODS = (*sorted(_NEED_SECRET), "private_key_jwt", *sorted(_NEED_CERTIFICATE), "none")
"""What `OAuthClient(auth_method=...)` takes: RFC 7591 (section 2), RFC 8705 (section 2.1.1), and one for servers that
do not encode."""


class ClientAuthentication:
    """The credentials of an application, and one way to show them to a token or revocation endpoint."""

    def __init__(
        self,
        client_id: str,
        client_secret: str | None,
        method: str | None,
        *,
        private_key: str | None,
        has_certificate: bool,
        assertion_headers: Mapping[str, str],
        assertion_audience: str | None,
    ) -> None:
        """Check that the credentials are there; raises `IntegrationError` if not."""
        self.client_id, self._secret, self._key = client_id, client_secret, private_key
        self._audience, self._headers = assertion_audience, dict(assertion_headers)
        self.method = ("client_secret_basic" if client_secret else "none") if method is None else method
        problem = self._find_problem(has_certificate=has_certificate)
        if problem is not None:
            raise IntegrationError(problem)
        if self.method.endswith("_jwt"):
            self._headers.setdefault("alg", "HS256" if private_key is None else _algorithm(_read_key(private_key)))
            self._require_signature()

    def _find_problem(self, *, has_certificate: bool) -> str | None:
        method, secret = self.method, self._secret
        if not isinstance(self.client_id, str) or not self.client_id:
            return "client_id is empty; the provider gave you one when you registered the application"
        if not isinstance(secret, str | None) or not isinstance(self._key, str | None):
            return f"{'client_secret' if self._key is None else 'private_key'} is not text"
        if not isinstance(method, str) or method not in METHODS:
            return f"auth_method must be one of {', '.join(METHODS)}"
        if method in _NEED_SECRET and not secret:
            return f"auth_method {method} needs a client_secret"
        if method == "private_key_jwt" and self._key is None:
            return "auth_method private_key_jwt needs a private_key: the text of a PEM file"
        if method != "private_key_jwt" and self._key is not None:
            return f"private_key is for auth_method private_key_jwt, and this one is {method}"
        if method in _NEED_CERTIFICATE and not has_certificate:
            return f"auth_method {method} needs a client_certificate"
        if method == "client_secret_basic_raw" and not f"{self.client_id}{secret!s}".isascii():
            return f"the client's id or secret is not ASCII, which auth_method {method} cannot send"
        return None

    def _require_signature(self) -> None:
        problem, kinds = "not one of its algorithms", ("HS",) if self._key is None else ("RS", "PS", "ES")
        if self._headers["alg"].startswith(kinds):  # not `none`
            try:
                self._assertion("https://example.com")
            except Exception as error:  # noqa: BLE001 - its text may quote the key
                problem = type(error).__name__
            else:
                return
        what = "private_key" if self._key is not None else "client_secret"
        raise IntegrationError(f"{what} cannot sign with {self._headers['alg']} ({problem}); see assertion_headers")

    def secrets(self) -> list[str]:
        """Return what must not be shown."""
        return [item for item in (self._secret, self._key) if item]

    def advice(self) -> str:
        """Return what may help where the provider does not know the application."""
        others = {
            "client_secret_basic": "'client_secret_post'",
            "client_secret_basic_raw": "'client_secret_basic'",
            "client_secret_post": "'client_secret_basic'",
        }
        both = f"{self.client_id}{self._secret}"
        if self.method == "client_secret_basic" and quote(both, safe="") != both:  # encoding changes it
            return "; some providers need auth_method='client_secret_basic_raw' or 'client_secret_post'"
        return f"; some providers need auth_method={others[self.method]}" if self.method in others else ""

    def add(self, endpoint: str, fields: dict[str, Any], headers: dict[str, str]) -> None:
        """Add the credentials to the fields, or to the headers, of a request."""
        name, secret = self.client_id, self._secret or ""
        if self.method == "client_secret_basic":
            # Encoded, as RFC 6749 says (section 2.3.1): a secret with `:` or `%` is another one otherwise.
            headers["Authorization"] = _basic(quote(name, safe=""), quote(secret, safe=""))
        elif self.method == "client_secret_basic_raw":
            headers["Authorization"] = _basic(name, secret)
        elif self.method.endswith("_jwt"):
            fields["client_assertion_type"] = ASSERTION_TYPE
            fields["client_assertion"] = hide(self._assertion(self._audience or endpoint))
        else:
            fields |= {"client_id": name} | ({"client_secret": secret} if self.method == "client_secret_post" else {})

    def _assertion(self, audience: str) -> str:
        """Return a JWT that says who asks (RFC 7523, section 3)."""
        now, client_id, algorithm = int(time.time()), self.client_id, self._headers["alg"]
        claims = {"iss": client_id, "sub": client_id, "aud": audience, "jti": secrets.token_urlsafe(24)}
        times = {"iat": now, "exp": now + _ASSERTION_SECONDS}
        key = OctKey.import_key(str(self._secret)) if self._key is None else _read_key(self._key)
        return jwt.encode(self._headers, claims | times, key, algorithms=[algorithm])


def _basic(name: str, secret: str) -> str:
    """Return the header of RFC 7617."""
    header: SecretString = hide(f"Basic {base64.b64encode(f'{name}:{secret}'.encode()).decode()}")
    return header


def _read_key(private_key: str) -> RSAKey | ECKey:
    """Return the key in a PEM; raises `IntegrationError` if there is none."""
    for kind in (RSAKey, ECKey):
        try:
            key = kind.import_key(private_key)
        except Exception:  # noqa: BLE001, S112 - its text may quote the key
            continue
        if key.is_private:
            return key
    raise IntegrationError(
        "private_key cannot be read; it takes the text of a PEM file without a password, of RSA, P-256, P-384 or P-521"
    )


def _algorithm(key: RSAKey | ECKey) -> str:
    """Return the algorithm that fits a key (RFC 7518, section 3.1)."""
    return _CURVES.get(key.curve_name, "ES256") if isinstance(key, ECKey) else "RS256"
