"""Check the arguments of `OAuthClient`."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sealchemy import IntegrationError
from sealchemy._values.secret import hide

_LONGEST_TIMEOUT = 300
_MOST_REQUESTS = 1000.0


def check(timeout: object, rate: object, body: object, refresh_grant_type: object) -> None:
    """Raise `IntegrationError` if one of these is invalid."""
    require_timeout(timeout)
    if not isinstance(rate, int | float) or not 0 < rate <= _MOST_REQUESTS:
        raise IntegrationError(
            f"requests_per_second is {rate!r}; give how often the provider may be asked, up to {_MOST_REQUESTS:g}"
        )
    for name, value, choices in (
        ("body", body, ("form", "json")),
        ("refresh_grant_type", refresh_grant_type, ("refresh_token", "fb_exchange_token", "client_credentials")),
    ):
        if value not in choices:
            raise IntegrationError(f"{name} must be one of {', '.join(choices)}")


def require_timeout(timeout: object) -> None:
    """Raise `IntegrationError` if a timeout is not a number of seconds, or too long."""
    if not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST_TIMEOUT:
        raise IntegrationError(
            f"timeout is {timeout!r}; give the seconds that one request may take, up to {_LONGEST_TIMEOUT}"
        )


def one_of(auth_method: str | None, older_name: str | None) -> str | None:
    """Return the method under either of its names, or raise `IntegrationError` if both are given."""
    if auth_method is not None and older_name is not None:
        raise IntegrationError("auth_method and token_endpoint_auth_method are the same; pass one")
    return older_name if auth_method is None else auth_method


def texts(name: str, given: Mapping[str, str] | None) -> dict[str, str]:
    """Return a dictionary of texts, or raise `IntegrationError`, without its values."""
    found = given if given is not None else {}
    is_text = isinstance(found, Mapping) and all(isinstance(item, str) for pair in found.items() for item in pair)
    if not is_text or any("\n" in item or "\r" in item for pair in found.items() for item in pair):
        raise IntegrationError(f"{name} takes a dictionary of text, each in one line")
    return dict(found)


def hidden(given: Mapping[str, str] | None) -> Any:
    """Return a dictionary with hidden values, which may be secrets; anything else becomes its type, as in `hide`."""
    return {key: hide(value) for key, value in given.items()} if isinstance(given, Mapping) else hide(given)


def names(name: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return names, or raise `IntegrationError`."""
    found = None if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if found is None or not all(isinstance(item, str) for item in found):
        raise IntegrationError(f"{name} takes names, such as ('team.name',)")
    return found


def authorities(verify: bool | str | Path) -> bool | str:  # noqa: FBT001 - as `requests` calls it
    """Return True, or the file or folder of the authorities to trust; raises `IntegrationError` for anything else."""
    if verify is True:
        return True
    if isinstance(verify, str | Path) and str(verify).strip() and Path(verify).exists():
        return str(verify)
    raise IntegrationError(
        "verify takes the file or folder with the certificates of your own authority, which must exist; certificates"
        " are always verified"
    )


def certificate_files(given: str | Path | Sequence[str | Path] | None) -> str | tuple[str, str] | None:
    """Return the file of a client's certificate and key, or one for each; raises `IntegrationError` for others."""
    if given is None:
        return None
    given = [given] if isinstance(given, str | Path) or not isinstance(given, Iterable) else given
    try:
        files = [str(Path(item)) for item in given]
        ssl.create_default_context().load_cert_chain(*files, password=_no_password)  # type: ignore[misc]
    except (OSError, TypeError, ValueError) as error:
        problem = type(error).__name__
    else:
        return files[0] if len(files) == 1 else (files[0], files[1])
    raise IntegrationError(
        "client_certificate takes a PEM file with the certificate and its key, without a password, or a pair of files:"
        f" these cannot be read ({problem})"
    )


def _no_password() -> str:
    raise ValueError
