"""Malformed input for the code that reads stored values and keys, for the fuzzer and for random tests."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from sealchemy import Key, KeyRing, SealchemyError, SecretString
from sealchemy._values import envelope
from sealchemy._values.secret import hide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY, OTHER = Key.generate(), Key.generate()
RING = KeyRing(primary=KEY, previous=[OTHER])
CONTEXT = "fuzz.token"
STORED = [RING.encrypt(text, CONTEXT) for text in ("", "ya29.token", "ключ-鍵-🔑" * 20)]
VALID = set(STORED)
KEYS = [
    KEY.reveal(),
    KEY.reveal().removeprefix("sealchemy-key-v1."),
    "q" * 44,
    "sealchemy-key-v1.",
    "replace-me-with-the-output-of-sealchemy-generate-key",
]
PIECES = [
    *STORED,
    *KEYS,
    envelope.header(KEY.id),
    envelope.header(OTHER.id),
    envelope.header("0" * 12),
    "sealchemy:",
    "sealchemy:v2:",
    f"sealchemy:v1:{KEY.id}:row:",
    "=",
    "==",
    "\n",
    "\x00",
    "\ud800",
    "１２",  # noqa: RUF001 - digits that `\d` matches
]


def decrypt(text: str) -> None:
    """Decrypt, and fail unless the text is one of the values encrypted here."""
    if isinstance(RING.decrypt(text, CONTEXT), SecretString) and text not in VALID:
        message = f"a malformed value was decrypted: {text!r}"
        raise AssertionError(message)


AGAIN = RING.decryptor(CONTEXT)
for _stored in STORED:
    AGAIN(_stored)


def decrypt_again(text: str) -> None:
    """Decrypt with a reader that has cached the nonce prefixes of valid values, which takes another code path."""
    if isinstance(AGAIN(text), SecretString) and text not in VALID:
        message = f"a malformed value was decrypted: {text!r}"
        raise AssertionError(message)


def parse_key(text: str) -> None:
    """Parse a key."""
    Key.parse(text)


def from_env(text: str) -> None:
    """Build a ring from environment variables."""
    half = len(text) // 2
    KeyRing.from_env("P", {"P_KEY": text[:half] or KEY.reveal(), "P_PREVIOUS_KEYS": text[half:]})


READERS: list[Callable[[str], object]] = [
    decrypt,
    decrypt_again,
    lambda text: envelope.parse(hide(text)),
    lambda text: envelope.parse_key_id(hide(text)),
    lambda text: envelope.require_context(hide(text)),
    RING.is_current,
    parse_key,
    from_env,
]


def check(reader: Callable[[str], object], text: str) -> None:
    """Call a reader; any exception other than a `SealchemyError` is a bug."""
    try:
        reader(text)
    except SealchemyError as error:
        if len(text) > 40 and text in str(error):
            message = f"the error shows its input: {error}"
            raise AssertionError(message) from None


def inputs(count: int, seed: int) -> Iterator[str]:
    """Yield malformed inputs: pieces of valid ones, truncated, repeated, swapped or with changed characters."""
    source = random.Random(seed)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_:. \n\x00é\ud800１"  # noqa: RUF001
    for _ in range(count):
        text = "".join(source.choice(PIECES) for _ in range(source.randint(1, 3)))
        if source.random() < 0.1:
            stored = source.choice([value for value in STORED if value.endswith("=")])
            body = stored.rstrip("=")
            text = body[:-1] + source.choice(alphabet[:64]) + "=" * (len(stored) - len(body))
            yield text
            continue
        for _ in range(source.randint(0, 4)):
            at = source.randrange(len(text) + 1)
            kind = source.randrange(4)
            if kind == 0:
                text = text[:at]
            elif kind == 1:
                text = text[:at] + source.choice(alphabet) + text[at:]
            elif kind == 2:
                text = text[:at] + source.choice(alphabet) + text[at + 1 :]
            else:
                text = text[at:] + text[:at]
        yield text
