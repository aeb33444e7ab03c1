"""The test file that sqlalchemy-utils has for its encrypted type, run with its columns declared through our types.

It is fetched from the package index, so this is slow and needs one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

DECLARATIONS = """
import datetime as _dt

from sqlalchemy.types import TypeDecorator as _TypeDecorator
from sqlalchemy_utils.types import ColorType as _Color
from sqlalchemy_utils.types.phone_number import PhoneNumber as _PhoneNumber

from sealchemy import EncryptedJSON, EncryptedString, Key, KeyRing, attach_key_ring


def _wrapper(to_text, from_text):
    class Wrapper(_TypeDecorator):
        impl = EncryptedString
        cache_ok = True

        def process_bind_param(self, value, dialect):
            return None if value is None else to_text(value)

        def process_result_value(self, value, dialect):
            return None if value is None else from_text(value)

    return Wrapper


def _color(text):
    from colour import Color

    return Color(text)


_DECLARED = {
    "Unicode": EncryptedString,
    "String": EncryptedString,
    "Enum": EncryptedString,
    "Boolean": EncryptedJSON,
    "Integer": EncryptedJSON,
    "JSONType": EncryptedJSON,
    "Date": _wrapper(_dt.date.isoformat, _dt.date.fromisoformat),
    "Time": _wrapper(_dt.time.isoformat, _dt.time.fromisoformat),
    "DateTime": _wrapper(_dt.datetime.isoformat, _dt.datetime.fromisoformat),
    "PhoneNumberType": _wrapper(str, lambda text: _PhoneNumber(text, "US")),
    "ColorType": _wrapper(lambda value: getattr(value, "hex", value), _color),
}
_RING = KeyRing(primary=Key.generate())


def StringEncryptedType(type_, key, engine, padding):
    name = type_.__name__ if isinstance(type_, type) else type(type_).__name__
    return _DECLARED[name](f"user.{name}")


@pytest.fixture
def engine(engine):
    return attach_key_ring(engine, _RING)
"""


@pytest.mark.soak
def test_every_kind_of_value_can_be_stored(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet"]
    package = f"sqlalchemy-utils=={version('sqlalchemy-utils')}"
    subprocess.run([*pip, "download", "--no-deps", "--no-binary", ":all:", "-d", tmp_path, package], check=True)
    subprocess.run([*pip, "install", "--target", tmp_path / "more", "phonenumbers", "colour"], check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (file,) = tmp_path.glob("*/tests/types/test_encrypted.py")
    source = file.read_text()
    marker = "\n\n@pytest.fixture\ndef User("
    assert source.count(marker) == 1
    file.write_text(source.replace(marker, f"\n\n{DECLARATIONS}{marker}"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(file),
        "-k",
        "TestFernetEncryptedType",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "more"), "DB": "sqlite"}
    answer = subprocess.run(command, cwd=file.parents[2], env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout
    assert "12 passed" in answer.stdout
