"""`ProviderSession`: a session of `requests` for one request, with a time limit and errors that show nothing."""

from collections.abc import Callable
from typing import Any, Self

from requests import PreparedRequest, RequestException, Response, Session
from requests.exceptions import ContentDecodingError, SSLError, Timeout
from urllib3.exceptions import HTTPError

from .bounded_http import Transport
from .responses import Refused

_THEIR_ERRORS = (
    RequestException,
    HTTPError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)


class ProviderSession(Session):
    """A session for one endpoint of a provider."""

    def __init__(self, endpoint: str, transport: Transport) -> None:
        """Connect to nothing yet."""
        super().__init__()
        self._endpoint, self._transport = endpoint, transport
        for scheme in ("https://", "http://"):
            self.mount(scheme, transport)
        self.trust_env = endpoint.startswith("https:")  # requests that stay on this machine use no proxy

    def send_fields(self, method: str, fields: dict[str, Any], headers: dict[str, str], body: str) -> Response:
        """Send one request and follow no redirect, which would send the secrets to another place."""
        sent: dict[str, Any] = {"json" if body == "json" else "data": fields} if fields else {}
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
        return self.request(method, self._endpoint, headers=headers, auth=_as_it_is, allow_redirects=False, **sent)

    def ask(self, request: Callable[[Self], Any]) -> Any:
        """Return the response to a request, or a new `Refused`, and close the session.

        The errors of `requests` are not raised from here: they carry the request with its tokens, and so do the frames
        of their tracebacks. The exception of a signal handler is raised without its traceback.
        """
        try:
            with self:
                return request(self)
        except Refused as error:
            return error.copy()
        except _THEIR_ERRORS as error:
            if isinstance(error, Timeout) or self._transport.is_over():
                return Refused(f"did not respond within {self._transport.seconds:g} s", "timeout")
            if isinstance(error, SSLError):
                return _tls_problem(error)
            if isinstance(error, ContentDecodingError):
                return Refused("sent a compressed response, which is not accepted", "unusable_response")
            if isinstance(error, RequestException | HTTPError):
                return Refused("could not be reached", "unreachable")
            return Refused(f"could not be asked ({type(error).__name__})", "unreachable")
        except BaseException as error:  # noqa: BLE001 - an interruption
            interruption = error.with_traceback(None)
            interruption.__context__ = interruption.__cause__ = None
        raise interruption


def _tls_problem(error: SSLError) -> Refused:
    text = str(error).upper()
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Refused("has no certificate that this machine trusts", "untrusted_certificate")
    if "ALERT" in text:  # of TLS, from the other side
        return Refused("did not accept the certificate of this client, or got none", "untrusted_certificate")
    return Refused("ended the TLS handshake", "unreachable")


def _as_it_is(request: PreparedRequest) -> PreparedRequest:
    """Add nothing to a request; without an `auth`, `requests` would add what `~/.netrc` has for this host."""
    return request
