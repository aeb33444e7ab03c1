"""`ProviderSession`: Authlib's session, with our own parser of responses, time limit and errors."""

import time
from collections.abc import Callable, Collection
from collections.abc import Set as AbstractSet
from typing import Any, Self

from authlib.common.errors import AuthlibBaseError  # type: ignore[import-untyped]
from authlib.integrations.requests_client import OAuth2Session  # type: ignore[import-untyped]
from requests import RequestException, Response
from requests.exceptions import ContentDecodingError, SSLError, Timeout
from urllib3.exceptions import HTTPError

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

    def __init__(
        self, endpoint: str, time_limit: float, dead: AbstractSet[str], sent: Collection[str], **options: Any
    ) -> None:
        """Connect to nothing yet.

        Args:
            endpoint: where the requests go.
            time_limit: seconds for one request.
            dead: the codes that say that a grant is dead.
            sent: the secrets that the request will have.
            options: of Authlib's session.
        """
        super().__init__(**options)
        self._time_limit, self._dead, self._sent = time_limit, dead, sent
        self.headers["Accept-Encoding"] = "identity"
        for scheme in ("https://", "http://"):
            self.mount(scheme, Transport(time_limit))
        self.trust_env = endpoint.startswith("https:")  # requests that stay on this machine use no proxy

    def parse_response_token(self, resp: Response) -> dict[str, Any]:
        """Return the response to a request for a token; Authlib calls this."""
        return self.parse(resp)

    def parse(self, response: Response, *, needs_token: bool = True) -> dict[str, Any]:
        """Return the JSON object of a response, or raise `Refused`."""
        return parse(response, self._dead, self._sent, needs_token=needs_token)

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
            return error.copy()
        except _THEIR_ERRORS as error:
            if isinstance(error, Timeout) or time.monotonic() - began >= self._time_limit:
                return Refused(f"did not respond within {self._time_limit:g} s", "timeout")
            if isinstance(error, SSLError):
                return Refused("has no certificate that this machine trusts", "untrusted_certificate")
            if isinstance(error, ContentDecodingError):
                return Refused("sent a compressed response, which is not accepted", "unusable_response")
            if isinstance(error, RequestException | HTTPError):
                return Refused("could not be reached", "unreachable")
            return Refused(f"could not be asked ({type(error).__name__})", "unreachable")
        except BaseException as error:  # noqa: BLE001 - an interruption
            interruption = error.with_traceback(None)
            interruption.__context__ = interruption.__cause__ = None
        raise interruption
