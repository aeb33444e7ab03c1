"""npm's `oidc-provider`, an OpenID Connect server that is not ours: installed in a temporary folder, and run there."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
import requests

from sealchemy.integrations import OAuthClient

from .provider import CLIENT_ID, CLIENT_SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLBACK = "http://127.0.0.1/callback"
WHAT_TO_INSTALL = "needs node and npm, which installs oidc-provider (Debian: apt-get install nodejs npm)"
_SERVER = Path(__file__).with_suffix(".mjs")
_SECONDS = 60


def is_available() -> bool:
    """Return whether this machine can run it."""
    return all(_programs())


def _programs() -> tuple[str | None, str | None]:
    return shutil.which("node"), shutil.which("npm")


class OidcProvider:
    """The running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self, **options: Any) -> OAuthClient:
        """Return a client with the registered credentials."""
        return OAuthClient(
            CLIENT_ID,
            CLIENT_SECRET,
            f"{self.url}/token",
            authorization_endpoint=f"{self.url}/auth",
            revocation_endpoint=f"{self.url}/token/revocation",
            scope="openid offline_access",
            authorization_parameters={"prompt": "consent"},  # without it, there is no refresh token
            **options,
        )

    def counts(self) -> dict[str, int]:
        """Return how often the token endpoint answered, by grant type and HTTP status."""
        return requests.get(f"{self.url}/counts", timeout=_SECONDS).json()

    def accepts(self, access_token: str) -> bool:
        """Return whether a call with this token is answered."""
        headers = {"Authorization": f"Bearer {access_token}"}
        return requests.get(f"{self.url}/me", headers=headers, timeout=_SECONDS).status_code == 200


def consent(address: str, user: str = "u1") -> dict[str, str]:
    """Log in and consent as a user does in a browser; return the parameters that the provider sends back."""
    with requests.Session() as browser:
        answer = browser.get(address, allow_redirects=False, timeout=_SECONDS)
        while not (target := answer.headers.get("Location", "")).startswith(CALLBACK):
            if target:
                answer = browser.get(urljoin(answer.url, target), allow_redirects=False, timeout=_SECONDS)
            else:  # a page with a form
                form = {"prompt": "login", "login": user, "password": "x"} if "password" in answer.text else {}
                form = form or {"prompt": "consent"}
                answer = browser.post(answer.url, data=form, allow_redirects=False, timeout=_SECONDS)
    return {name: found[0] for name, found in parse_qs(urlsplit(target).query).items()}


@contextmanager
def running(keys: Path | None = None) -> Iterator[OidcProvider]:
    """Run the server during the `with` block, or skip the test where there is no node.

    Where there is, a failed installation is a failure: the test would not be missed otherwise.

    Args:
        keys: a folder with the certificates of the server, and the public keys of clients; then it speaks TLS.
    """
    node, npm = _programs()
    if not node or not npm:  # left to the machine, as npm would ask one more registry for the server
        pytest.skip(f"not every machine has node, so these tests are optional. {WHAT_TO_INSTALL}")
    with tempfile.TemporaryDirectory(prefix="sealchemy-oidc-") as folder:
        shutil.copy(_SERVER, folder)
        install = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "oidc-provider@^9"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"npm cannot install oidc-provider:\n{done.stderr}")
        server = subprocess.Popen(
            [node, _SERVER.name, *([str(keys)] if keys else [])],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout
            url = server.stdout.readline().strip()
            assert url.startswith(("http://127.0.0.1:", "https://localhost:")), "oidc-provider did not start"
            yield OidcProvider(url)
        finally:
            server.terminate()
            server.communicate()
