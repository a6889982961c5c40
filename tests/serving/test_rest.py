"""The REST port over real models: every route, every error, and what clients may not use up."""

import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

import serving.rest
from protos.server_config_pb2 import MonitoringConfig
from serving.core import ServingCore
from serving.errors import ServingError
from serving.options import ServerOptions
from serving.rest import RestServer
from tests.serving.models import Scaler, publish

_CONFIG = """
model_config_list {{
  config {{
    name: "scaler" base_path: "{base}/scaler" model_platform: "tensorflow"
    model_version_policy {{ all {{}} }} {labels}
  }}
  config {{ name: "spinner" base_path: "{base}/spinner" model_platform: "tensorflow" }}
}}
"""
PREDICT = "/v1/models/scaler:predict"
SPIN = "/v1/models/spinner:predict"
ONE = '{"instances": [{"x": [1, 2], "shift": 0}]}'
# Some seconds.
FOREVER = '{"inputs": [400000]}'
Serve = Callable[..., RestServer]


class Spinner(tf.Module):
    """Counts to n, one step after another: n = 100,000 takes a good part of a second."""

    def save(self, directory: Path) -> Path:
        """Writes `serving_default`: n int32 [B] → counted int32 [B]."""

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "n")])
        def spin(n: tf.Tensor) -> dict[str, tf.Tensor]:
            (counted,) = tf.while_loop(
                lambda i: i < tf.reduce_max(n), lambda i: (i + 1,), (tf.constant(0),), parallel_iterations=1
            )
            return {"counted": tf.fill(tf.shape(n), counted)}

        tf.saved_model.save(self, str(directory), signatures={"serving_default": spin})
        return directory


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory, scaler: Path) -> Iterator[ServingCore]:
    """`scaler` version 1 (y = 2x, labelled "stable") and 2 (y = 3x, "canary"), and `spinner`."""
    base = tmp_path_factory.mktemp("models")
    publish(scaler, base / "scaler", 1)
    publish(Scaler(3.0).save(base / "saved"), base / "scaler", 2)
    publish(Spinner().save(base / "spinning"), base / "spinner", 1)

    def config(labels: str = "") -> ModelServerConfig:
        return text_format.Parse(_CONFIG.format(base=base, labels=labels), ModelServerConfig())

    core = ServingCore(config(), ServerOptions())
    core.start()
    core.wait_until_available(60)
    status = GetModelStatusRequest(model_spec=ModelSpec(name="scaler"))
    while [entry.state for entry in core.get_model_status(status).model_version_status] != [30, 30]:
        time.sleep(0.05)
    core.reload_config(config('version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'))
    yield core
    core.stop()


@pytest.fixture
def serve(core: ServingCore) -> Iterator[Serve]:
    """Starts REST servers with options of their own on the models of this module."""
    servers = []

    def start(**options: Any) -> RestServer:
        servers.append(RestServer(core, "127.0.0.1", 0, ServerOptions(**options)))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop(0.0)


@pytest.fixture(scope="module")
def rest(core: ServingCore) -> Iterator[RestServer]:
    """A REST server as it is by default, with metrics."""
    monitoring = MonitoringConfig()
    monitoring.prometheus_config.enable = True
    server = RestServer(core, "127.0.0.1", 0, ServerOptions(monitoring=monitoring))
    server.start()
    yield server
    server.stop(1.0)


def ask(server: RestServer, method: str, path: str, body: str | bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def predict(server: RestServer, body: str, path: str = PREDICT) -> Any:
    """The JSON of a prediction."""
    status, text = ask(server, "POST", path, body)
    assert status == 200, text
    return json.loads(text)


def connect(server: RestServer, *, timeout: float = 20.0) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=timeout)


def send(server: RestServer, head: str, body: bytes = b"") -> socket.socket:
    """A connection on which this much of a request was sent."""
    client = connect(server)
    client.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    return client


def received(client: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    with client:
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def post(length: int | str, path: str = PREDICT) -> str:
    """The head of a POST whose body has this length, or is chunked."""
    framing = f"Content-Length: {length}" if isinstance(length, int) else f"Transfer-Encoding: {length}"
    return f"POST {path} HTTP/1.1\nHost: x\n{framing}"


def in_background(call: Callable[[], Any]) -> Callable[[], Any]:
    """Starts a call; the function returned waits for it and gives its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()

    def wait() -> Any:
        thread.join(30)
        return results[0]

    return wait


# Predict.


def test_row_form(rest: RestServer) -> None:
    body = '{"instances": [{"x": [1, 2], "shift": 0}, {"x": [3, 4], "shift": 1}]}'
    # The newest version is y = 3x + shift; total is the sum over y.
    assert predict(rest, body) == {"predictions": [{"y": [3.0, 6.0], "total": 9.0}, {"y": [10.0, 13.0], "total": 23.0}]}


def test_column_form(rest: RestServer) -> None:
    body = '{"inputs": {"x": [[1, 2], [3, 4]], "shift": [0, 1]}, "signature_name": "serving_default"}'
    assert predict(rest, body) == {"outputs": {"y": [[3.0, 6.0], [10.0, 13.0]], "total": [9.0, 23.0]}}


def test_input_with_a_default_is_filled_in(rest: RestServer) -> None:
    assert predict(rest, '{"inputs": {"x": [[1, 2]]}}')["outputs"]["y"] == [[3.0, 6.0]]
    assert predict(rest, '{"instances": [{"x": [1, 2]}]}')["predictions"][0]["y"] == [3.0, 6.0]


def test_single_strings_in_and_out(rest: RestServer) -> None:
    body = '{"signature_name": "greet", "instances": ["Ann", {"b64": "Wm/Dqw=="}]}'
    assert ask(rest, "POST", PREDICT, body) == (
        200,
        '{\n    "predictions": ["hello Ann", "hello Zoë"\n    ]\n}',
    )
    assert predict(rest, '{"signature_name": "greet", "inputs": ["Ann"]}') == {"outputs": ["hello Ann"]}


def test_infinite_numbers_in_and_out(rest: RestServer) -> None:
    _, text = ask(rest, "POST", PREDICT, '{"instances": [{"x": [NaN, -Infinity], "shift": 0}]}')
    assert '"y": [NaN, -Infinity]' in text


@pytest.mark.parametrize(
    ("path", "y"),
    [
        ("/v1/models/scaler/versions/1:predict", [2.0, 4.0]),
        ("/v1/models/scaler/versions/2:predict", [3.0, 6.0]),
        ("/v1/models/scaler/labels/stable:predict", [2.0, 4.0]),
        ("/v1/models/scaler/labels/canary:predict", [3.0, 6.0]),
        ("/v1/models/sc%61ler/labels/st%61ble:predict", [2.0, 4.0]),
        ("/V1/Models/scaler/VERSIONS/1:predict", [2.0, 4.0]),
    ],
)
def test_versions_and_labels_are_asked_by_path(rest: RestServer, path: str, y: list[float]) -> None:
    assert predict(rest, ONE, path)["predictions"][0]["y"] == y


# Status, metadata, metrics.


def test_status_lists_the_versions(rest: RestServer) -> None:
    status, text = ask(rest, "GET", "/v1/models/scaler")
    assert status == 200
    ok = {"error_code": "OK", "error_message": ""}
    assert json.loads(text) == {
        "model_version_status": [
            {"version": "2", "state": "AVAILABLE", "status": ok},
            {"version": "1", "state": "AVAILABLE", "status": ok},
        ]
    }
    assert text.startswith('{\n "model_version_status": [\n  {\n   "version": "2",\n')


@pytest.mark.parametrize("path", ["versions/1", "labels/stable"])
def test_status_of_one_version(rest: RestServer, path: str) -> None:
    (entry,) = json.loads(ask(rest, "GET", f"/v1/models/scaler/{path}")[1])["model_version_status"]
    assert entry["version"] == "1"


@pytest.mark.parametrize(("path", "version"), [("", "2"), ("/versions/1", "1"), ("/labels/canary", "2")])
def test_metadata_shows_the_signatures(rest: RestServer, path: str, version: str) -> None:
    status, text = ask(rest, "GET", f"/v1/models/scaler{path}/metadata")
    assert status == 200
    document = json.loads(text)
    assert document["model_spec"] == {"name": "scaler", "signature_name": "", "version": version}
    default = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert default["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in default["inputs"]["x"]["tensor_shape"]["dim"]] == ["-1", "2"]
    assert default["defaults"]["shift"]["float_val"] == [0.0]
    assert default["method_name"] == "tensorflow/serving/predict"


def test_metrics_count_what_rest_asked(rest: RestServer) -> None:
    predict(rest, ONE)
    connection = http.client.HTTPConnection("127.0.0.1", rest.port, timeout=20)
    connection.request("GET", "/monitoring/prometheus/metrics")
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200
    assert response.headers.get_content_type() == "text/plain"
    counts = [line for line in text.splitlines() if line.startswith(":tensorflow:serving:request_count{")]
    assert any('model_name="scaler",status="OK"' in line for line in counts)
    assert 'entrypoint="REST"' in text


def test_metrics_stand_at_the_configured_path(serve: Serve) -> None:
    monitoring = MonitoringConfig()
    monitoring.prometheus_config.enable = True
    monitoring.prometheus_config.path = "/numbers"
    server = serve(monitoring=monitoring)
    assert ask(server, "GET", "/numbers")[0] == 200
    assert ask(server, "GET", "/monitoring/prometheus/metrics")[0] == 404


def test_metrics_are_off_unless_enabled(serve: Serve) -> None:
    assert ask(serve(), "GET", "/monitoring/prometheus/metrics")[0] == 404


# Errors.


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", PREDICT, "", 400, "JSON Parse error: The document is empty"),
        ("POST", PREDICT, "x", 400, "JSON Parse error: Invalid value. at offset: 0"),
        ("POST", PREDICT, "{}", 400, "Missing 'inputs' or 'instances' key"),
        ("POST", PREDICT, '{"inputs": {"shift": [1]}}', 400, "Missing named input: x in 'inputs' object."),
        (
            "POST",
            PREDICT,
            '{"inputs": {"x": [[1, 2, 3]], "shift": [1]}}',
            400,
            'input "x" must be float32 [?, 2], received float32 [1, 3]',
        ),
        (
            "POST",
            PREDICT,
            '{"signature_name": "rank", "inputs": 1}',
            400,
            'Serving signature name: "rank" not found in signature def',
        ),
        ("POST", "/v1/models/nobody:predict", ONE, 404, "Servable not found for request: Latest(nobody)"),
        (
            "POST",
            "/v1/models/scaler/versions/9:predict",
            ONE,
            404,
            "Servable not found for request: Specific(scaler, 9)",
        ),
        (
            "POST",
            "/v1/models/scaler/labels/x:predict",
            ONE,
            400,
            "Unrecognized servable version label: x",
        ),
        ("POST", "/v1/models/scaler:PREDICT", ONE, 400, "Malformed request: POST /v1/models/scaler:PREDICT"),
        ("POST", "/v1/models/scaler:explain", ONE, 400, "Malformed request: POST /v1/models/scaler:explain"),
        ("POST", "/v1/models/scaler", ONE, 400, "Malformed request: POST /v1/models/scaler"),
        ("POST", f"{PREDICT}?x=1", ONE, 400, f"Malformed request: POST {PREDICT}?x=1"),
        ("GET", PREDICT, None, 400, f"Malformed request: GET {PREDICT}"),
        ("PUT", "/v1/models/scaler", ONE, 400, "Malformed request: PUT /v1/models/scaler"),
        ("DELETE", "/v1/models/scaler", None, 400, "Malformed request: DELETE /v1/models/scaler"),
        ("GET", "/v1/models", None, 400, "Missing model name in request."),
        ("GET", "/v1/models/nobody", None, 404, "Could not find any versions of model nobody"),
        ("GET", "/v1/models/scaler/versions/9", None, 404, "Could not find version 9 of model scaler"),
        ("GET", "/v1/models/nobody/metadata", None, 404, "Servable not found for request: Latest(nobody)"),
        (
            "GET",
            "/v1/models/scaler/versions/9223372036854775808",
            None,
            400,
            "Failed to convert version: 9223372036854775808 to numeric.",
        ),
        ("GET", "/", None, 404, "Not found: /. The API is below /v1/models."),
        (
            "POST",
            "/v1/models/scaler:classify",
            '{"examples": [{"x": 1}]}',
            400,
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
        ),
        (
            "POST",
            "/v1/models/scaler:regress",
            '{"examples": [{"x": 1}]}',
            400,
            "Expected regression signature method_name to be tensorflow/serving/regress. "
            "Was: tensorflow/serving/predict",
        ),
        (
            "POST",
            "/v1/models/scaler:regress",
            '{"examples": [{}], "signature_name": "z"}',
            400,
            "No signature was found with the name: z",
        ),
        (
            "POST",
            "/v1/models/scaler:classify",
            "{}",
            400,
            "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
        ),
        (
            "POST",
            "/v1/models/nobody:classify",
            '{"examples": [{}]}',
            404,
            "Servable not found for request: Latest(nobody)",
        ),
    ],
)
def test_errors_have_a_status_and_a_message(
    rest: RestServer, method: str, path: str, body: str | None, status: int, message: str
) -> None:
    assert ask(rest, method, path, body) == (status, '{\n    "error": ' + json.dumps(message) + "\n}")


def test_a_taken_port_is_named(rest: RestServer, core: ServingCore) -> None:
    with pytest.raises(ServingError, match=f"Cannot listen on 127.0.0.1:{rest.port} for REST: Address already in use"):
        RestServer(core, "127.0.0.1", rest.port, ServerOptions())


def test_a_server_that_never_started_gives_its_port_back(core: ServingCore) -> None:
    server = RestServer(core, "127.0.0.1", 0, ServerOptions())
    server.stop(0.0)
    RestServer(core, "127.0.0.1", server.port, ServerOptions()).stop(0.0)


# HTTP.


def test_one_connection_carries_many_requests(rest: RestServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", rest.port, timeout=20)
    connection.connect()
    first = connection.sock
    for body in (ONE, "x", ONE):
        connection.request("POST", PREDICT, body)
        connection.getresponse().read()
    assert connection.sock is first
    connection.close()


def test_requests_may_be_sent_before_the_answers_are_read(rest: RestServer) -> None:
    head = post(len(ONE)).replace("\n", "\r\n") + "\r\n\r\n"
    with connect(rest) as client:
        client.sendall((head + ONE).encode() * 3)
        read = b""
        while read.count(b'"total": 9.0') < 3:
            read += client.recv(1 << 16)
    assert read.count(b"HTTP/1.1 200 OK") == 3


def test_chunked_and_compressed_bodies_are_read(rest: RestServer) -> None:
    whole = ONE.encode()
    chunks = b"5\r\n" + whole[:5] + b"\r\n" + f"{len(whole) - 5:x}\r\n".encode() + whole[5:] + b"\r\n0\r\n\r\n"
    assert b"HTTP/1.1 200 OK" in received(send(rest, post("chunked") + "\nConnection: close", chunks))
    status, text = ask(rest, "POST", PREDICT, gzip.compress(whole), **{"Content-Encoding": "gzip"})
    assert (status, json.loads(text)["predictions"][0]["total"]) == (200, 9.0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ONE.encode(), "The body isn't gzip, as its Content-Encoding says: "),
        (gzip.compress(ONE.encode())[:-9], "The body ends before its gzip stream does."),
    ],
    ids=["plain", "cut"],
)
def test_body_in_another_encoding_than_named_is_refused(rest: RestServer, body: bytes, message: str) -> None:
    status, text = ask(rest, "POST", PREDICT, body, **{"Content-Encoding": "gzip"})
    assert status == 400
    assert json.loads(text)["error"].startswith(message)


def test_chunks_that_are_none_are_refused(rest: RestServer) -> None:
    assert b" 400 Bad Request" in received(send(rest, post("chunked"), b"5\r\n{    \r\nxyz\r\n"))


def test_client_that_asks_whether_to_go_on_is_told(rest: RestServer) -> None:
    with send(rest, post(len(ONE)) + "\nExpect: 100-continue\nConnection: close") as client:
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(ONE.encode())
        assert received(client).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "noise",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10, b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n{}\r\n"],
    ids=["TLS", "zeros", "version", "blank"],
)
def test_what_is_not_http_is_refused(rest: RestServer, noise: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with connect(rest) as client:
        client.sendall(noise)
        assert received(client).startswith(b"HTTP/1.0 400 Bad Request")
    assert predict(rest, ONE)
    assert caplog.records == []


def test_headers_are_bounded(rest: RestServer) -> None:
    assert b"400 Bad Request" in received(send(rest, f"GET /v1/models/scaler HTTP/1.1\nX: {'x' * 20_000}"))
    assert b"400 Bad Request" in received(send(rest, f"GET /v1/models/{'x' * 20_000} HTTP/1.1"))
    many = "\n".join(f"X-{number}: 1" for number in range(1_000))
    assert b"400 Bad Request" in received(send(rest, f"GET /v1/models/scaler HTTP/1.1\n{many}"))


# What clients may not use up.


def test_a_larger_body_is_refused_before_it_is_sent(serve: Serve) -> None:
    answer = received(send(serve(max_message_bytes=1000), post(1001)))
    assert answer.startswith(b"HTTP/1.1 413 Request Entity Too Large")
    assert b'"error": "The body is larger than 1000 bytes."' in answer


def test_a_larger_body_in_chunks_is_refused_where_it_is_too_large(serve: Serve) -> None:
    answer = received(send(serve(max_message_bytes=1000), post("chunked"), b"400\r\n" + b" " * 1024 + b"\r\n"))
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_body_is_as_large_as_it_unpacks_to(serve: Serve) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 1 << 17
    status, text = ask(serve(max_message_bytes=1 << 20), "POST", PREDICT, bomb, **{"Content-Encoding": "gzip"})
    assert (status, json.loads(text)["error"]) == (413, "The body is larger than 1048576 bytes.")


def test_a_body_of_the_largest_size_is_answered(serve: Serve) -> None:
    padded = ONE + " " * (3_000_000 - len(ONE))
    assert predict(serve(max_message_bytes=3_000_000), padded)["predictions"][0]["total"] == 9.0


def test_large_bodies_together_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.rest_body._HELD_BYTES", 4 << 20)
    server = serve()
    with send(server, post(4 << 20), b" " * (3 << 20)):
        time.sleep(0.3)
        status, text = ask(server, "POST", PREDICT, " " * (2 << 20))
        assert (status, json.loads(text)["error"]) == (
            429,
            "The server holds as many large requests as it can. Try again later.",
        )
        assert predict(server, ONE)
    # The first client has gone, and what was held for it with it.
    time.sleep(0.3)
    assert predict(server, ONE + " " * (2 << 20))


def test_a_slow_body_is_given_up(serve: Serve) -> None:
    began = time.monotonic()
    answer = received(send(serve(rest_api_timeout_in_ms=300), post(100), b"{"))
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout")
    assert b"The body didn't arrive within 0.3 s." in answer
    # Until then and, at most, the time for the rest of a refused body.
    assert 0.3 <= time.monotonic() - began < 0.3 + serving.rest._LINGERING_SECONDS + 5


def test_slow_headers_and_idle_connections_are_closed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.rest._IDLE_SECONDS", 0.3)
    server = serve()
    silent, slow, idle = connect(server), connect(server), connect(server)
    slow.sendall(b"GET /v1/mod")
    idle.sendall(b"GET /v1/models/scaler HTTP/1.1\r\nHost: x\r\n\r\n")
    assert received(silent) == b""
    assert received(slow) == b""
    assert received(idle).startswith(b"HTTP/1.1 200 OK")


def test_a_prediction_that_takes_too_long_is_a_timeout(serve: Serve) -> None:
    assert ask(serve(rest_api_timeout_in_ms=200), "POST", SPIN, FOREVER) == (
        504,
        '{\n    "error": "Timed out waiting for notification"\n}',
    )


def test_connections_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.rest._MAX_CONNECTIONS", 3)
    server = serve()
    held = [connect(server) for _ in range(3)]
    time.sleep(0.2)
    assert received(connect(server)).startswith(b"HTTP/1.1 503 Service Unavailable")
    held.pop().close()
    time.sleep(0.2)
    assert predict(server, ONE)
    for client in held:
        client.close()


def test_requests_under_way_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.rest._MAX_REQUESTS", 1)
    server = serve()
    spinning = in_background(lambda: ask(server, "POST", SPIN, '{"inputs": [100000]}'))
    time.sleep(0.1)
    status, text = ask(server, "POST", PREDICT, ONE)
    assert (status, json.loads(text)["error"]) == (429, "1 requests are under way. Try again later.")
    assert spinning()[0] == 200


def test_small_requests_do_not_wait_for_large_ones(serve: Serve) -> None:
    server = serve(rest_api_num_threads=1)
    large = '{"inputs": [100000]}' + " " * (2 << 20)
    waiting = [in_background(lambda: ask(server, "POST", SPIN, large)) for _ in range(3)]
    time.sleep(0.1)
    began = time.monotonic()
    predict(server, ONE)
    small = time.monotonic() - began
    assert [wait()[0] for wait in waiting] == [200] * 3
    assert small < (time.monotonic() - began) / 2


def test_nothing_is_done_for_a_client_that_left_while_it_waited(serve: Serve, core: ServingCore) -> None:
    server = serve(rest_api_num_threads=1)
    before = _count(core, "scaler")
    spinning = in_background(lambda: ask(server, "POST", SPIN, '{"inputs": [100000]}'))
    time.sleep(0.1)
    for _ in range(5):
        send(server, post(len(ONE)), ONE.encode()).close()
    assert spinning()[0] == 200
    # Behind those who left, if they were still in the queue.
    predict(server, ONE)
    assert _count(core, "scaler") == before + 1


def test_a_client_that_does_not_take_its_answer_is_cut_off(serve: Serve) -> None:
    # Far more than the system keeps for a client.
    body = json.dumps({"signature_name": "greet", "inputs": ["x" * (32 << 20)]}).encode()
    client = send(serve(rest_api_timeout_in_ms=1500), post(len(body)), body)
    time.sleep(5)
    assert 0 < len(received(client)) < len(body)


# Stopping.


def test_stop_waits_for_the_answers_under_way(serve: Serve) -> None:
    server = serve()
    idle = connect(server)
    spinning = in_background(lambda: ask(server, "POST", SPIN, '{"inputs": [100000]}'))
    time.sleep(0.2)
    server.stop(20.0)
    assert spinning() == (200, '{\n    "outputs": [\n        100000\n    ]\n}')
    assert received(idle) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(server)


def test_stop_does_not_wait_longer_than_its_grace(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve()
    client = send(server, post(len(FOREVER), SPIN), FOREVER.encode())
    time.sleep(0.2)
    began = time.monotonic()
    server.stop(0.2)
    assert time.monotonic() - began < 5
    assert received(client) == b""
    assert "1 REST requests were not answered within 0.2 s" in caplog.text


def test_threads_of_clients_are_answered_beside_each_other(rest: RestServer) -> None:
    def many(number: int) -> list[float]:
        body = json.dumps({"instances": [{"x": [number, 0], "shift": 0}]})
        return [predict(rest, body)["predictions"][0]["total"] for _ in range(20)]

    waits = [in_background(lambda number=number: many(number)) for number in range(8)]
    assert [wait() for wait in waits] == [[3.0 * number] * 20 for number in range(8)]


def _count(core: ServingCore, model: str) -> int:
    """Requests of a model so far."""
    prefix = f':tensorflow:serving:request_count{{model_name="{model}"'
    return sum(int(line.split()[-1]) for line in core.metrics_text().splitlines() if line.startswith(prefix))
