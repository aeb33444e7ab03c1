"""The addresses of a provider: which ones tokens may be sent to, and how errors name them."""

import re
from urllib.parse import urlsplit

from sealchemy.errors import IntegrationError

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_URL = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(/[\x21-\x5b\x5d-\x7e]*)?")


def check_endpoint(endpoint: str) -> None:
    """Raise `IntegrationError` unless an endpoint has TLS, or is on this machine."""
    if not is_safe(endpoint):
        raise IntegrationError(
            f"the endpoint at {host_of(endpoint)!r} is not https://host/path; tokens and the client's secret are sent"
            " there"
        )


def is_safe(endpoint: str) -> bool:
    """Return whether an endpoint has TLS, or is on this machine."""
    host = scheme = None
    if isinstance(endpoint, str) and _URL.fullmatch(endpoint):  # characters on which URL parsers agree
        try:
            parts = urlsplit(endpoint)
            host, scheme, _ = parts.hostname, parts.scheme, parts.port
        except ValueError:
            host = None
    return bool(host) and (scheme == "https" or (scheme == "http" and host in _LOOPBACK))


def host_of(endpoint: str) -> str:
    """Return the host alone: the rest of an address may hold a secret."""
    try:
        return urlsplit(endpoint).hostname or ""
    except (ValueError, TypeError, AttributeError):
        return ""
