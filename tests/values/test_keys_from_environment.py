"""`KeyRing.from_env`: every error names the variable and never shows its value."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from sealchemy import Key, KeyFormatError, KeyRing, KeyRingError, MissingKeyError
from sealchemy._values.blind_index import digester_of
from tests.support.leaks import assert_silent

PREFIX = "INTEGRATION_TOKEN_ENCRYPTION"
KEY, PREVIOUS = f"{PREFIX}_KEY", f"{PREFIX}_PREVIOUS_KEYS"
ONE, TWO, THREE = (Key.generate() for _ in range(3))
BASE64 = base64.b64encode(bytes(range(1, 33))).decode()
EXAMPLE = Path(__file__).parents[2] / ".env.example"


def from_env(**variables: str) -> KeyRing:
    return KeyRing.from_env(PREFIX, variables)


def test_keys_are_read_from_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, ONE.reveal())
    assert KeyRing.from_env(PREFIX).primary == ONE


def test_previous_keys_are_separated_by_commas_or_newlines() -> None:
    for text in (
        f"{TWO.reveal()},{THREE.reveal()}",
        f"{TWO.reveal()}\n{THREE.reveal()}\n",
        f" {TWO.reveal()} , {THREE.reveal()}",
    ):
        ring = from_env(**{KEY: ONE.reveal(), PREVIOUS: text})
        assert ring.previous == (TWO, THREE)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_keys_are_read_from_files(tmp_path: Path, ending: str) -> None:
    (tmp_path / "key").write_bytes((ONE.reveal() + ending).encode())
    (tmp_path / "previous").write_bytes(f"{TWO.reveal()}\r\n{THREE.reveal()}{ending}".encode())
    ring = from_env(**{f"{KEY}_FILE": str(tmp_path / "key"), f"{PREVIOUS}_FILE": str(tmp_path / "previous")})
    assert (ring.primary, ring.previous) == (ONE, (TWO, THREE))


def test_empty_variables_count_as_absent() -> None:
    ring = from_env(**{KEY: ONE.reveal(), f"{KEY}_FILE": "", PREVIOUS: "", f"{PREVIOUS}_FILE": ""})
    assert (ring.primary, ring.previous) == (ONE, ())


@pytest.mark.parametrize(
    ("name", "meant"),
    [("KEYS", "KEY"), ("PREVIOUS_KEY", "PREVIOUS_KEYS"), ("INDEX_KEYS_FILE", "INDEX_KEY_FILE")],
)
def test_a_variable_of_almost_the_same_name_is_a_warning(
    name: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    from_env(**{KEY: ONE.reveal(), f"{PREFIX}_{name}": TWO.reveal()})
    assert caplog.messages == [f"{PREFIX}_{name} is not read; the name is {PREFIX}_{meant}"]


WRONG = {
    "absent": ({}, MissingKeyError, KEY),
    "empty": ({KEY: ""}, MissingKeyError, KEY),
    "previous without primary": ({PREVIOUS: BASE64}, MissingKeyError, KEY),
    "placeholder": ({KEY: "replace-me-with-the-output-of-sealchemy-generate-key"}, KeyFormatError, KEY),
    "31 bytes": ({KEY: base64.b64encode(bytes(range(31))).decode()}, KeyFormatError, KEY),
    "mistyped prefix": ({KEY: ONE.reveal().replace("sealchemy", "seelchemy")}, KeyFormatError, KEY),
    "hex": ({KEY: bytes(range(32)).hex()}, KeyFormatError, KEY),
    "stray characters": ({KEY: BASE64[:20] + " " + BASE64[20:]}, KeyFormatError, KEY),
    "trailing newline": ({KEY: BASE64 + "\n"}, KeyFormatError, KEY),
    "passphrase": ({KEY: base64.b64encode(b"my very secret pass phrase, yes!").decode()}, KeyFormatError, KEY),
    "too short": ({KEY: "c2hvcnQ="}, KeyFormatError, KEY),
    "value and file": ({KEY: BASE64, f"{KEY}_FILE": "/nowhere/key"}, KeyFormatError, f"{KEY}_FILE"),
    "previous value and file": (
        {KEY: ONE.reveal(), PREVIOUS: BASE64, f"{PREVIOUS}_FILE": "/x"},
        KeyFormatError,
        PREVIOUS,
    ),
    "no such file": ({f"{KEY}_FILE": "/nowhere/at/all/key-file"}, MissingKeyError, f"{KEY}_FILE"),
    "folder": ({f"{KEY}_FILE": "/"}, MissingKeyError, f"{KEY}_FILE"),
    "key instead of a path": ({f"{KEY}_FILE": BASE64}, MissingKeyError, f"{KEY}_FILE"),
    "primary among previous": ({KEY: BASE64, PREVIOUS: BASE64}, KeyFormatError, PREVIOUS),
    "duplicate previous": ({KEY: ONE.reveal(), PREVIOUS: f"{BASE64},{BASE64}"}, KeyFormatError, PREVIOUS),
    "malformed previous": ({KEY: ONE.reveal(), PREVIOUS: f"{BASE64},nonsense-{BASE64}"}, KeyFormatError, PREVIOUS),
}


@pytest.mark.parametrize(("variables", "error", "named"), WRONG.values(), ids=WRONG.keys())
def test_invalid_configuration_is_refused_and_values_are_not_shown(
    variables: dict[str, str], error: type[KeyRingError], named: str
) -> None:
    with pytest.raises(error, match=named) as caught:
        from_env(**variables)
    assert_silent(caught.value, *[value for value in variables.values() if len(value) > 12])


@pytest.mark.parametrize("case", ["absent", "placeholder", "31 bytes", "hex", "no such file"])
def test_error_names_the_command_that_generates_a_key(case: str) -> None:
    with pytest.raises(KeyRingError, match="sealchemy generate-key"):
        from_env(**WRONG[case][0])


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", MissingKeyError),
        (b"\n", MissingKeyError),
        (bytes(range(128, 160)), KeyFormatError),
        (b"nonsense", KeyFormatError),
        (BASE64.encode() + b"\n\n", KeyFormatError),
    ],
    ids=["empty", "newline", "raw bytes", "nonsense", "two newlines"],
)
def test_unusable_key_file_is_refused(tmp_path: Path, content: bytes, error: type[KeyRingError]) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(error, match=f"{KEY}_FILE"):
        from_env(**{f"{KEY}_FILE": str(tmp_path / "key")})


def test_unedited_example_file_is_refused() -> None:
    lines = [line.split("=", 1) for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    with pytest.raises(KeyFormatError, match=r"placeholder of \.env\.example"):
        from_env(**dict(lines))


@pytest.mark.parametrize(
    "prefix", [ONE.reveal(), "", "lower", "A B", None], ids=["key", "empty", "lower", "space", "None"]
)
def test_malformed_prefix_is_refused_and_not_shown(prefix: str) -> None:
    with pytest.raises(KeyFormatError, match="prefix") as caught:
        KeyRing.from_env(prefix, {})
    assert_silent(caught.value, ONE.reveal())


def test_the_name_of_a_file_may_be_a_path(tmp_path: Path) -> None:
    key, path = Key.generate(), tmp_path / "key"
    path.write_text(key.reveal())
    assert KeyRing.from_env("P", {"P_KEY_FILE": path}).primary == key  # type: ignore[dict-item]


def test_only_its_own_variables_are_read() -> None:
    class Lazy(dict[str, str]):
        def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
            assert name.startswith("P_"), name
            return super().get(name, default)

        def items(self) -> object:  # type: ignore[override]
            raise AssertionError

    key = Key.generate()
    assert KeyRing.from_env("P", Lazy(P_KEY=key.reveal())).primary == key


def test_a_key_in_place_of_the_prefix_stays_out_of_the_frames() -> None:
    key = Key.generate().reveal()
    for prefix in (key, key + "\ud800"):
        with pytest.raises(KeyFormatError) as caught:
            KeyRing.from_env(prefix)
        assert_silent(caught.value, key[20:])


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_who_can_read_and_write_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "key"
    path.write_text(ONE.reveal())
    for mode, warns in ((0o600, False), (0o400, False), (0o640, False), (0o644, True), (0o444, True)):
        path.chmod(mode)
        caplog.clear()
        assert from_env(**{f"{KEY}_FILE": str(path)}).primary == ONE
        assert ("can read the key's file" in caplog.text) is warns
        assert str(path) not in caplog.text
    for mode in (0o666, 0o602):
        path.chmod(mode)
        with pytest.raises(KeyFormatError, match="can write it") as caught:
            from_env(**{f"{KEY}_FILE": str(path)})
        assert ONE.reveal() not in str(caught.value)


def test_a_ring_that_keeps_no_secrets_works_and_shows_none() -> None:
    environ = {KEY: ONE.reveal(), PREVIOUS: TWO.reveal(), f"{PREFIX}_INDEX_KEY": THREE.reveal()}
    ring, whole = (KeyRing.from_env(PREFIX, environ, keep_secrets=keep) for keep in (False, True))
    assert ring.decrypt(KeyRing(primary=TWO).encrypt("x", "a.b"), "a.b") == "x"
    assert whole.decrypt(ring.encrypt("y", "a.b"), "a.b") == "y"
    assert ring.index_key is not None
    assert digester_of(ring, "a.b")(b"z") == digester_of(whole, "a.b")(b"z")
    assert (ring.primary, ring.previous, ring.index_key) == (ONE, (TWO,), THREE)
    for key in _keys(ring):
        with pytest.raises(KeyRingError, match=f"key {key.id} cannot be shown or wrapped.*keep_secrets=False"):
            key.reveal()
        with pytest.raises(KeyRingError, match="cannot be shown or wrapped"):
            key.wrap("vault-transit://transit/key")
    secrets = {
        base64.urlsafe_b64decode(key.reveal().removeprefix("sealchemy-key-v1."))[:32] for key in (ONE, TWO, THREE)
    }
    assert not any(
        getattr(key, name) in secrets for key in _keys(ring) for name in Key.__slots__ if name != "_data_key"
    )


def _keys(ring: KeyRing) -> list[Key]:
    return [ring.primary, *ring.previous, *filter(None, [ring.index_key])]
