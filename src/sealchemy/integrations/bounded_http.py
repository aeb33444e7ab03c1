"""HTTP that is bounded in time and size, and logs nothing of what it carries."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from requests import ConnectionError as ConnectionFailed
from requests import PreparedRequest, ReadTimeout, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import ContentDecodingError
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import ProxyManager
from urllib3.util import Timeout

_LONGEST_BODY = 1024 * 1024
_COMPRESSIONS = {
    "br",
    "compress",
    "deflate",
    "gzip",
    "x-compress",
    "x-gzip",
    "zstd",
}  # others, such as utf-8, mean none


class _Response(http.client.HTTPResponse):
    def begin(self) -> None:
        """Read the headers, and forget malformed ones: urllib3 logs them, and they may be the body."""
        super().begin()
        self.msg.defects.clear()
        self.msg.set_payload("")


class _Bounded:
    """A connection that knows its transport, and prints nothing."""

    debuglevel = 0  # `http.client.HTTPConnection.debuglevel = 1`, a common recipe, prints headers and bodies
    response_class: Any = _Response
    transport: Transport

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc] # a connection comes after this class
        self.transport.watch(sock.dup())  # a TLS handshake detaches the socket itself
        return sock


class _Connection(_Bounded, HTTPConnection):
    pass


class _ConnectionTLS(_Bounded, HTTPSConnection):
    pass


class _BoundedPool:
    transport: Transport

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc] # a pool comes after this class
        connection.transport = self.transport
        return connection


class _Pool(_BoundedPool, HTTPConnectionPool):
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType] # as urllib3 itself does


class _PoolTLS(_BoundedPool, HTTPSConnectionPool):
    ConnectionCls = _ConnectionTLS  # pyright: ignore[reportAssignmentType]


_POOLS = {"http": _Pool, "https": _PoolTLS}


class Transport(HTTPAdapter):
    """The adapter of a `requests.Session` for one request, which ends in time, whatever it is doing.

    A timeout of `requests` applies to each wait on its own, for each address of a host, and not to name resolution. If
    a request outlasted the lease of a refresh, another caller would send the same refresh token.
    """

    def __init__(
        self, seconds: float, *, verify: bool | str = True, certificate: str | tuple[str, str] | None = None
    ) -> None:
        """Give up `seconds` from now.

        Args:
            seconds: for the whole request.
            verify: a file or folder with the authorities to trust, in place of those of `requests`.
            certificate: a file with the client's certificate and its key, or one for each.
        """
        self.seconds, self._deadline = seconds, time.monotonic() + seconds
        if not verify:  # `requests` would not verify certificates
            raise ValueError
        self._tls: dict[str, Any] = {"cert": certificate} | ({} if verify is True else {"verify": verify})
        self._sockets: list[socket.socket] = []
        super().__init__()

    def is_over(self) -> bool:
        """Return whether the time is over."""
        return time.monotonic() >= self._deadline

    def watch(self, sock: socket.socket) -> None:
        """End this connection when the time is over; before anything is sent, if connecting took that long."""
        self._sockets.append(sock)
        if self.is_over():
            self._end()

    def _end(self) -> None:
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use bounded connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Use bounded connections through a proxy too."""
        manager = super().proxy_manager_for(*args, **kwargs)
        if type(manager) is ProxyManager:  # the one for SOCKS has pools of its own
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Give the pool its transport."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.transport = self
        return pool

    def send(self, request: PreparedRequest, *_: Any, **kwargs: Any) -> Response:
        """Send, and read the whole response."""
        alarm = threading.Timer(self._deadline - time.monotonic(), self._end)
        alarm.daemon = True
        alarm.start()
        try:
            given = {"stream": True, "timeout": Timeout(total=self.seconds), **self._tls}
            response = super().send(request, **{**kwargs, **given})
            response._content = _whole(response)  # noqa: SLF001 - as `requests` sets it
            if self.is_over():
                raise ReadTimeout  # the alarm looks like the end of the body
            return response
        finally:
            alarm.cancel()
            for sock in self._sockets:
                sock.close()


def _whole(response: Response) -> bytes:
    codings = response.headers.get("Content-Encoding", "").lower().replace(",", " ").split()
    if not _COMPRESSIONS.isdisjoint(codings):
        raise ContentDecodingError  # a kilobyte can inflate to a gigabyte
    body = bytearray()
    for piece in response.raw.stream(65536, decode_content=False):
        body += piece
        if len(body) > _LONGEST_BODY:
            raise ConnectionFailed
    return bytes(body)
