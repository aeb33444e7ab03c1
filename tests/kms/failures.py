"""What goes wrong with a KMS, and how it is told: each failure with its text and its time.

`python -m tests.kms.failures` writes the table in the guide.
"""

from __future__ import annotations

import os
import tempfile
import textwrap
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

from google.oauth2.credentials import Credentials

from sealchemy import Key, KmsError
from sealchemy._values.kms.wrapped_key import WrappedKey
from sealchemy.kms import open_kms
from sealchemy.kms.google import GoogleKms, session_with
from tests.support import kms_servers
from tests.support.kms_servers import (
    AZURE_HOST,
    CHALLENGE,
    Answer,
    aws_error,
    azure_error,
    google_error,
    serve,
    vault_error,
)
from tests.support.postgresql import _free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sealchemy.kms import OpenKms

GUIDE = Path(__file__).parents[2] / "docs/how-to/keep-keys-in-a-kms.md"
START, END = "<!-- failures: python -m tests.kms.failures -->", "<!-- end -->"

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
URIS = {
    "aws-kms": f"aws-kms://{ARN}",
    "gcp-kms": "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k",
    "azure-kv": f"azure-kv://{AZURE_HOST}/keys/app/v1",
    "vault-transit": "vault-transit://transit/app",
}
REDIRECT = "redirect to another host"
_SHOWN = 120

Fault = Answer | str


class Failure(NamedTuple):
    """A failure of a KMS.

    Attributes:
        name: what is wrong.
        scheme: whose client meets it.
        fault: what the server does: an answer, or `away`, `silent`, `slow`, or REDIRECT.
        text: what the error says of it.
    """

    name: str
    scheme: str
    fault: Fault
    text: str


def _of(scheme: str, **faults: tuple[Fault, str]) -> list[Failure]:
    return [Failure(name.replace("_", " "), scheme, fault, text) for name, (fault, text) in faults.items()]


FAILURES = [
    *_of(
        "aws-kms",
        away=("away", "Could not connect to the endpoint URL"),
        silent=("silent", "Read timeout on endpoint URL"),
        slow=("slow", "no answer in 18 s"),
        throttled=(aws_error("ThrottlingException", "Rate exceeded"), "ThrottlingException"),
        denied=(aws_error("AccessDeniedException", "not authorized to perform: kms:Decrypt"), "AccessDeniedException"),
        disabled=(aws_error("DisabledException", f"{ARN} is disabled."), "is disabled"),
        wrong_region=(aws_error("NotFoundException", f"Key '{ARN}' does not exist"), "does not exist"),
        wrong_ciphertext=(aws_error("InvalidCiphertextException", ""), "InvalidCiphertextException"),
        expired_credentials=(aws_error("ExpiredTokenException", "The security token is expired"), "is expired"),
    ),
    Failure(REDIRECT, "aws-kms", REDIRECT, "307"),
    *_of(
        "gcp-kms",
        away=("away", "Failed to establish a new connection"),
        silent=("silent", "Read timed out"),
        slow=("slow", "no answer in 18 s"),
        throttled=(google_error(429, "RESOURCE_EXHAUSTED", "Quota exceeded"), "HTTP 429: .*Quota exceeded"),
        denied=(google_error(403, "PERMISSION_DENIED", "Permission 'useToDecrypt' denied"), "HTTP 403: .*denied"),
        disabled=(google_error(400, "FAILED_PRECONDITION", "version is not enabled"), "HTTP 400: .*not enabled"),
        wrong_ciphertext=(google_error(400, "INVALID_ARGUMENT", "Decryption failed"), "HTTP 400: .*Decryption failed"),
        expired_credentials=(google_error(401, "UNAUTHENTICATED", "invalid credentials"), "RefreshError: .*invalid"),
    ),
    Failure(REDIRECT, "gcp-kms", REDIRECT, "HTTP 307"),
    *_of(
        "azure-kv",
        away=("away", "Connection refused"),
        silent=("silent", "timed out|no answer in 18 s"),
        slow=("slow", "no answer in 18 s"),
        throttled=(azure_error(429, "Throttled", "The rate is exceeded"), "Throttled|no answer in 18 s"),
        denied=(azure_error(403, "Forbidden", "does not have keys unwrapKey permission"), "unwrapKey permission"),
        disabled=(
            azure_error(403, "Forbidden", "unwrapKey is not allowed on a disabled key"),
            "disabled key",
        ),
        wrong_ciphertext=(azure_error(400, "BadParameter", "The parameter is incorrect."), "BadParameter"),
        expired_credentials=(Answer(401, {"error": {"code": "Unauthorized"}}, CHALLENGE), "Unauthorized"),
    ),
    Failure(REDIRECT, "azure-kv", REDIRECT, "307|Temporary Redirect"),
    *_of(
        "vault-transit",
        away=("away", "Connection refused"),
        silent=("silent", "Read timed out"),
        slow=("slow", "no answer in 18 s"),
        throttled=(vault_error(429, "request path: rate limit quota exceeded"), "rate limit quota exceeded"),
        denied=(
            vault_error(403, "1 error occurred:\n\t* permission denied"),
            "occurred: [*] permission denied",
        ),
        disabled=(vault_error(400, "ciphertext or signature version is disallowed by policy (too old)"), "too old"),
        sealed=(vault_error(503, "Vault is sealed"), "Vault is sealed"),
        wrong_ciphertext=(vault_error(400, "cipher: message authentication failed"), "message authentication failed"),
        expired_credentials=(vault_error(403, "permission denied"), "Forbidden: permission denied"),
    ),
    Failure(REDIRECT, "vault-transit", REDIRECT, "a redirect to another host"),
]


@contextmanager
def clients(scheme: str, url: str, authority: str) -> Iterator[OpenKms]:
    """Let the client of a scheme talk to a server on loopback."""
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL_KMS": url,
        "VAULT_ADDR": url,
        "VAULT_TOKEN": "test",
    }
    with mock.patch.dict(os.environ, environment):
        if scheme == "gcp-kms":
            names = ("refresh_token", "client_id", "client_secret")
            credentials = Credentials("token", token_uri=f"{url}/token", **dict.fromkeys(names, "test"))
            session = session_with(credentials)
            yield lambda uri: GoogleKms(session, uri.partition("://")[2], url)
        elif scheme == "azure-kv":
            from .test_azure import open_at

            yield open_at(url, authority)
        else:
            yield open_kms


@contextmanager
def faulty(failure: Failure) -> Iterator[tuple[OpenKms, list[Any]]]:
    """Run a server with a fault; yield the client's door, and the requests that reached another host."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        authority, context = kms_servers.certificate()
        file = f"{folder}/ca.pem"
        authority.cert_pem.write_to_path(file)
        tls = context if failure.scheme == "azure-kv" else None
        other = stack.enter_context(serve(lambda _: Answer(200, {}), tls))
        if failure.fault == "away":
            url = f"{'https' if tls else 'http'}://127.0.0.1:{_free_port()}"
        else:
            url = stack.enter_context(serve(_responses(failure, f"{other.url}/v1/there"), tls)).url
        yield stack.enter_context(clients(failure.scheme, url, file)), other.requests


def _responses(failure: Failure, there: str) -> Callable[[Any], Answer | str]:
    key = kms_servers.azure()

    def respond(request: Any) -> Answer | str:
        needs_token = failure.scheme == "azure-kv" and "authorization" not in request.headers
        if needs_token or (
            failure.scheme == "azure-kv" and request.method == "GET" and isinstance(failure.fault, Answer)
        ):
            return key(request)
        if failure.fault == REDIRECT:
            return Answer(307, {}, {"Location": there})
        return failure.fault

    return respond


KEY = Key.generate()


def measure(failure: Failure, open_kms: OpenKms) -> tuple[str, float]:
    """Return the text of the error, and the seconds until it came."""
    text, began = str(WrappedKey(KEY.id, URIS[failure.scheme], b"vault:v1:AAAA", bytes(48))), time.monotonic()
    try:
        Key.parse(text, open_kms=open_kms)
    except KmsError as error:
        return str(error), time.monotonic() - began
    raise AssertionError(failure)


def main() -> None:
    """Write the table."""
    lines = ["| failure | client | the error says | after |", "|---|---|---|---|"]
    for failure in sorted(FAILURES, key=lambda item: item.name):
        with faulty(failure) as (open_faulty, _):
            text, seconds = measure(failure, open_faulty)
        said = text.removeprefix(f"key {KEY.id}: {URIS[failure.scheme]}: ").replace("|", "\\|")
        said = textwrap.shorten(said, _SHOWN, placeholder=" …")
        lines.append(f"| {failure.name} | `{failure.scheme}` | {said} | {seconds:.1f} s |")
    page = GUIDE.read_text()
    head, rest = page.split(START)
    GUIDE.write_text(head + START + "\n" + "\n".join(lines) + "\n" + END + rest.split(END, 1)[1])


if __name__ == "__main__":
    main()
