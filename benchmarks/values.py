"""Measure one value in the type's functions, against the inline floor, and the import and first use."""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import sys

from sqlalchemy import create_engine

from sealchemy import EncryptedJSON, EncryptedString, Key, KeyRing, attach_key_ring

from .floor import floor
from .measure import side_by_side
from .results import Result, Section

SIZES = (40, 200, 1000, 2500)


def closures(rounds: int, count: int) -> Section:
    """Measure encryption and decryption of one value."""
    section = Section("One value, against the inline floor")
    engine = attach_key_ring(create_engine("sqlite://"), KeyRing(primary=Key.generate()))
    type_ = EncryptedString("bench.a")
    bind, result = type_.bind_processor(engine.dialect), type_.result_processor(engine.dialect, None)
    floor_encrypt, floor_decrypt = floor()
    for size in SIZES:
        values = [secrets.token_urlsafe(size)[:size] for _ in range(count)]
        stored, of_floor = [bind(value) for value in values], [floor_encrypt(value) for value in values]
        found = side_by_side(
            {
                "floor, encrypt": lambda values=values: [floor_encrypt(value) for value in values],
                "encrypt": lambda values=values: [bind(value) for value in values],
                "floor, decrypt": lambda values=of_floor: [floor_decrypt(value) for value in values],
                "decrypt": lambda values=stored: [result(value) for value in values],
            },
            rounds,
        )
        for name in ("encrypt", "decrypt"):
            ours, least = (found[key] / count * 1e6 for key in (name, f"floor, {name}"))
            detail = f"{ours:.2f} µs against {least:.2f} µs"
            target = 1.25 if size > SIZES[0] else 1.30  # two calls weigh more on a short value
            section.results.append(Result(f"{name}, {size} characters", ours / least, target, detail=detail))
    engine.dispose()
    return section


def half_nonces(rounds: int, count: int) -> Section:
    """Measure decrypting values of which each was written by another process, so that no cipher is ready."""
    key = Key.generate()
    ring = KeyRing(primary=key)
    encrypt, decrypt = ring.encryptor("bench.a"), ring.decryptor("bench.a")
    alike, own = [encrypt("x" * 200) for _ in range(count)], []
    for _ in range(count):
        key._data_key.forget_writer()  # noqa: SLF001 - as another process
        own.append(encrypt("x" * 200))
    found = side_by_side(
        {
            "alike": lambda: [decrypt(value) for value in alike],
            "own": lambda: [decrypt(value) for value in own],
        },
        rounds,
    )
    section = Section("Decrypting values of 200 characters, each under a half nonce of its own")
    times = {name: seconds / count * 1e6 for name, seconds in found.items()}
    detail = f"{times['own']:.2f} µs against {times['alike']:.2f} µs"
    section.results.append(Result("against values of one process", times["own"] / times["alike"], 3.1, detail=detail))
    return section


def _documents() -> dict[str, object]:
    """Return JSON values of about 1 KB: the response of a token endpoint, and many short strings."""
    response = {
        "access_token": secrets.token_urlsafe(150),
        "refresh_token": secrets.token_urlsafe(70),
        "id_token": secrets.token_urlsafe(300),
        "expires_in": 3599,
        "expires_at": 1_700_000_000.5,
        "scope": ["openid", "email", "https://www.googleapis.com/auth/calendar"],
        "token_type": "Bearer",
        "user": {"name": "Ann", "email": "ann@example.com", "ids": [1, 2, 3], "verified": True},
    }
    return {"a token response": response, "36 short strings": {f"key{i}": f"value {i} of it" for i in range(36)}}


def documents(rounds: int, count: int) -> Section:
    """Measure `EncryptedJSON`, writing and reading, against `json` and `EncryptedString`."""
    section = Section("JSON of 1 KB, written and read, against json and EncryptedString")
    engine = attach_key_ring(create_engine("sqlite://"), KeyRing(primary=Key.generate()))
    bind, result = (getattr(EncryptedJSON("bench.a"), f"{kind}_processor") for kind in ("bind", "result"))
    text_bind, text_result = (getattr(EncryptedString("bench.a"), f"{kind}_processor") for kind in ("bind", "result"))
    write, read = bind(engine.dialect), result(engine.dialect, None)
    write_text, read_text = text_bind(engine.dialect), text_result(engine.dialect, None)
    for name, value in _documents().items():

        def ours(value: object = value) -> None:
            for _ in range(count):
                read(write(value))

        def both(value: object = value) -> None:
            for _ in range(count):
                json.loads(read_text(write_text(json.dumps(value))))

        found = side_by_side({"ours": ours, "both": both}, rounds)
        one, two = found["ours"] / count * 1e6, found["both"] / count * 1e6
        target = 1.3 if name == "a token response" else 1.4  # a SecretString for each string weighs more there
        section.results.append(Result(name, one / two, target, detail=f"{one:.1f} µs against {two:.1f} µs"))
    engine.dispose()
    return section


IMPORT = """
import time
import sqlalchemy.orm, sqlalchemy.dialects.mysql
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf import hkdf, kbkdf
start = time.perf_counter()
import sealchemy
imported = time.perf_counter()
ring = sealchemy.KeyRing(primary=sealchemy.Key.generate())
ring.decrypt(ring.encrypt("token", "a.b"), "a.b")
print(imported - start, time.perf_counter() - imported)
"""


def imports(rounds: int) -> Section:
    """Measure the import, without those of SQLAlchemy and cryptography, and the first use after it."""
    section = Section("Import and first use, in milliseconds")
    told = [
        subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True).stdout.split()  # noqa: S603
        for _ in range(rounds)
    ]
    for index, name in enumerate(("import, without SQLAlchemy and cryptography", "first key, encrypt and decrypt")):
        taken = statistics.median(float(times[index]) for times in told) * 1000
        section.results.append(Result(name, taken, 30, unit="ms"))
    return section
