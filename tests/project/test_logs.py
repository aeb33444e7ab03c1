"""Masked logs, and what error trackers and task queues show with the settings of the documentation."""

from __future__ import annotations

import copy
import gzip
import logging
import os
import subprocess
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import celery
import elasticapm
import honeybadger
import pytest
import rollbar
import sentry_sdk
import structlog
from raygun4py import raygunprovider
from sentry_sdk.transport import Transport
from sqlalchemy.ext.mutable import MutableDict

from sealchemy import SecretBytes, SecretString
from sealchemy.logs import mask_event, mask_log_records
from tests.support.http_server import serving
from tests.support.leaks import SENTINEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TOKEN = SecretString(SENTINEL)
DATA = SecretBytes(SENTINEL.encode())


@pytest.fixture(autouse=True)
def _own_factory() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


CALLS: list[tuple[Any, ...]] = [
    ("token %s", TOKEN),
    ("token %.100s and %s", TOKEN, 1),
    ("token %r", TOKEN),
    ("token %(token)s", {"token": TOKEN}),
    ("token %s", {"token": [TOKEN]}),
    ("tokens %s", [TOKEN]),
    ("bytes %s", DATA),
    ("token %(token)s", MutableDict(token=TOKEN)),
    ("tokens %s", (frozenset([TOKEN]), OrderedDict(a=TOKEN))),
    (TOKEN,),
]


@pytest.mark.parametrize("call", CALLS, ids=repr)
def test_arguments_are_masked(call: tuple[Any, ...], caplog: pytest.LogCaptureFixture) -> None:
    mask_log_records()
    logging.getLogger("app").warning(*call)
    assert "***" in caplog.text
    assert SENTINEL not in caplog.text
    assert SENTINEL not in repr(vars(caplog.records[0]))


def test_a_list_that_contains_itself_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    mask_log_records()
    cyclic: list[Any] = [TOKEN]
    cyclic.append(cyclic)
    logging.getLogger("app").warning("list %s", cyclic)
    assert SENTINEL not in caplog.text


def test_it_is_needed_and_installed_once(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("app").warning("token %s", TOKEN)
    assert SENTINEL in caplog.text
    mask_log_records()
    factory = logging.getLogRecordFactory()
    mask_log_records()
    assert logging.getLogRecordFactory() is factory


def test_another_factory_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    class Record(logging.LogRecord):
        pass

    logging.setLogRecordFactory(Record)
    mask_log_records()
    logging.getLogger("app").warning("%s of %s", TOKEN, 5)
    assert type(caplog.records[0]) is Record
    assert caplog.messages == ["*** of 5"]


@pytest.mark.parametrize("render", [structlog.processors.JSONRenderer(), structlog.processors.KeyValueRenderer()])
def test_structlog_events_are_masked(render: Any) -> None:
    lines: list[str] = []

    class Keep:
        def info(self, line: str) -> None:
            lines.append(line)

    logger = structlog.wrap_logger(Keep(), processors=[mask_event, render])
    logger.info("refreshed", token=TOKEN, account=MutableDict({"tokens": [TOKEN], "data": DATA}), number=5)
    assert "***" in lines[0]
    assert "5" in lines[0]
    assert SENTINEL not in lines[0]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP server on loopback that accepts anything, and what it was sent."""
    received: list[bytes] = []

    def keep(_method: str, _path: str, _headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], str]:
        received.append(body)
        return 200, {}, "{}"

    with serving(keep) as url:
        yield url, received


def fail() -> None:
    mine, keyring = SecretString(SENTINEL), {"nested": [SecretString(SENTINEL)]}
    plain = f"a-plain-{len(mine)}"  # noqa: F841 - trackers may send it
    message = f"failed with {len(mine)} {len(keyring)}"
    raise RuntimeError(message)


class _Memory(Transport):
    sent: list[str]

    def capture_envelope(self, envelope: Any) -> None:
        self.sent.append(envelope.serialize().decode())


@pytest.mark.parametrize("options", [{}, {"include_local_variables": False}])
def test_sentry_prints_no_secret_string(options: dict[str, Any]) -> None:
    memory = _Memory({})
    memory.sent = []
    mask_log_records()
    sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=memory, **options)
    try:
        logging.getLogger("app").warning("a breadcrumb with %s", TOKEN)
        try:
            fail()
        except RuntimeError:
            sentry_sdk.capture_exception()
        logging.getLogger("app").error("an event with %s", TOKEN)
        sentry_sdk.flush()
    finally:
        sentry_sdk.init()
    sent = "".join(memory.sent)
    assert "failed with" in sent
    assert SENTINEL not in sent
    assert (f"a-plain-{len(SENTINEL)}" in sent) is not bool(options)


def test_sentry_sends_what_it_is_handed() -> None:
    memory = _Memory({})
    memory.sent = []
    sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=memory)
    try:
        with sentry_sdk.new_scope() as scope:
            scope.set_context("mine", {"token": TOKEN})
            sentry_sdk.capture_message("an event")
            sentry_sdk.flush()
    finally:
        sentry_sdk.init()
    assert SENTINEL in "".join(memory.sent)


@pytest.mark.parametrize("is_set", [True, False])
def test_rollbar_needs_its_setting(is_set: bool, collector: tuple[str, list[bytes]]) -> None:
    url, received = collector
    options: dict[str, Any] = {"locals": {"enabled": False}} if is_set else {}
    before = copy.deepcopy(rollbar.SETTINGS)
    rollbar._initialized = False
    rollbar.init("token", "test", handler="blocking", endpoint=f"{url}/", **options)
    try:
        fail()
    except RuntimeError:
        rollbar.report_exc_info()
    finally:
        rollbar.SETTINGS.clear()
        rollbar.SETTINGS.update(before)
        rollbar._initialized = False
    sent = b"".join(received).decode()
    assert "failed with" in sent
    assert (SENTINEL in sent) is not is_set


@pytest.mark.parametrize("is_set", [True, False])
def test_elastic_apm_needs_its_setting(is_set: bool, collector: tuple[str, list[bytes]]) -> None:
    url, received = collector
    options: dict[str, Any] = {"COLLECT_LOCAL_VARIABLES": "off"} if is_set else {}
    options |= {"SERVICE_NAME": "test", "SERVER_URL": url, "CENTRAL_CONFIG": False, "CLOUD_PROVIDER": False}
    client = elasticapm.Client(options | {"DISABLE_METRICS": "*", "METRICS_INTERVAL": "0ms"})
    try:
        fail()
    except RuntimeError:
        client.capture_exception()
    finally:
        client.close()
        elasticapm.base.set_client(None)
    sent = "".join(gzip.decompress(body).decode() for body in received)
    assert "failed with" in sent
    assert (SENTINEL in sent) is not is_set


@pytest.mark.parametrize("is_set", [True, False])
def test_raygun_needs_its_setting(is_set: bool, collector: tuple[str, list[bytes]]) -> None:
    url, received = collector
    sender = raygunprovider.RaygunSender("key", {"transmit_local_variables": False} if is_set else {})
    sender.endpointprotocol, sender.endpointhost = "http://", url.removeprefix("http://")
    try:
        fail()
    except RuntimeError:
        sender.send_exception()
    sent = b"".join(received).decode()
    assert "failed with" in sent
    assert (SENTINEL in sent) is not is_set


@pytest.mark.parametrize("is_set", [True, False])
def test_honeybadger_needs_its_default(is_set: bool, collector: tuple[str, list[bytes]]) -> None:
    url, received = collector
    client = honeybadger.Honeybadger()
    client.configure(
        api_key="key", endpoint=url, force_report_data=True, force_sync=True, report_local_variables=not is_set
    )
    try:
        fail()
    except RuntimeError as error:
        client.notify(error)
    sent = b"".join(received).decode()
    assert "failed with" in sent
    assert (SENTINEL in sent) is not is_set


DATADOG = """
import sys
from ddtrace.trace import tracer
from sealchemy import SecretString

def fail():
    mine, keyring = SecretString(sys.argv[1]), {"nested": [SecretString(sys.argv[1])]}
    raise RuntimeError(f"failed with {len(mine)} {len(keyring)}")

try:
    with tracer.trace("work"):
        fail()
except RuntimeError:
    pass
tracer.flush()
"""


def test_datadog_sends_no_variables_by_default(collector: tuple[str, list[bytes]]) -> None:
    url, received = collector
    environment = {**os.environ, "DD_TRACE_AGENT_URL": url, "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"}
    arguments = [sys.executable, "-c", DATADOG, SENTINEL]
    subprocess.run(arguments, env=environment, check=True, capture_output=True, timeout=60)
    sent = b"".join(received)
    assert b"failed with" in sent
    assert b"in fail" in sent
    assert SENTINEL.encode() not in sent


def test_celery_sends_arguments_as_text_and_shows_what_argsrepr_says() -> None:
    app = celery.Celery("app", broker="memory://", backend="cache+memory://", set_as_current=False)

    @app.task(name="refresh")
    def refresh(token: str) -> None:
        raise AssertionError(token)

    sent: list[Any] = []
    with app.connection_for_write() as connection:
        queue = connection.SimpleQueue("celery")
        refresh.apply_async((TOKEN,), argsrepr="(***)", kwargsrepr="{}", connection=connection)
        refresh.apply_async((TOKEN,), connection=connection)
        sent = [queue.get(timeout=5) for _ in range(2)]
        queue.close()
    body = sent[0].body
    assert SENTINEL in (body if isinstance(body, str) else bytes(body).decode())  # the broker's readers read the token
    assert sent[0].headers["argsrepr"] == "(***)"
    assert SENTINEL in sent[1].headers["argsrepr"]  # without it, it shows
