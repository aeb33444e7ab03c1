"""What the commands for wrapped keys do."""

import json
import sys
from getpass import getpass
from select import select

from sealchemy import Key, KeyFormatError
from sealchemy._values.kms import wrapped_key
from sealchemy._values.kms.services import move, open_kms
from sealchemy._values.secret import hide

from .output import roles
from .project import Project, set_verbosity


def wrap(to: str, *, new: bool, verbose: int) -> None:
    """Wrap a key, or move a wrapped one, and print it."""
    set_verbosity(verbose)
    if new and _has_input():
        raise KeyFormatError("wrap-key --new makes a key, and standard input has one as well; leave one of them out")
    text = "" if new else _read()
    if wrapped_key.is_wrapped(text):
        print(move(wrapped_key.parse(text), to, open_kms))
    else:
        print((Key.generate() if new else Key.parse(text)).wrap(to))


def reveal(*, yes: bool, verbose: int) -> None:
    """Unwrap a key, and print it."""
    set_verbosity(verbose)
    if not yes:
        raise KeyFormatError("reveal-key prints a key in plaintext, which decrypts every value; pass --yes")
    print(Key.parse(_read()).reveal())


def show_ids(prefix: str | None, *, as_json: bool, verbose: int) -> None:
    """Print the ids of the keys of the environment, without asking a KMS."""
    ids = Project(None, None, prefix, verbose).key_ids()
    if as_json:
        print(json.dumps(ids._asdict()))
        return
    for key_id, role in roles(ids).items():
        print(f"{key_id}  {role}")


def _has_input() -> bool:
    """Return whether there is something to read, without waiting for it."""
    if sys.stdin.isatty():
        return False
    try:
        is_ready = bool(select([sys.stdin], [], [], 0)[0])
    except (OSError, ValueError):  # it is closed, or not a file
        return False
    return is_ready and bool(sys.stdin.read(1))


def _read() -> str:
    text = hide((getpass("Key: ") if sys.stdin.isatty() else sys.stdin.read()).strip())
    if not text:
        raise KeyFormatError("there is no key on standard input (wrap-key --new wraps a new one)")
    return text  # type: ignore[no-any-return]
