"""What a KMS, its client, its credentials or a text can do wrong on purpose."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from sealchemy import Key, KeyFormatError, KeyRing, KmsError
from sealchemy._values.kms import services
from sealchemy._values.kms.services import move
from sealchemy._values.kms.wrapped_key import parse
from sealchemy.kms import open_kms
from sealchemy.kms.azure import AzureKeyVault
from tests.support.leaks import shown_by

from .test_wrapped_key import KEY, URI, LocalKms

if TYPE_CHECKING:
    from collections.abc import Callable

VAULT = "vault-transit://transit/app"
TEXT = str(parse(KEY.wrap(URI, open_kms=LocalKms()))._replace(uri=VAULT))
SECRET = "hvs.SENTINEL-credential"


@pytest.mark.parametrize(
    ("environ", "uri"),
    [
        ({"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": f"{SECRET}\n"}, VAULT),
        ({"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": f" {SECRET}"}, VAULT),
        ({"VAULT_ADDR": f"http://user:{SECRET}@127.0.0.1:1", "VAULT_TOKEN": "t"}, VAULT),
        (
            {
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_SESSION_TOKEN": f"{SECRET}\n",
                "AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:1",
            },
            "aws-kms://arn:aws:kms:eu-west-1:111122223333:key/1234",
        ),
        ({"GOOGLE_APPLICATION_CREDENTIALS": f'{{"private_key": "{SECRET}"}}'}, "gcp-kms://projects/p/k"),
    ],
    ids=["newline", "blank", "password in the address", "session token", "JSON in place of its file"],
)
def test_no_credential_shows_in_an_error(environ: dict[str, str], uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KmsError) as caught:
        Key.parse(TEXT.replace(VAULT, uri))
    assert SECRET not in str(caught.value)
    assert SECRET not in shown_by(caught.value)


class Odd(LocalKms):
    """A provider that does something else when it unwraps."""

    def __init__(self, unwrap: Callable[..., Any]) -> None:
        super().__init__()
        self.odd = unwrap

    def unwrap(self, *arguments: Any) -> Any:
        return self.odd(*arguments)


class UntoldError(Exception):
    def __str__(self) -> str:
        raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), UntoldError(), ValueError(SECRET)]
)
def test_nothing_leaves_the_thread(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", SECRET)
    left: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", left.append)

    def fail(*_: Any) -> Any:
        raise error

    began = time.monotonic()
    with pytest.raises(KmsError, match=type(error).__name__) as caught:
        Key.parse(TEXT, open_kms=lambda _: Odd(fail))
    assert time.monotonic() - began < 5
    assert left == []
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
    assert "Traceback" not in capsys.readouterr().err


def test_what_opens_a_key_is_in_no_frame() -> None:
    found = parse(TEXT)

    def fail(*_: Any) -> Any:
        raise OSError

    with pytest.raises(KmsError) as caught:
        Key.parse(TEXT, open_kms=lambda _: Odd(fail))
    shown = shown_by(caught.value)
    assert TEXT.rsplit(".", 1)[1] not in shown
    assert repr(bytes(found.sealed))[2:-1] not in shown
    assert repr(found).count("***") == 2


def test_the_kms_is_opened_in_the_thread_that_asks() -> None:
    """It may import modules of a package that is being imported, or ask for a code."""
    kms, threads = LocalKms(), set[int]()
    text = KEY.wrap(URI, open_kms=kms)

    def open_here(_: str) -> LocalKms:
        threads.add(threading.get_ident())
        return kms

    assert Key.parse(text, open_kms=open_here) == KEY
    assert threads == {threading.get_ident()}


class Slow(LocalKms):
    """A KMS that takes its time."""

    def wrap(self, *arguments: Any) -> Any:
        time.sleep(0.3)
        return super().wrap(*arguments)

    def unwrap(self, *arguments: Any) -> Any:
        time.sleep(0.3)
        return super().unwrap(*arguments)


def test_a_move_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    kms = Slow()
    found = parse(KEY.wrap(URI, open_kms=kms))
    monkeypatch.setattr(services, "_SECONDS", 0.45)
    with pytest.raises(KmsError, match=r"other://key: it gave no answer in 0\.45 s"):
        move(found, "other://key", kms)


def test_a_text_put_together_from_two_is_not_moved() -> None:
    kms = LocalKms()
    first, second = (parse(KEY.wrap(URI, open_kms=kms)) for _ in range(2))
    with pytest.raises(KmsError, match="put together"):
        move(first._replace(sealed=second.sealed), "other://key", kms)


@pytest.mark.parametrize(
    "answer",
    [None, (b"x",), ("text", "key"), (b"", "key"), (b"x", None), (b"x", ""), (b"x", "a key"), (b"x", "key", 1)],
    ids=repr,
)
def test_what_a_kms_says_it_wrapped_is_checked(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kms = LocalKms()
    monkeypatch.setattr(kms, "wrap", lambda *_: answer)
    with pytest.raises((KmsError, KeyFormatError)):
        KEY.wrap(URI, open_kms=kms)


@pytest.mark.parametrize("answer", [32, 10**9, [1] * 32, bytearray(32), "x" * 32])
def test_what_a_kms_unwrapped_has_to_be_bytes(answer: Any) -> None:
    with pytest.raises(KmsError, match="not bytes"):
        Key.parse(TEXT, open_kms=lambda _: Odd(lambda *_: answer))


def test_an_error_of_a_provider_is_cut_as_well() -> None:
    def fail(*_: Any) -> Any:
        raise KmsError("first\nsecond\x1b[31m" + "x" * 5000)

    with pytest.raises(KmsError) as caught:
        Key.parse(TEXT, open_kms=lambda _: Odd(fail))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 450


@pytest.mark.parametrize("path", ["key", "transit/..", "cubbyhole/../transit/key", "a/../../sys/key", "transit//key"])
def test_a_path_of_vault_names_one_key(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    monkeypatch.setenv("VAULT_TOKEN", "test")
    with pytest.raises(KmsError, match="vault-transit://<mount>/<key>"):
        Key.parse(TEXT.replace(VAULT, f"vault-transit://{path}"))


class Answer:
    encrypted_key, key_id = b"x", "https://team.vault.azure.net/keys/app"


def test_azure_has_to_name_the_version_of_its_key() -> None:
    class Client:
        def wrap_key(self, *_: Any, **__: Any) -> Answer:
            return Answer()

    client: Any = Client()
    with pytest.raises(KmsError, match="did not name the version"):
        KEY.wrap("azure-kv://team.vault.azure.net/keys/app", open_kms=lambda _: AzureKeyVault(client))


class EntryPoint:
    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value

    def load(self) -> Any:
        if self.value == "broken:connect":
            raise ModuleNotFoundError("no backend")
        return lambda rest: (self.value, rest)


class EntryPoints(list[Any]):
    @property
    def names(self) -> set[str]:
        return {item.name for item in self}


def test_no_package_takes_over_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    ours = EntryPoint("aws-kms", "sealchemy.kms.aws:connect")
    found = [EntryPoint("aws-kms", "evil:connect"), ours, EntryPoint("one", "a:b"), EntryPoint("two", "a:b")]
    found += [EntryPoint("two", "c:d"), EntryPoint("broken", "broken:connect")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: EntryPoints(found))
    assert open_kms("aws-kms://key") == ("sealchemy.kms.aws:connect", "key")
    assert open_kms("one://key") == ("a:b", "key")
    with pytest.raises(KmsError, match="several packages provide the scheme two: a:b, c:d"):
        open_kms("two://key")
    with pytest.raises(KmsError, match="ModuleNotFoundError: no backend"):
        Key.parse(TEXT.replace(VAULT, "broken://key"))


def test_one_login_serves_all_keys_of_a_ring() -> None:
    kms = LocalKms()
    old = Key.generate()
    environ = {"T_KEY": KEY.wrap(URI, open_kms=kms), "T_PREVIOUS_KEYS": old.wrap(URI, open_kms=kms)}
    kms.asked.clear()
    assert KeyRing.from_env("T", environ, open_kms=kms).previous == (old,)
    assert kms.asked == {URI: 1}
