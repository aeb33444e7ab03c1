"""The environment variables and files that hold keys. Errors name the variable and the problem, never the value."""

import logging
import os
import re
import stat
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

from sealchemy.errors import KeyFormatError, KeyRingError, KmsError, MissingKeyError

from .key_text import HOW_TO_MAKE_ONE
from .keys import Key
from .kms import wrapped_key
from .kms.services import OpenKms
from .secret import SecretString, hide, reveal

_FILE_SIZE_MAXIMUM = 65_536
_MISNAMED = {
    f"{name}{end}": f"{meant}{end}"
    for name, meant in (("KEYS", "KEY"), ("PREVIOUS_KEY", "PREVIOUS_KEYS"), ("INDEX_KEYS", "INDEX_KEY"))
    for end in ("", "_FILE")
}
_WRITABLE = "every user of this machine can write it, so the key in it may be someone else's (chmod 600)"

logger = logging.getLogger("sealchemy")

_Result = TypeVar("_Result")


def _variables(prefix: Any) -> list[str]:
    """Return the names of the variables that `read_keys` reads; none for a malformed prefix, which may be a key."""
    names = ("KEY", "PREVIOUS_KEYS", "INDEX_KEY", "SIZE_LIMIT") if is_prefix(prefix) else ()
    return [f"{prefix}_{name}{end}" for name in names for end in ("", "_FILE")]


def hidden(prefix: Any, environ: Mapping[str, str] | None) -> dict[str, str]:
    """Return the values of the variables, hidden: the frame of an error would show them."""
    environ = os.environ if environ is None else environ
    for name, meant in _MISNAMED.items() if is_prefix(prefix) else ():
        if f"{prefix}_{name}" in environ:
            logger.warning("%s_%s is not read; the name is %s_%s", prefix, name, prefix, meant)
    return {name: _text(environ.get(name, "")) for name in _variables(prefix)}


def _text(value: object) -> Any:
    value = reveal(value)
    return hide(value if isinstance(value, str) else str(value))  # the name of a file may be a Path


class KeyIds(NamedTuple):
    """The ids of the keys of a ring, by their roles; `index_key` is None without a key for blind indexes."""

    primary: str
    previous: tuple[str, ...] = ()
    index_key: str | None = None


KeyIds.__module__ = "sealchemy.status"


class _Texts(NamedTuple):
    """The variables that keys are in, or the file variables, and the texts; those of the index key may be empty."""

    source: str
    text: SecretString
    previous_source: str
    entries: list[SecretString]
    index_source: str
    index_text: SecretString


def read_keys(prefix: Any, environ: Mapping[str, str], open_kms: OpenKms) -> tuple[Key, list[Key], Key | None]:
    """Return the primary key, the previous ones and the index key, from hidden values; see `KeyRing.from_env`."""
    found = _read_texts(prefix, environ)
    _ids(found)  # what is wrong is refused before a KMS is asked
    return _parse_all(partial(Key.parse, open_kms=cache(open_kms)), found)


def read_size_limit(prefix: Any, environ: Mapping[str, str]) -> int | None:
    """Return the number of characters that an encrypted value may have, if `<prefix>_SIZE_LIMIT` is set."""
    text = str(environ.get(f"{prefix}_SIZE_LIMIT", "")) if is_prefix(prefix) else ""
    if text and not re.fullmatch("[0-9]{1,12}", text):
        raise KeyFormatError(f"{prefix}_SIZE_LIMIT is a number of characters, such as 16777216")
    return int(text) if text else None


def read_ids(prefix: str, environ: Mapping[str, str] | None = None) -> KeyIds:
    """Return the ids of the keys of `KeyRing.from_env`; no KMS is asked."""
    prefix = hide(prefix)
    environ = hidden(prefix, environ)
    return _ids(_read_texts(prefix, environ))


def _ids(found: _Texts) -> KeyIds:
    primary, previous, index = _parse_all(_read_id, found)
    _refuse_duplicates(found.source, found.previous_source, [primary, *previous])
    if index in {primary, *previous}:
        raise KeyFormatError(
            f"{found.index_source} has the key of {found.source} or {found.previous_source} ({index}); make another"
        )
    return KeyIds(primary, tuple(previous), index)


def _parse_all(parse: Callable[[str], _Result], found: _Texts) -> tuple[_Result, list[_Result], _Result | None]:
    primary = _read(parse, found.source, found.text)
    previous = [_read(parse, found.previous_source, entry) for entry in found.entries]
    return primary, previous, _read(parse, found.index_source, found.index_text) if found.index_text else None


def _read_texts(prefix: Any, environ: Mapping[str, str]) -> _Texts:
    if not is_prefix(prefix):
        raise KeyFormatError(
            "the prefix is the start of the variable names, such as INTEGRATION_TOKEN_ENCRYPTION: A-Z, 0-9 and _"
        )
    source, text = _read_variable(environ, f"{prefix}_KEY")
    previous_source, previous_text = _read_variable(environ, f"{prefix}_PREVIOUS_KEYS")
    if not text:
        also = f" ({previous_source} is set, but previous keys only decrypt)" if previous_text else ""
        raise MissingKeyError(f"no encryption key: set {prefix}_KEY or {prefix}_KEY_FILE{also}; {HOW_TO_MAKE_ONE}")
    entries = [SecretString(entry.strip()) for entry in re.split(r"[,\n]", previous_text)]
    entries = [entry for entry in entries if entry]
    return _Texts(source, text, previous_source, entries, *_read_variable(environ, f"{prefix}_INDEX_KEY"))


def is_prefix(prefix: Any) -> bool:
    """Return whether this can be the start of the names of variables."""
    return isinstance(prefix, str) and re.fullmatch(r"[A-Z][A-Z0-9_]{0,99}", prefix) is not None


def _read_variable(environ: Mapping[str, str], name: str) -> tuple[str, SecretString]:
    """Return which variable is set, `name` or `<name>_FILE`, and its value or the content of its file.

    The text is empty if neither is set; an empty variable counts as absent.
    """
    file_name = f"{name}_FILE"
    value, path = SecretString(environ.get(name, "")), SecretString(environ.get(file_name, ""))
    if value and path:
        raise KeyFormatError(f"both {name} and {file_name} are set; keep one of them")
    return (file_name, _read_file(file_name, path)) if path else (name, value)


def _read_file(variable: str, path: SecretString) -> SecretString:
    content, problem = SecretString(), None
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path would stay in the frames of its errors
            problem = _check_mode(variable, os.fstat(file.fileno()).st_mode)
            content = SecretString(file.read(_FILE_SIZE_MAXIMUM).decode("ascii"))
    except UnicodeDecodeError:
        problem = "it is not ASCII text"
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it is not a path"
    if content.strip() and problem is None:
        return SecretString(content.removesuffix("\n").removesuffix("\r"))
    # The path is not shown: it may be the key itself, in the wrong variable.
    error_type = KeyFormatError if problem in {"it is not ASCII text", _WRITABLE} else MissingKeyError
    hint = f"; {HOW_TO_MAKE_ONE}" if error_type is MissingKeyError else ""
    raise error_type(f"{variable}: the file cannot be used: {problem or 'it is empty'}{hint}")


def _check_mode(variable: str, mode: int) -> str | None:
    """Return why a file with this mode cannot be trusted; warn if others can read it."""
    if os.name != "posix" or not stat.S_ISREG(mode):
        return None
    if mode & stat.S_IWOTH:
        return _WRITABLE
    if mode & stat.S_IROTH:
        logger.warning("%s: every user of this machine can read the key's file; chmod 600, or 400", variable)
    return None


def _read(read: Callable[[str], _Result], variable: str, text: SecretString) -> _Result:
    try:
        return read(text)
    except KeyFormatError as error:
        hint = "" if wrapped_key.is_wrapped(text) else f"; {HOW_TO_MAKE_ONE}"
        problem: KeyRingError = KeyFormatError(f"{variable} is not a usable key: {error}{hint}")
    except KmsError as error:
        problem = KmsError(f"{variable}: {error}")
    raise problem


def _read_id(text: str) -> str:
    return wrapped_key.parse(text).key_id if wrapped_key.is_wrapped(text) else Key.parse(text).id


def _refuse_duplicates(source: str, previous_source: str, ids: list[str]) -> None:
    primary, *previous = ids
    if primary in previous:
        raise KeyFormatError(f"{previous_source} repeats the key of {source} ({primary}); remove it there")
    if len(set(previous)) != len(previous):
        raise KeyFormatError(f"{previous_source} has a key twice (ids: {', '.join(previous)}); keep it once")
