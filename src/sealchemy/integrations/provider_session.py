"""`ProviderSession`: Authlib's session, with our own parser of responses, time limit and errors."""

import time
from collections.abc import Callable
from typing import Any, Self

from authlib.common.errors import AuthlibBaseError  # type: ignore[import-untyped]
from authlib.integrations.requests_client import OAuth2Session  # type: ignore[import-untyped]
from requests import RequestException, Response
from requests.exceptions import SSLError, Timeout
from urllib3.exceptions import HTTPError

from sealchemy._values.secret import hide

from .bounded_http import Transport
from .responses import Refused, parse

_AuthlibSession: Any = OAuth2Session  # Authlib has no types

_THEIR_ERRORS = (
    RequestException,
    HTTPError,
    AuthlibBaseError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)


class ProviderSession(_AuthlibSession):  # type: ignore[misc]
    """A session for one endpoint of a provider."""

    def __init__(self, endpoint: str, time_limit: float, **options: Any) -> None:
        """Connect to nothing yet.

        Args:
            endpoint: where the requests go.
            time_limit: seconds for one request.
            options: of Authlib's session.
        """
        super().__init__(**options)
        self._time_limit = time_limit
        for scheme in ("https://", "http://"):
            self.mount(scheme, Transport(time_limit))
        self.trust_env = endpoint.startswith("https:")  # requests that stay on this machine use no proxy

    def parse_response_token(self, resp: Response) -> dict[str, Any]:
        """Return the response to a request for a token; Authlib calls this."""
        token = parse(resp)
        if not token.get("access_token"):
            token, resp = {}, hide(resp)  # error trackers print the variables of a frame
            raise Refused("sent a response without an access token")
        return token

    def ask(self, request: Callable[[Self], Any]) -> Any:
        """Return the response to a request, or a new `Refused`, and close the session.

        The errors of Authlib and `requests` are not raised from here: they carry the request with its tokens, and so
        do the frames of their tracebacks. The exception of a signal handler is raised without its traceback.
        """
        began = time.monotonic()
        try:
            with self:
                return request(self)
        except Refused as error:
            return Refused(str(error), error.code, error.retry_after)
        except _THEIR_ERRORS as error:
            if isinstance(error, Timeout) or time.monotonic() - began >= self._time_limit:
                return Refused(f"did not respond within {self._time_limit:g} s")
            if isinstance(error, SSLError):
                return Refused("has no certificate that this machine trusts")
            if isinstance(error, RequestException | HTTPError):
                return Refused("could not be reached")
            return Refused(f"could not be asked ({type(error).__name__})")
        except BaseException as error:  # noqa: BLE001 - an interruption
            interruption = error.with_traceback(None)
            interruption.__context__ = interruption.__cause__ = None
        raise interruption
