"""AWS KMS: `aws-kms://<ARN of a key or an alias>`, with the credentials that every AWS client finds."""

from typing import Any

from botocore.config import Config
from botocore.session import get_session

_LIMITS = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3})


class AwsKms:
    """A symmetric key of AWS KMS. The key id is in the encryption context, and so in CloudTrail."""

    loggers = ("botocore", "urllib3")

    def __init__(self, client: Any, arn: str) -> None:
        """Take the `kms` client of botocore or boto3 for the region of a key."""
        self._client, self._arn = client, arn

    def wrap(self, secret: bytes, key_id: str) -> tuple[bytes, str]:
        """Return bytes wrapped, and the ARN of the key, also where an alias was given."""
        answer = self._client.encrypt(KeyId=self._arn, Plaintext=secret, EncryptionContext=_context(key_id))
        return answer["CiphertextBlob"], answer["KeyId"]

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """Return the bytes; another key of AWS is refused."""
        answer = self._client.decrypt(KeyId=self._arn, CiphertextBlob=wrapped, EncryptionContext=_context(key_id))
        return bytes(answer["Plaintext"])

    def rewrap(self, wrapped: bytes, key_id: str, to: str) -> tuple[bytes, str] | None:
        """Wrap bytes for a key of the same region, within AWS."""
        if _region(to) != _region(self._arn):
            return None
        answer = self._client.re_encrypt(
            CiphertextBlob=wrapped,
            SourceKeyId=self._arn,
            SourceEncryptionContext=_context(key_id),
            DestinationKeyId=to,
            DestinationEncryptionContext=_context(key_id),
        )
        return answer["CiphertextBlob"], answer["KeyId"]


def connect(rest: str) -> AwsKms:
    """Return the key with an ARN."""
    session = get_session()
    client = session.create_client("kms", region_name=_region(rest), config=_LIMITS)
    if credentials := session.get_credentials():
        credentials.get_frozen_credentials()  # now, because it may ask for a code
    return AwsKms(client, rest)


def _context(key_id: str) -> dict[str, str]:
    return {"sealchemy-key-id": key_id}


def _region(arn: str) -> str:
    parts = arn.split(":")
    if len(parts) != 6 or parts[0] != "arn":  # noqa: PLR2004 - an ARN has six parts
        message = "the URI is aws-kms://arn:aws:kms:<region>:<account>:key/<id>, or alias/<name> in place of key/<id>"
        raise ValueError(message)
    return parts[3]
