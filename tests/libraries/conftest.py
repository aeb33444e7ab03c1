from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sealchemy import Key, KeyRing

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing(primary=Key.generate())
