"""Google Cloud KMS: `gcp-kms://projects/.../locations/.../keyRings/.../cryptoKeys/...`, with default credentials.

It speaks REST with google-auth alone: the package google-cloud-kms brings gRPC, and logs what it sends.
"""

from base64 import b64decode, b64encode
from typing import Any

import google.auth
from google.auth.transport.requests import AuthorizedSession
from requests.adapters import HTTPAdapter
from urllib3 import Retry

_SCOPE = "https://www.googleapis.com/auth/cloudkms"
_SECONDS = 5
_RETRY = Retry(
    2,
    redirect=0,
    allowed_methods=None,
    status_forcelist=(429, 500, 502, 503, 504),
    backoff_factor=0.5,
    respect_retry_after_header=False,
    raise_on_status=False,
)


class GoogleKms:
    """A symmetric key of Google Cloud KMS. The key id is the additional authenticated data."""

    loggers = ("google", "urllib3")

    def __init__(self, session: Any, name: str, endpoint: str = "https://cloudkms.googleapis.com") -> None:
        """Take a session that authenticates itself, and the name of a key without a version."""
        self._session, self._name, self._url = session, name, f"{endpoint}/v1/{name}"

    def wrap(self, secret: bytes, key_id: str) -> tuple[bytes, str]:
        """Return bytes wrapped, and the name of the key: its version is in what Google returns."""
        wrapped = self._call("encrypt", "ciphertext", plaintext=secret, additionalAuthenticatedData=key_id.encode())
        return wrapped, self._name

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """Return the bytes."""
        return self._call("decrypt", "plaintext", ciphertext=wrapped, additionalAuthenticatedData=key_id.encode())

    def _call(self, verb: str, wanted: str, **fields: bytes) -> bytes:
        body = {name: b64encode(value).decode() for name, value in fields.items()}
        response = self._session.post(f"{self._url}:{verb}", json=body, timeout=_SECONDS, allow_redirects=False)
        if response.status_code != 200:  # noqa: PLR2004 - OK
            message = f"HTTP {response.status_code}: {response.text}"
            raise ValueError(message)
        return b64decode(response.json()[wanted])


def connect(rest: str) -> GoogleKms:
    """Return the key with a name."""
    credentials, _ = google.auth.default(scopes=[_SCOPE])
    return GoogleKms(session_with(credentials), rest)


def session_with(credentials: Any) -> AuthorizedSession:
    """Return a session with limits; a server that asks for a long rest is not asked again."""
    session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=_RETRY))
    return session
