"""A proxy on loopback that cuts connections."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Proxy:
    """Forwards TCP connections to a server, and cuts them when it is told to.

    Attributes:
        port: where it listens.
        lost: how many a test has seen lost.
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
        """Serve until the end."""
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
        """Cut all connections that are there."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def cut_at_random(self, shortest: float, longest: float) -> None:
        """Cut now and then, until the end."""
        while not self._ended.wait(random.uniform(shortest, longest)):
            self.cut()

    def calm(self) -> None:
        """Cut no more."""
        self._ended.set()

    def close(self) -> None:
        """End."""
        self.calm()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@contextmanager
def cutting(host: str, port: int, shortest: float, longest: float) -> Iterator[Proxy]:
    """Run a proxy that cuts all connections at random moments, this many seconds apart."""
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
