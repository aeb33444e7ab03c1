"""A loopback proxy that cuts connections."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Proxy:
    """Forward TCP connections to a server, and cut them on request.

    Attributes:
        port: the port it listens on.
        lost: number of lost connections that a test has counted.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lost = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def accept(self) -> None:
        """Accept connections until the proxy is closed."""
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._target)
                with self._lock:
                    self._pairs.append((client, server))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Cut all current connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def cut_at_random(self, shortest: float, longest: float) -> None:
        """Cut all connections at random intervals, until `calm()` or `close()`."""
        while not self._ended.wait(random.uniform(shortest, longest)):
            self.cut()

    def calm(self) -> None:
        """Stop cutting connections."""
        self._ended.set()

    def close(self) -> None:
        """Stop the proxy."""
        self.calm()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@contextmanager
def cutting(host: str, port: int, shortest: float, longest: float) -> Iterator[Proxy]:
    """Run a proxy that cuts all connections at random intervals of this many seconds."""
    proxy = Proxy(host, port)
    threads = [
        threading.Thread(target=proxy.accept),
        threading.Thread(target=proxy.cut_at_random, args=(shortest, longest)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        for thread in threads:
            thread.join()
