"""Add a new key to `.env`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dotenv import set_key

from sealchemy import Key, KeyFormatError
from sealchemy._values.key_text import PLACEHOLDER

from .options import PREFIX

VARIABLE = f"{PREFIX}_KEY"
_KEY_LINE = re.compile(rf"\s*(?:export\s+)?{VARIABLE}(?:_FILE)?\s*=(.*)".encode())


def add_new_key() -> str:
    """Add a new key to `.env` in this folder, and return the sentence that says so.

    Raises:
        KeyFormatError: there is a key already.
    """
    path, key = Path(".env"), Key.generate()
    if _has_key(path):
        raise KeyFormatError(f"{path} has a key already, and every value encrypted with it would be lost; rotate it")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    path.chmod(0o600)
    set_key(path, VARIABLE, key.reveal(), quote_mode="never")
    return f"key {key.id} is in .env as {VARIABLE}; keep a copy in your secret store, and .env out of git"


def _has_key(path: Path) -> bool:
    lines = path.read_bytes().splitlines() if path.exists() else []
    found = [match[1].strip(b"\"' \t") for match in map(_KEY_LINE.match, lines) if match]
    return any(value not in {b"", PLACEHOLDER.encode()} for value in found)
