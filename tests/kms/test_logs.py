"""No log and no frame shows a key, or what opens one without the text of the wrapped key."""

from __future__ import annotations

import base64
import http.client
import logging
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from moto.server import ThreadedMotoServer

from sealchemy import Key, KmsError
from sealchemy._values.kms import wrapped_key
from sealchemy._values.kms.wrapped_key import parse
from tests.support import kms_servers
from tests.support.leaks import frames_of

from .failures import URIS, clients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sealchemy.kms import OpenKms
    from tests.support.openbao import OpenBao

SCHEMES = list(URIS)


def spellings(secret: bytes) -> list[str]:
    standard, url_safe = base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode()
    return [standard.rstrip("="), url_safe.rstrip("="), secret.hex(), repr(secret)[2:-1]]


def secret_of(key: Key) -> bytes:
    return base64.urlsafe_b64decode(key.reveal().removeprefix("sealchemy-key-v1."))[:32]


class Everything(logging.Handler):
    """Keeps what any formatter could show of records."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += f"{record.getMessage()} {record.__dict__}\n"


@contextmanager
def everything_logged() -> Iterator[Everything]:
    handler, root = Everything(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


@pytest.fixture(params=SCHEMES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, OpenKms]]:
    """The URI of a key, and the door to it, for each client."""
    scheme, uri = request.param, URIS[request.param]
    if scheme == "vault-transit":
        bao: OpenBao = request.getfixturevalue("bao")
        with clients(scheme, bao.url, "") as door:
            os.environ["VAULT_TOKEN"] = bao.token
            yield "vault-transit://transit/sealchemy", door
    elif scheme == "aws-kms":
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        with clients(scheme, f"http://{host}:{port}", "") as door:
            from botocore.session import get_session

            client = get_session().create_client("kms", region_name="eu-west-1")
            yield f"aws-kms://{client.create_key()['KeyMetadata']['Arn']}", door
        server.stop()
    else:
        authority, context = kms_servers.certificate()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        tls = context if scheme == "azure-kv" else None
        respond = kms_servers.azure() if tls else kms_servers.google()
        with kms_servers.serve(respond, tls) as running, clients(scheme, running.url, str(tmp_path / "ca.pem")) as door:
            yield uri, door


def test_no_log_shows_what_opens_a_key(
    opened: tuple[str, OpenKms], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (uri, door), key, drawn = opened, Key.generate(), list[bytes]()
    draw = wrapped_key.draw

    def watch() -> Any:
        drawn.append(draw())
        return drawn[-1]

    monkeypatch.setattr(wrapped_key, "draw", watch)
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    with everything_logged() as logged:
        text = key.wrap(uri, open_kms=door)
        assert Key.parse(text, open_kms=door) == key
    printed = capsys.readouterr().out
    assert "send:" in printed or "azure-kv" in uri
    sealed = text.rsplit(".", 1)[1]
    for shown in (logged.text, printed):
        assert not [item for item in [*spellings(secret_of(key)), sealed] if item in shown]
    (once,) = drawn
    assert not [item for item in spellings(bytes(once)) if item in logged.text]  # the filter
    assert len(once) == 32


def test_no_frame_of_a_failure_shows_a_key(opened: tuple[str, OpenKms], monkeypatch: pytest.MonkeyPatch) -> None:
    (uri, door), key, drawn = opened, Key.generate(), list[bytes]()
    text = key.wrap(uri, open_kms=door)
    draw = wrapped_key.draw

    def watch() -> Any:
        drawn.append(draw())
        return drawn[-1]

    monkeypatch.setattr(wrapped_key, "draw", watch)

    def refuse(uri: str) -> Any:
        kms = door(uri)
        for name in ("wrap", "unwrap"):
            working = getattr(kms, name)

            def fail(*arguments: Any, working: Any = working) -> Any:
                working(*arguments)
                raise OSError

            setattr(kms, name, fail)
        return kms

    with pytest.raises(KmsError) as wrapping:
        key.wrap(uri, open_kms=refuse)
    with pytest.raises(KmsError) as unwrapping:
        Key.parse(text, open_kms=refuse)
    with pytest.raises(KmsError, match="put together") as opening:
        Key.parse(str(parse(text)._replace(sealed=bytes(48))), open_kms=door)
    for caught in (wrapping, unwrapping, opening):
        shown = frames_of(caught.value, package="sealchemy")
        assert "key_id" in shown or "found" in shown
        assert not [item for item in [*spellings(secret_of(key)), *spellings(bytes(drawn[0]))] if item in shown]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["wrap-key", "reveal-key", "check"])
def test_the_command_line_at_its_most_talkative(command: str, vault: OpenBao, tmp_path: Path) -> None:
    key = Key.generate()
    text = key.wrap("vault-transit://transit/sealchemy")
    (tmp_path / "models.py").write_text(
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column\nfrom sealchemy import EncryptedString\n"
        "class Base(DeclarativeBase): pass\n"
        "class T(Base):\n    __tablename__ = 't'\n    id: Mapped[int] = mapped_column(primary_key=True)\n"
        "    token: Mapped[str] = mapped_column(EncryptedString('t.token'))\n"
    )
    with __import__("sqlite3").connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, token TEXT)")
    connection.close()
    options = {
        "wrap-key": ["--to", "vault-transit://transit/sealchemy"],
        "reveal-key": ["--yes"],
        "check": ["--models", "models:Base", "--url", f"sqlite:///{tmp_path / 'x.db'}", "--prefix", "T"],
    }
    done = subprocess.run(
        [sys.executable, "-c", "from sealchemy.cli import main; main()", command, "-vv", *options[command]],
        cwd=tmp_path,
        env={**os.environ, "T_KEY": text},
        input=key.reveal() if command == "wrap-key" else text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not [item for item in [*spellings(secret_of(key)), text.rsplit(".", 1)[1]] if item in done.stderr]
    assert "plaintext" not in done.stderr
    if command == "reveal-key":
        assert done.stdout.strip() == key.reveal()
    if command == "wrap-key":
        assert Key.parse(done.stdout.strip()) == key
    del vault
