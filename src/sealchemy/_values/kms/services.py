"""Open wrapped keys with the key management service (KMS) that wrapped them."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from threading import Thread
from typing import Any, Protocol, TypeAlias, TypeVar

from sealchemy._values.secret import SecretBytes
from sealchemy.errors import KmsError

from . import wrapped_key
from .wrapped_key import WrappedKey

_MESSAGE_SIZE_MAXIMUM = 300
_SECONDS = 18

_FILE = "GOOGLE_APPLICATION_CREDENTIALS"  # some put its content there
_CREDENTIALS = ("VAULT_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET", _FILE)
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

    scheme, found = wrapped_key.scheme_of(uri), entry_points(group="sealchemy.kms")
    providers = {item.value: item for item in found if item.name == scheme}
    own = next((item for value, item in providers.items() if value.startswith("sealchemy.kms.")), None)
    if not providers:
        raise KmsError(f"no KMS has the scheme {scheme}; there are {', '.join(sorted(found.names))}")
    if own is None and len(providers) > 1:
        raise KmsError(f"several packages provide the scheme {scheme}: {', '.join(sorted(providers))}; keep one")
    try:
        connect = (own or next(iter(providers.values()))).load()
    except ModuleNotFoundError as error:
        if own is None:
            raise
        problem = f'its client is not installed (no module {error.name}): pip install "sealchemy[{scheme}]"'
    else:
        return connect(uri.partition("://")[2])  # type: ignore[no-any-return]
    raise KmsError(problem)


def unwrap(found: WrappedKey, open_kms: OpenKms) -> SecretBytes:
    """Return the 32 bytes of a wrapped key; raises `KmsError`."""
    return _open(_unwrap_once(found, open_kms, _deadline()), found)


def wrap(secret: bytes, key_id: str, uri: str, open_kms: OpenKms) -> WrappedKey:
    """Return the 32 bytes of a key, wrapped; raises `KmsError`."""
    wrapped_key.scheme_of(uri)
    once = wrapped_key.draw()
    return _wrap_once(once, wrapped_key.seal(once, secret, key_id), key_id, uri, open_kms, _deadline())


def move(found: WrappedKey, uri: str, open_kms: OpenKms) -> WrappedKey:
    """Wrap a wrapped key for another key of a KMS, or again for the same; raises `KmsError`.

    The sealed key stays as it is. A service that can wrap again what it wrapped does so, and nothing leaves it.
    """
    open_kms, until = cache(open_kms), _deadline()
    if wrapped_key.scheme_of(uri) == wrapped_key.scheme_of(found.uri):
        wrapped, key_id, rest = found.wrapped, found.key_id, uri.partition("://")[2]
        again = _ask(found.uri, key_id, open_kms, until, lambda kms: _rewrap(kms, wrapped, key_id, rest))
        if again is not None:
            return _wrapped(uri, again, found.sealed, key_id)
    once = _unwrap_once(found, open_kms, until)
    _open(once, found)
    return _wrap_once(once, found.sealed, found.key_id, uri, open_kms, until)


def _open(once: SecretBytes, found: WrappedKey) -> SecretBytes:
    secret = wrapped_key.open_sealed(once, found)
    if secret is None:
        raise KmsError(
            f"key {found.key_id}: {found.uri} unwrapped what it was given, but that does not open the key: the text was"
            " changed, or put together from two; copy it again from where it is stored"
        )
    return secret


def _rewrap(kms: Any, wrapped: bytes, key_id: str, rest: str) -> tuple[SecretBytes, str] | None:
    rewrap = getattr(kms, "rewrap", None)
    answer = None if rewrap is None else rewrap(wrapped, key_id, rest)
    return None if answer is None else _require_wrapped(answer)


def _unwrap_once(found: WrappedKey, open_kms: OpenKms, until: float) -> SecretBytes:
    wrapped, key_id = found.wrapped, found.key_id
    once = _ask(found.uri, key_id, open_kms, until, lambda kms: _require_bytes(kms.unwrap(wrapped, key_id)))
    if len(once) != wrapped_key.ONCE_SIZE:
        raise KmsError(f"key {key_id}: {found.uri} returned {len(once)} bytes, not {wrapped_key.ONCE_SIZE}")
    return once


def _wrap_once(
    once: SecretBytes, sealed: SecretBytes, key_id: str, uri: str, open_kms: OpenKms, until: float
) -> WrappedKey:
    answer = _ask(uri, key_id, open_kms, until, lambda kms: _require_wrapped(kms.wrap(once, key_id)))
    return _wrapped(uri, answer, sealed, key_id)


def _require_bytes(answer: Any) -> SecretBytes:
    if not isinstance(answer, bytes) or not answer:
        message = f"it returned {type(answer).__name__}, not bytes"
        raise TypeError(message)
    return SecretBytes(answer)


def _require_wrapped(answer: Any) -> tuple[SecretBytes, str]:
    wrapped, rest = answer
    if not isinstance(rest, str):
        message = "it returned no URI"
        raise TypeError(message)
    return _require_bytes(wrapped), rest


def _wrapped(uri: str, answer: tuple[SecretBytes, str], sealed: SecretBytes, key_id: str) -> WrappedKey:
    wrapped, rest = answer
    return wrapped_key.parse(str(WrappedKey(key_id, f"{wrapped_key.scheme_of(uri)}://{rest}", wrapped, sealed)))


def _deadline() -> float:
    return time.monotonic() + _SECONDS


def _ask(uri: str, key_id: str, open_kms: OpenKms, until: float, work: Callable[[Kms], _Result]) -> _Result:
    """Return the result of `work` with a KMS; raises `KmsError` without the error of its client, which shows more.

    It runs in a thread, since no client limits the time of all that it does. The KMS is opened here: that may import
    modules, which another thread could not while this one does, or ask a question.
    """
    results, problems = list[_Result](), list[str]()

    def run() -> None:
        try:
            with _quiet(getattr(kms, "loggers", ())):
                results.append(work(kms))
        except BaseException as error:  # noqa: BLE001 - nothing of it may be shown
            problems.append(_describe(error))

    try:
        kms = open_kms(uri)
    except Exception as error:  # noqa: BLE001 - each client has errors of its own
        problems.append(_describe(error))
    else:
        thread = Thread(target=copy_context().run, args=(run,), daemon=True)
        thread.start()
        thread.join(max(until - time.monotonic(), 0))
    if results:
        return results[0]
    problem = problems[0] if problems else f"it gave no answer in {_SECONDS} s"
    raise KmsError(f"key {key_id}: {uri}: {problem}")


def _describe(error: BaseException) -> str:
    """Return what a client says in one line, without the secrets that it may quote."""
    name = "" if isinstance(error, KmsError) else f"{type(error).__name__}: "
    try:
        said = str(error)
    except BaseException:  # noqa: BLE001 - it is not ours
        said = ""
    if "header value" in said:
        said = "a header has characters that it cannot have: look for a newline in a credential"
    for variable in _CREDENTIALS:
        value = os.environ.get(variable, "").strip()
        if value and (variable != _FILE or "{" in value):
            said = said.replace(value, "***")
    line = re.sub(r"//[^/@\s]*@", "//***@", " ".join(f"{name}{said}".split()))
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
