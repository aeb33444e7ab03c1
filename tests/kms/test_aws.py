"""Keys in AWS KMS, as moto emulates it behind a server on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.session import get_session
from moto.server import ThreadedMotoServer

from sealchemy import Key, KeyRing, KmsError
from sealchemy._values.kms.services import move
from sealchemy._values.kms.wrapped_key import parse
from sealchemy.kms.aws import AwsKms, connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sealchemy.kms import Kms

KEY = Key.generate()
REGION = "eu-west-1"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "ENDPOINT_URL_KMS": server}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return get_session().create_client("kms", region_name=REGION)


@pytest.fixture
def arn(client: Any) -> str:
    return str(client.create_key()["KeyMetadata"]["Arn"])


def test_a_key_is_wrapped_and_used(arn: str) -> None:
    text = KEY.wrap(f"aws-kms://{arn}")
    assert parse(text).uri == f"aws-kms://{arn}"
    ring = KeyRing.from_env("T", {"T_KEY": text})
    assert ring.decrypt(ring.encrypt("ya29.token", "a.b"), "a.b") == "ya29.token"


def test_the_key_id_is_the_encryption_context(client: Any, arn: str) -> None:
    found = parse(KEY.wrap(f"aws-kms://{arn}"))
    context = {"sealchemy-key-id": KEY.id}
    assert len(client.decrypt(CiphertextBlob=found.wrapped, EncryptionContext=context)["Plaintext"]) == 32
    with pytest.raises(KmsError, match="InvalidCiphertext"):
        Key.parse(str(found._replace(key_id=Key.generate().id)))


def test_an_alias_is_resolved_when_wrapping(client: Any, arn: str) -> None:
    alias = f"alias/app-{KEY.id}"
    client.create_alias(AliasName=alias, TargetKeyId=arn.rpartition("/")[2])
    text = KEY.wrap(f"aws-kms://{arn.rpartition(':')[0]}:{alias}")
    assert parse(text).uri == f"aws-kms://{arn}"
    client.delete_alias(AliasName=alias)
    assert Key.parse(text) == KEY


def test_a_move_within_a_region_stays_in_aws(client: Any, arn: str) -> None:
    other = client.create_key()["KeyMetadata"]["Arn"]
    found, called = parse(KEY.wrap(f"aws-kms://{arn}")), list[str]()

    def open_watched(uri: str) -> Kms:
        kms = connect(uri.partition("://")[2])
        kms._client.meta.events.register("before-call.kms.*", lambda model, **_: called.append(model.name))
        return kms

    moved = move(found, f"aws-kms://{other}", open_watched)
    assert called == ["ReEncrypt"]
    assert (moved.uri, moved.sealed) == (f"aws-kms://{other}", found.sealed)
    assert Key.parse(str(moved)) == KEY


def test_a_move_to_another_region_goes_through_here(server: str, client: Any, arn: str) -> None:
    del client
    there = get_session().create_client("kms", region_name="us-east-1", endpoint_url=server)
    other = there.create_key()["KeyMetadata"]["Arn"]
    moved = move(parse(KEY.wrap(f"aws-kms://{arn}")), f"aws-kms://{other}", lambda uri: connect(uri[10:]))
    assert Key.parse(str(moved)) == KEY


def test_a_key_of_another_region_or_account_is_not_found(arn: str) -> None:
    text = KEY.wrap(f"aws-kms://{arn}")
    with pytest.raises(KmsError, match="NotFoundException"):
        Key.parse(text.replace(REGION, "us-east-1"))
    with pytest.raises(KmsError, match=r"aws-kms://arn:aws:kms:<region>:<account>:key/<id>"):
        KEY.wrap("aws-kms://alias/app")


def test_a_client_of_boto3_serves_as_well(client: Any, arn: str) -> None:
    """With `open_kms`, an application brings a client of its own, such as one with an assumed role."""
    text = KEY.wrap(f"aws-kms://{arn}")
    ring = KeyRing.from_env("T", {"T_KEY": text}, open_kms=lambda uri: AwsKms(client, uri.partition("://")[2]))
    assert ring.primary == KEY
