"""Stand-ins for key management services that do not run here, and servers with the faults of all of them."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import trustme
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Request(NamedTuple):
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Answer(NamedTuple):
    """What it gets."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class Running(NamedTuple):
    """A server, and the requests that it got."""

    url: str
    requests: list[Request]


@contextmanager
def serve(respond: Callable[[Request], Answer | str], context: ssl.SSLContext | None = None) -> Iterator[Running]:
    """Serve on loopback what a function returns; for `silent` nothing, and for `slow` a byte a second."""
    over, seen = threading.Event(), list[Request]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            is_json = text.startswith(b"{")
            seen.append(Request(self.command, self.path, headers, json.loads(text) if is_json else {}))
            answer = respond(seen[-1])
            if isinstance(answer, str):
                while not over.wait(1) and answer == "slow":
                    self.wfile.write(b"H")
                    self.wfile.flush()
                over.wait()
                return
            content = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - its name in the standard library

        def handle(self) -> None:
            with suppress(OSError):  # the client gave up
                super().handle()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield Running(f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}", seen)
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def google() -> Callable[[Request], Answer]:
    """Return Google Cloud KMS, as its documentation describes `encrypt` and `decrypt` of a symmetric key."""
    key = AESGCM(os.urandom(32))

    def respond(request: Request) -> Answer:
        name, _, verb = request.path.removeprefix("/v1/").rpartition(":")
        data = (name + request.body["additionalAuthenticatedData"]).encode()
        if verb == "encrypt":
            nonce = os.urandom(12)
            ciphertext = nonce + key.encrypt(nonce, b64decode(request.body["plaintext"]), data)
            answer = {"name": f"{name}/cryptoKeyVersions/1", "ciphertext": b64encode(ciphertext).decode()}
            return Answer(200, answer)
        ciphertext = b64decode(request.body["ciphertext"])
        try:
            plaintext = key.decrypt(ciphertext[:12], ciphertext[12:], data)
        except InvalidTag:
            error = {
                "code": 400,
                "message": "Decryption failed: the ciphertext is invalid.",
                "status": "INVALID_ARGUMENT",
            }
            return Answer(400, {"error": error})
        return Answer(200, {"plaintext": b64encode(plaintext).decode()})

    return respond


AZURE_HOST = "team.vault.azure.net"
CHALLENGE = {
    "WWW-Authenticate": 'Bearer authorization="https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000",'
    ' resource="https://vault.azure.net"'
}


def azure() -> Callable[[Request], Answer]:
    """Return Azure Key Vault, as its documentation describes an RSA key: getting it, and `unwrapkey`."""
    key = rsa.generate_private_key(65537, 2048)
    numbers = key.public_key().public_numbers()
    scheme = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)

    def respond(request: Request) -> Answer:
        if "authorization" not in request.headers:
            error = {"code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token."}
            return Answer(401, {"error": error}, CHALLENGE)
        path = request.path.partition("?")[0].strip("/").split("/")
        name, version = path[1], path[2] if len(path) > 2 else ""
        kid = f"https://{AZURE_HOST}/keys/{name}/{version or 'v1'}"
        if request.method == "GET":
            n, e = (
                urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()
                for value in (numbers.n, numbers.e)
            )
            operations = ["wrapKey", "unwrapKey"]
            jwk = {"kid": kid, "kty": "RSA", "key_ops": operations, "n": n, "e": e}
            return Answer(200, {"key": jwk, "attributes": {"enabled": True, "created": 1, "updated": 1}})
        value = request.body["value"]
        try:
            plaintext = key.decrypt(urlsafe_b64decode(value + "=" * (-len(value) % 4)), scheme)
        except ValueError:
            error = {"code": "BadParameter", "message": "The parameter is incorrect."}
            return Answer(400, {"error": error})
        return Answer(200, {"kid": kid, "value": urlsafe_b64encode(plaintext).rstrip(b"=").decode()})

    return respond


def certificate() -> tuple[trustme.CA, ssl.SSLContext]:
    """Return an authority, and the context of a server on loopback that it vouches for."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return authority, context


def aws_error(kind: str, message: str) -> Answer:
    """Return an error as AWS KMS gives it."""
    return Answer(400, {"__type": kind, "message": message}, {"Content-Type": "application/x-amz-json-1.1"})


def google_error(code: int, status: str, message: str) -> Answer:
    """Return an error as Google gives it."""
    return Answer(code, {"error": {"code": code, "message": message, "status": status}})


def azure_error(code: int, kind: str, message: str) -> Answer:
    """Return an error as Azure gives it."""
    return Answer(code, {"error": {"code": kind, "message": message}})


def vault_error(code: int, *messages: str) -> Answer:
    """Return an error as Vault gives it."""
    return Answer(code, {"errors": list(messages)})


def seconds(work: Callable[[], Any]) -> float:
    """Return how long something takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began
