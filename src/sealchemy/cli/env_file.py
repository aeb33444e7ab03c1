"""Add a new key to `.env`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dotenv import dotenv_values, set_key

from sealchemy import Key, KeyFormatError
from sealchemy._values.environment import is_prefix
from sealchemy._values.key_text import PLACEHOLDER

from . import configuration
from .project import Project


def add_key(text: str, prefix: str | None) -> str:
    """Add a new key to `.env` in this folder, and return the sentence that says so.

    Raises:
        KeyFormatError: there is a key already, or the prefix is malformed.
    """
    variable = Project(None, None, prefix, 0).key_variable
    if not is_prefix(variable):
        raise KeyFormatError("the prefix is the start of the variable names, such as MAILBOX: A-Z, 0-9 and _")
    path, key = configuration.env_file().resolve(), Key.parse(text)  # a link stays one
    if _has_key(path, variable):
        raise KeyFormatError(f"{path} has a key already, and every value encrypted with it would be lost; rotate it")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    path.chmod(0o600)
    set_key(path, variable, key.reveal(), quote_mode="never")
    is_own = variable != f"{configuration.PREFIX}_KEY"
    own = "; the commands read it there, and your application has to load .env itself" if is_own else ""
    return f"key {key.id} is in {path} as {variable}; keep a copy in your secret store, and .env out of git{own}"


def _has_key(path: Path, variable: str) -> bool:
    line = re.compile(rf"\s*(?:export\s+)?{variable}(?:_FILE)?\s*=(.*)".encode())
    lines = path.read_bytes().splitlines() if path.exists() else []
    found = [match[1].strip(b"\"' \t").decode(errors="replace") for match in map(line.match, lines) if match]
    read = dotenv_values(path, encoding="utf-8-sig") if path.exists() else {}  # as the commands read it
    found += [value for name, value in read.items() if name.strip() in {variable, f"{variable}_FILE"} and value]
    return any(value not in {"", PLACEHOLDER} for value in found)
