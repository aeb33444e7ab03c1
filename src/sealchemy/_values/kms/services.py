"""Open wrapped keys with the key management service (KMS) that wrapped them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from threading import Thread
from typing import Any, Protocol, TypeAlias, TypeVar

from sealchemy._values.secret import SecretBytes
from sealchemy.errors import KmsError

from . import wrapped_key
from .wrapped_key import WrappedKey

_MESSAGE_SIZE_MAXIMUM = 300
_SECONDS = 18
_Result = TypeVar("_Result")


class Kms(Protocol):
    """A key in a key management service.

    It may have two more attributes: `loggers`, the names of the packages whose loggers say nothing below WARNING while
    it works; and `rewrap(wrapped, key_id, to)`, which returns what `wrap` does, for the key of the same service with
    the URI `to` (without its scheme), if the service can wrap again what it wrapped, and None if it cannot.
    """

    def wrap(self, secret: bytes, key_id: str) -> tuple[bytes, str]:
        """Return 32 bytes wrapped, and the URI of the key that did it, without its scheme.

        `key_id` is authenticated where the service can do so.
        """
        ...

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """Return the 32 bytes."""
        ...


OpenKms: TypeAlias = Callable[[str], Kms]
"""It returns the key with a URI."""


def open_kms(uri: str) -> Kms:
    """Return the key of a KMS, with the credentials that its official client finds by itself.

    Providers are entry points of the group `sealchemy.kms`, named as the scheme: functions that take the rest of the
    URI.

    Raises:
        KeyFormatError: the URI is malformed.
        KmsError: no installed package has a provider for its scheme, or its client is not installed.
    """
    from importlib.metadata import entry_points  # noqa: PLC0415 - only where there is a KMS

    scheme = wrapped_key.scheme_of(uri)
    found = entry_points(group="sealchemy.kms")
    if scheme not in found.names:
        raise KmsError(f"no KMS has the scheme {scheme}; there are {', '.join(sorted(found.names))}")
    missing: str | None = None
    try:
        connect = found[scheme].load()
    except ModuleNotFoundError as error:
        missing = error.name
    if missing is not None:
        raise KmsError(f'its client is not installed (no module {missing}): pip install "sealchemy[{scheme}]"')
    return connect(uri.partition("://")[2])  # type: ignore[no-any-return]


def unwrap(found: WrappedKey, open_kms: OpenKms) -> SecretBytes:
    """Return the 32 bytes of a wrapped key; raises `KmsError`."""
    secret = wrapped_key.open_sealed(_unwrap_once(found, open_kms), found)
    if secret is None:
        raise KmsError(
            f"key {found.key_id}: {found.uri} unwrapped what it was given, but that does not open the key: the text was"
            " changed, or put together from two; copy it again from where it is stored"
        )
    return secret


def wrap(secret: bytes, key_id: str, uri: str, open_kms: OpenKms) -> WrappedKey:
    """Return the 32 bytes of a key, wrapped; raises `KmsError`."""
    wrapped_key.scheme_of(uri)
    once = wrapped_key.draw()
    return _wrap_once(once, wrapped_key.seal(once, secret, key_id), key_id, uri, open_kms)


def move(found: WrappedKey, uri: str, open_kms: OpenKms) -> WrappedKey:
    """Wrap a wrapped key for another key of a KMS, or again for the same; raises `KmsError`.

    The sealed key stays as it is. A service that can wrap again what it wrapped does so, and nothing leaves it.
    """
    if wrapped_key.scheme_of(uri) == wrapped_key.scheme_of(found.uri):
        rest = uri.partition("://")[2]
        again = _ask(found.uri, found.key_id, open_kms, lambda kms: _rewrap(kms, found, rest))
        if again is not None:
            return _wrapped(uri, again, found.sealed, found.key_id)
    return _wrap_once(_unwrap_once(found, open_kms), found.sealed, found.key_id, uri, open_kms)


def _rewrap(kms: Any, found: WrappedKey, rest: str) -> tuple[bytes, str] | None:
    rewrap = getattr(kms, "rewrap", None)
    return None if rewrap is None else rewrap(found.wrapped, found.key_id, rest)


def _unwrap_once(found: WrappedKey, open_kms: OpenKms) -> SecretBytes:
    once = _ask(found.uri, found.key_id, open_kms, lambda kms: SecretBytes(kms.unwrap(found.wrapped, found.key_id)))
    if len(once) != wrapped_key.ONCE_SIZE:
        raise KmsError(f"key {found.key_id}: {found.uri} returned {len(once)} bytes, not {wrapped_key.ONCE_SIZE}")
    return once


def _wrap_once(once: SecretBytes, sealed: bytes, key_id: str, uri: str, open_kms: OpenKms) -> WrappedKey:
    return _wrapped(uri, _ask(uri, key_id, open_kms, lambda kms: kms.wrap(once, key_id)), sealed, key_id)


def _wrapped(uri: str, answer: tuple[bytes, str], sealed: bytes, key_id: str) -> WrappedKey:
    wrapped, rest = answer
    stored = f"{wrapped_key.scheme_of(uri)}://{rest}"
    wrapped_key.scheme_of(stored)
    return WrappedKey(key_id, stored, wrapped, sealed)


def _ask(uri: str, key_id: str, open_kms: OpenKms, work: Callable[[Kms], _Result]) -> _Result:
    """Return the result of `work` with a KMS; raises `KmsError` without the error of its client, which shows more.

    It runs in a thread, since no client limits the time of all that it does, such as finding credentials.
    """
    results, problem = list[_Result](), f"it gave no answer in {_SECONDS} s"

    def run() -> None:
        nonlocal problem
        try:
            kms = open_kms(uri)
            with _quiet(getattr(kms, "loggers", ())):
                results.append(work(kms))
        except KmsError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - each client has errors of its own
            problem = _describe(error)

    thread = Thread(target=copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if results:
        return results[0]
    raise KmsError(f"key {key_id}: {uri}: {problem}")


def _describe(error: Exception) -> str:
    line = " ".join(f"{type(error).__name__}: {error}".split())
    text = "".join(character for character in line if character.isprintable())
    return text if len(text) <= _MESSAGE_SIZE_MAXIMUM else f"{text[: _MESSAGE_SIZE_MAXIMUM - 1]}…"


_is_quiet: ContextVar[bool] = ContextVar("_is_quiet", default=False)


def _say_nothing_in_between(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or not _is_quiet.get()


@contextmanager
def _quiet(packages: Sequence[str]) -> Iterator[None]:
    """Keep what is wrapped out of the debug output of clients, in this thread or task.

    A filter works only on the logger of a record itself, so each logger of a package has it.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.startswith(tuple(f"{item}." for item in packages)):
            logger.addFilter(_say_nothing_in_between)
    for name in packages:
        logging.getLogger(name).addFilter(_say_nothing_in_between)
    before = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(before)
