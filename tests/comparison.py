"""What ours and other libraries do with the same column, found out by doing it.

`python -m tests.comparison` writes the table of docs/explanation/comparison.md; a test compares it.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import io
import logging
import os
import pkgutil
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy_encrypted_field
from advanced_alchemy.types import EncryptedText as AdvancedAlchemyText
from cryptography.fernet import Fernet
from sqlalchemy import (
    Column,
    Date,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Unicode,
    create_engine,
    insert,
    select,
    type_coerce,
    update,
)
from sqlalchemy.types import TypeDecorator
from sqlalchemy_encrypted_field import EncryptedText as EncryptedFieldText
from sqlalchemy_utils import StringEncryptedType
from sqlalchemy_utils.types.encrypted.encrypted_type import AesGcmEngine

from sealchemy import EncryptedString, Key, KeyRing, attach_key_ring

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[1] / "docs/explanation/comparison.md"
START, END = "<!-- made by python -m tests.comparison -->", "<!-- end -->"
TOKEN = "ya29.a-token-to-look-for"


class BareFernet(TypeDecorator[str]):
    """What many write themselves."""

    impl = Text
    cache_ok = True

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def process_bind_param(self, value: str | None, _dialect: Any) -> str | None:
        return None if value is None else Fernet(self.key).encrypt(value.encode()).decode()

    def process_result_value(self, value: str | None, _dialect: Any) -> str | None:
        return None if value is None else Fernet(self.key).decrypt(value.encode()).decode()


@dataclass(frozen=True)
class Library:
    """One library: how its type is made with a key, and a column of it on an engine."""

    name: str
    package: str | None
    make: Callable[[str, str], Any]
    binary: bool = False

    def column(self, name: str, key: str) -> Any:
        return self.make(name, key)

    def engine(self, key: str) -> Engine:
        engine = create_engine("sqlite://")
        if self.package == "sealchemy":
            attach_key_ring(engine, KeyRing(primary=Key.parse(key)))
        if self.package == "sqlalchemy_encrypted_field":
            sqlalchemy_encrypted_field.configure(base64.b64encode(base64.urlsafe_b64decode(key)).decode())
        return engine


LIBRARIES = [
    Library("sealchemy", "sealchemy", lambda name, _key: EncryptedString(f"t.{name}")),
    Library("sqlalchemy-utils, its default", "sqlalchemy_utils", lambda _name, key: StringEncryptedType(Unicode, key)),
    Library(
        "sqlalchemy-utils, AesGcmEngine",
        "sqlalchemy_utils",
        lambda _name, key: StringEncryptedType(Unicode, key, AesGcmEngine),
    ),
    Library("advanced-alchemy", "advanced_alchemy", lambda _name, key: AdvancedAlchemyText(key=key)),
    Library(
        "sqlalchemy-encrypted-field",
        "sqlalchemy_encrypted_field",
        lambda _name, _key: EncryptedFieldText(),
        binary=True,
    ),
    Library("Fernet in a type of one's own", None, lambda _name, key: BareFernet(key)),
]


class Setting:
    """A table with two encrypted columns of a library, on a database in memory."""

    def __init__(self, library: Library) -> None:
        self.library, self.key = library, base64.urlsafe_b64encode(os.urandom(32)).decode()
        self.engine = library.engine(self.key)
        self.table = self.declare(self.key)
        self.table.create(self.engine)
        raw = LargeBinary() if library.binary else Text()
        self.raw = [type_coerce(self.table.c[name], raw).label(name) for name in "ab"]

    def declare(self, key: str) -> Table:
        columns = [Column(name, self.library.column(name, key), nullable=True) for name in "ab"]
        return Table("t", MetaData(), Column("id", Integer, primary_key=True), *columns, Column("n", Date))

    def write(self, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(insert(self.table), {"a": TOKEN, "b": TOKEN, **values})

    def read(self, column: str = "a") -> Any:
        with self.engine.connect() as connection:
            value = connection.scalar(select(self.table.c[column]))
        return value.decrypt() if hasattr(value, "decrypt") else value

    def stored(self) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(select(*self.raw).select_from(self.table)).one()

    def store(self, column: str, value: Any) -> None:
        plain = Table("t", MetaData(), Column("id", Integer), Column(column, self.raw[0].type))
        with self.engine.begin() as connection:
            connection.execute(update(plain).values({column: value}))


def _fails(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception:  # noqa: BLE001 - any error is one
        return True
    return False


def notices_a_change(setting: Setting) -> bool:
    """Change each byte of a stored value in turn, and cut its bytes at each length; to read the same is no harm."""
    setting.write()
    before = setting.stored().a
    raw = before if isinstance(before, bytes) else before.encode()
    changed = [
        raw[:index] + bytes([ord("B" if byte == ord("A") else "A")]) + raw[index + 1 :]
        for index, byte in enumerate(raw)
    ]
    for value in [*changed, *_cut(raw, setting.library)]:
        setting.store("a", value if isinstance(before, bytes) else value.decode())
        if not _fails(setting.read) and setting.read() != TOKEN:
            return False
    return True


def _cut(raw: bytes, library: Library) -> list[bytes]:
    if library.binary:
        return [raw[:size] for size in range(1, len(raw))]
    header, colon, text = raw.rpartition(b":")
    payload = base64.urlsafe_b64decode(text) if b"-" in text or b"_" in text else base64.b64decode(text)
    encode = base64.urlsafe_b64encode if text.startswith(b"gAAAA") else base64.b64encode
    return [header + colon + encode(payload[:size]) for size in range(1, len(payload))]


def notices_a_move(setting: Setting) -> bool:
    setting.write(b="another token")
    setting.store("a", setting.stored().b)
    return _fails(setting.read)


def keeps_null_and_the_empty_text(setting: Setting) -> bool:
    if _fails(lambda: setting.write(a=None, b="")) or _fails(setting.read):
        return False
    return setting.read("a") is None and setting.read("b") == ""


def keeps_tokens_out_of_exceptions(setting: Setting) -> bool:
    """Fail by another column of the same row."""
    try:
        setting.write(n="no date")
    except Exception as error:  # noqa: BLE001 - whatever it is
        return TOKEN not in f"{error}{vars(error)}{error.__context__}{error.__cause__}"
    return False


def keeps_tokens_out_of_debug_logs(setting: Setting) -> bool:
    setting.write()
    out = io.StringIO()
    handler, logger = logging.StreamHandler(out), logging.getLogger("sqlalchemy.engine.Engine")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    try:
        setting.engine.logger = logger  # type: ignore[attr-defined]
        setting.engine.echo = "debug"
        setting.read()
    finally:
        setting.engine.echo = False
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
    assert "SELECT" in out.getvalue()
    return TOKEN not in out.getvalue()


def hides_values_that_were_read(setting: Setting) -> bool:
    setting.write()
    with setting.engine.connect() as connection:
        row = connection.execute(select(setting.table.c.a)).one()
    return TOKEN not in repr(row)


def keeps_the_key_out_of_repr(setting: Setting) -> bool:
    type_ = setting.table.c.a.type
    return setting.key not in f"{type_!r}{setting.table!r}{vars(type_)}"


def answers_or_refuses_a_comparison(setting: Setting) -> bool:
    """Look for a value that is there: an empty answer is neither."""
    setting.write()

    def find() -> Any:
        with setting.engine.connect() as connection:
            return connection.scalar(select(setting.table.c.id).where(setting.table.c.a == TOKEN))

    return _fails(find) or find() is not None


def has_something_for_existing_rows(setting: Setting) -> bool:
    """Look for a public name that says so."""
    if setting.library.package is None:
        return False
    package = importlib.import_module(setting.library.package)
    found = [package.__name__]
    modules = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    found += [name for name in modules if "encrypt" in name or package.__name__ == name.rpartition(".")[0]]
    wanted = re.compile(r"^[a-z_]*(re_?write|backfill|re_?encrypt|re_?key|encrypt_(columns|rows|table))[a-z_]*$")
    for name in found:
        try:
            members = inspect.getmembers(importlib.import_module(name), callable)
        except Exception:  # noqa: BLE001, S112 - a part whose own dependency is not here
            continue
        if any(wanted.match(member) for member, _ in members):
            return True
    return False


QUESTIONS: dict[str, Callable[[Setting], bool]] = {
    "a stored value that was changed in any byte, or cut, is an error": notices_a_change,
    "a value that was moved to another column is an error": notices_a_move,
    "NULL and the empty text are kept": keeps_null_and_the_empty_text,
    "no token in the exception when another column of the row fails": keeps_tokens_out_of_exceptions,
    "no token in SQLAlchemy's debug log": keeps_tokens_out_of_debug_logs,
    "no token in the `repr` of a row": hides_values_that_were_read,
    "no key in the `repr` or the attributes of the type": keeps_the_key_out_of_repr,
    "`column == value` finds the row or is refused": answers_or_refuses_a_comparison,
    "something to encrypt or rekey the rows that exist": has_something_for_existing_rows,
}


def table() -> str:
    """Return the table, each cell found out."""
    lines = ["| | " + " | ".join(library.name for library in LIBRARIES) + " |", "|---" * (len(LIBRARIES) + 1) + "|"]
    for question, ask in QUESTIONS.items():
        cells = []
        for library in LIBRARIES:
            setting = Setting(library)
            cells.append("yes" if ask(setting) else "**no**")
            setting.engine.dispose()
        lines.append(f"| {question} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def versions() -> str:
    """Return what was compared."""
    names = ["sqlalchemy", "sqlalchemy-utils", "advanced-alchemy", "sqlalchemy-encrypted-field", "cryptography"]
    return ", ".join(f"{name} {version(name)}" for name in names)


if __name__ == "__main__":
    head, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(f"{head}{START}\nFound out with {versions()}.\n\n{table()}\n{END}{rest.partition(END)[2]}")
