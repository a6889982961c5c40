"""Prometheus text at the configured path of the REST port."""

import re
import urllib.request
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from tests.conformance.conftest import Server
from tests.conformance.prepare import METRICS_PATH

X = np.array([[1.0, 2.0]], np.float32)
Build = Callable[..., PredictRequest]


@pytest.fixture
def metrics(server: Server) -> Callable[[], str]:
    """What the server tells now."""
    if server.rest is None:
        pytest.fail("CONFORMANCE_TARGET is set, but its REST port isn't: set CONFORMANCE_REST_TARGET=HOST:PORT.")

    def read() -> str:
        with urllib.request.urlopen(f"http://{server.rest}{METRICS_PATH}", timeout=20) as response:
            return str(response.read().decode())

    return read


def value(text: str, name: str, *labels: str) -> float:
    """The value of a series that has these labels among its own; 0 while there is none."""
    for line in text.splitlines():
        match = re.fullmatch(r"(\S+?)\{(.*)\} (\S+)", line)
        if match and match[1] == name and all(label in match[2] for label in labels):
            return float(match[3])
    return 0.0


def test_requests_are_counted_by_model_and_status(
    server: Server, metrics: Callable[[], str], request_for: Build
) -> None:
    name, model = ":tensorflow:serving:request_count", 'model_name="scaler"'
    before = metrics()
    server.predict(request_for(x=X))
    assert server.refusal(request_for(signature="rank", x=X)).code() == grpc.StatusCode.FAILED_PRECONDITION
    after = metrics()
    for status in ('status="OK"', 'status="FAILED_PRECONDITION"'):
        assert value(after, name, model, status) == value(before, name, model, status) + 1
    assert f"# TYPE {name} counter" in after


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        (":tensorflow:serving:request_latency", ('model_name="scaler"', 'API="Predict"', 'entrypoint="GRPC"')),
        (":tensorflow:serving:runtime_latency", ('model_name="scaler"', 'API="Predict"')),
        (":tensorflow:serving:batching_session:queuing_latency", ()),
    ],
)
def test_latency_is_a_histogram_in_microseconds(
    server: Server, metrics: Callable[[], str], request_for: Build, name: str, labels: tuple[str, ...]
) -> None:
    before = metrics()
    server.predict(request_for(x=X))
    after = metrics()
    assert f"# TYPE {name} histogram" in after
    assert value(after, f"{name}_count", *labels) > value(before, f"{name}_count", *labels)
    # A request takes more than one microsecond and less than 20 s.
    assert 1 < value(after, f"{name}_sum", *labels) - value(before, f"{name}_sum", *labels) < 20_000_000
    assert value(after, f"{name}_bucket", *labels, 'le="+Inf"') == value(after, f"{name}_count", *labels)


def test_loads_are_counted_by_path(server: Server, metrics: Callable[[], str]) -> None:
    path = f'model_path="{server.models / "scaler" / "1"}"'
    text = metrics()
    assert value(text, ":tensorflow:cc:saved_model:load_attempt_count", path, 'status="success"') >= 1
    assert value(text, ":tensorflow:cc:saved_model:load_latency", path) > 0
