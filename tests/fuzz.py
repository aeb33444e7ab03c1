"""A coverage-guided fuzzer for the functions that read encrypted values and keys.

Run it with `python -m tests.fuzz -runs=1000000`, or with any other libFuzzer option, such as `-max_total_time=60`.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["sealchemy"]):
    from .support.malformed import PIECES, READERS, check


def one_input(data: bytes) -> None:
    """Pass the fuzzer's input to a reader, alone or combined with pieces of valid values."""
    provider = atheris.FuzzedDataProvider(data)
    reader = READERS[provider.ConsumeIntInRange(0, len(READERS) - 1)]
    piece = PIECES[provider.ConsumeIntInRange(0, len(PIECES) - 1)]
    start, end = sorted(provider.ConsumeIntListInRange(2, 0, len(piece)))
    check(reader, piece[:start] + provider.ConsumeUnicode(200) + piece[end:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
