"""The environment variables and files that hold keys. Errors name the variable and the problem, never the value."""

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, TypeVar

from sealchemy.errors import KeyFormatError, KeyRingError, KmsError, MissingKeyError

from .key_text import HOW_TO_MAKE_ONE
from .keys import Key
from .kms import wrapped_key
from .kms.services import OpenKms
from .secret import SecretString

_FILE_SIZE_MAXIMUM = 65_536

_Result = TypeVar("_Result")


def variables(prefix: Any) -> list[str]:
    """Return the names of the variables that `read_keys` reads; none for a malformed prefix, which may be a key."""
    names = ("KEY", "PREVIOUS_KEYS", "INDEX_KEY") if _is_prefix(prefix) else ()
    return [f"{prefix}_{name}{end}" for name in names for end in ("", "_FILE")]


def read_keys(prefix: Any, environ: Mapping[str, str], open_kms: OpenKms) -> tuple[Key, list[Key], Key | None]:
    """Return the primary key, the previous ones and the index key, from hidden values; see `KeyRing.from_env`."""
    read_ids(prefix, environ)  # refuses wrong texts before a KMS is asked
    source, text, previous_source, entries = _read_texts(prefix, environ)
    index_source, index_text = _read_variable(environ, f"{prefix}_INDEX_KEY")
    parse = partial(Key.parse, open_kms=cache(open_kms))
    index_key = _read(parse, index_source, index_text) if index_text else None
    return _read(parse, source, text), [_read(parse, previous_source, entry) for entry in entries], index_key


def read_ids(prefix: Any, environ: Mapping[str, str]) -> tuple[str, list[str], str | None]:
    """Return the ids of the keys that `read_keys` returns; no KMS is asked."""
    source, text, previous_source, entries = _read_texts(prefix, environ)
    index_source, index_text = _read_variable(environ, f"{prefix}_INDEX_KEY")
    primary = _read(_read_id, source, text)
    previous = [_read(_read_id, previous_source, entry) for entry in entries]
    _refuse_duplicates(source, previous_source, [primary, *previous])
    index = _read(_read_id, index_source, index_text) if index_text else None
    if index in {primary, *previous}:
        raise KeyFormatError(f"{index_source} has the key of {source} or {previous_source} ({index}); make another")
    return primary, previous, index


def _read_texts(prefix: Any, environ: Mapping[str, str]) -> tuple[str, SecretString, str, list[SecretString]]:
    """Return where the primary key is and its text, then where the previous ones are and theirs."""
    if not _is_prefix(prefix):
        raise KeyFormatError(
            "the prefix is the start of the variable names, such as INTEGRATION_TOKEN_ENCRYPTION: A-Z, 0-9 and _"
        )
    source, text = _read_variable(environ, f"{prefix}_KEY")
    previous_source, previous_text = _read_variable(environ, f"{prefix}_PREVIOUS_KEYS")
    if not text:
        also = f" ({previous_source} is set, but previous keys only decrypt)" if previous_text else ""
        raise MissingKeyError(f"no encryption key: set {prefix}_KEY or {prefix}_KEY_FILE{also}; {HOW_TO_MAKE_ONE}")
    entries = [SecretString(entry.strip()) for entry in re.split(r"[,\n]", previous_text)]
    return source, text, previous_source, [entry for entry in entries if entry]


def _is_prefix(prefix: Any) -> bool:
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
            content = SecretString(file.read(_FILE_SIZE_MAXIMUM).decode("ascii"))
    except UnicodeDecodeError:
        problem = "it is not ASCII text"
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it is not a path"
    if content.strip():
        return SecretString(content.removesuffix("\n").removesuffix("\r"))
    # The path is not shown: it may be the key itself, in the wrong variable.
    error_type = KeyFormatError if problem == "it is not ASCII text" else MissingKeyError
    raise error_type(f"{variable}: the file cannot be used: {problem or 'it is empty'}; {HOW_TO_MAKE_ONE}")


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
