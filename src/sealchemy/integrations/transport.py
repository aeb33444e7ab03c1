"""HTTP that is bounded in time and size, and tells nobody what it carried."""

from __future__ import annotations

import time
from typing import Any

from requests import ConnectionError as ConnectionFailed
from requests import PreparedRequest, ReadTimeout, Response
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Timeout

_LONGEST_BODY = 1024 * 1024


class _Quiet(HTTPConnection):
    debuglevel = 0  # `http.client.HTTPConnection.debuglevel = 1`, a common recipe, prints headers and bodies


class _QuietTLS(HTTPSConnection):
    debuglevel = 0


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Quiet  # pyright: ignore[reportAssignmentType] # as urllib3 itself does


class _PoolTLS(HTTPSConnectionPool):
    ConnectionCls = _QuietTLS  # pyright: ignore[reportAssignmentType]


_POOLS = {"http": _Pool, "https": _PoolTLS}


class Transport(HTTPAdapter):
    """The adapter of a `requests.Session` for one request.

    It is a class because `requests` takes one. A timeout of `requests` holds for each wait on its own, so a server
    that sends a byte now and then would outlast a lease.
    """

    def __init__(self, seconds: float) -> None:
        """Give up after `seconds`."""
        self._seconds = seconds
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use connections that print nothing."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Use them through a proxy too."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, request: PreparedRequest, *_: Any, **kwargs: Any) -> Response:
        """Send, and read the whole answer."""
        deadline = time.monotonic() + self._seconds
        response = super().send(request, **{**kwargs, "stream": True, "timeout": Timeout(total=self._seconds)})
        body = bytearray()
        for piece in response.iter_content(1):  # a larger piece would be waited for
            body += piece
            if time.monotonic() > deadline:
                raise ReadTimeout
            if len(body) > _LONGEST_BODY:
                raise ConnectionFailed
        response._content = bytes(body)  # noqa: SLF001 - as `requests` sets it
        return response
