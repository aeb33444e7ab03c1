"""A server for the tests of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import openbao

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.openbao import OpenBao


@pytest.fixture(scope="module")
def bao() -> Iterator[OpenBao]:
    with openbao.running() as server:
        yield server


@pytest.fixture
def vault(bao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> OpenBao:
    """The server, with the environment of an application that may wrap and unwrap."""
    monkeypatch.setenv("VAULT_ADDR", bao.url)
    paths = [f"transit/{verb}/sealchemy" for verb in ("encrypt", "decrypt", "rewrap")]
    monkeypatch.setenv("VAULT_TOKEN", bao.token_for(*paths))
    return bao
