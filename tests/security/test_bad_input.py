"""Malformed stored values and keys raise only this library's errors, without crashes, hangs or memory growth."""

from __future__ import annotations

import gc
import random
import re
import resource
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealchemy import DecryptionError, EnvelopeFormatError
from tests.support.malformed import PIECES, READERS, STORED, check, decrypt, decrypt_again, inputs

if TYPE_CHECKING:
    from collections.abc import Callable

COUNTS = [20_000, pytest.param(1_200_000, marks=pytest.mark.soak)]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@given(st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=4).map("".join)))
def test_any_text_raises_only_sealchemy_errors(reader: object, text: str) -> None:
    check(reader, text)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
def test_malformed_inputs_are_refused_in_bounded_time_and_memory(count: int) -> None:
    seed = random.randrange(2**32)
    rounds, memory, resident, slowest = 4, [], [], 0.0
    tracemalloc.start()
    try:
        for number in range(rounds):
            for index, text in enumerate(inputs(count // rounds, seed + number)):
                start = time.perf_counter()
                check(READERS[index % len(READERS)], text)
                slowest = max(slowest, time.perf_counter() - start)
            gc.collect()
            memory.append(tracemalloc.get_traced_memory()[0])
            resident.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    except BaseException:
        print(f"seed {seed}")  # noqa: T201 - to reproduce the run
        raise
    finally:
        tracemalloc.stop()
    assert slowest < 2
    assert memory[-1] - memory[0] < 1_000_000
    assert resident[-1] - resident[0] < 64 * 1024


def test_values_truncated_at_any_length_raise_only_sealchemy_errors() -> None:
    for stored in STORED:
        for length in range(len(stored)):
            for reader in READERS:
                check(reader, stored[:length])


@pytest.mark.parametrize("reader", [decrypt, decrypt_again], ids=lambda reader: reader.__name__)
def test_only_the_canonical_encoding_decrypts(reader: Callable[[str], None]) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    padded = [stored for stored in STORED if stored.endswith("=")]
    assert padded
    for stored in padded:
        body = stored.rstrip("=")
        spellings = [body[:-1] + symbol + stored[len(body) :] for symbol in alphabet if symbol != body[-1]]
        spellings += [body, stored + "=", stored + "\n", f"{stored} ", body + "\n" + stored[len(body) :], f" {stored}"]
        spellings += [stored.replace("+", "-").replace("/", "_")] if {"+", "/"} & set(stored[26:]) else []
        spellings += [stored[:place] + extra + stored[place:] for place in (30, 50, 60) for extra in (" ", "\n", "=")]
        for spelling in spellings:
            with pytest.raises((EnvelopeFormatError, DecryptionError)):
                reader(spelling)


@pytest.mark.soak
def test_a_coverage_guided_fuzzer_finds_nothing() -> None:
    pytest.importorskip("atheris", reason="the fuzzer has no wheel for this machine")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "-runs=1000000", "-timeout=10", "-rss_limit_mb=512"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"Done (\d+) runs", done.stderr)
    assert found
    assert int(found[1]) >= 1_000_000
