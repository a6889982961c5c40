"""The server as a process: its port, its limits, what it does with broken versions, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from serving.client import RecommenderClient, RecommenderError
from serving.errors import ServingError
from serving.model_config import model_configs_for
from serving.options import ServerOptions
from serving.servable import Servable
from serving.server import ModelServer
from tests.serving.models import add_warm_up, publish, truncate_variables

ROOT = Path(__file__).parents[2]
SERVE = """
import sys
from pathlib import Path
from serving.model_config import model_configs_for
from serving.server import ModelServer

with ModelServer(model_configs_for(Path(sys.argv[1])), port=0) as server:
    server.wait_until_available(60)
    print(server.port, flush=True)
    server.run_until_signal(grace=5)
print("stopped", flush=True)
"""
STUBS_ONLY = """
import sys
import grpc
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

request = PredictRequest()
request.model_spec.name = "recommender"
tensor = request.inputs["history_item_ids"]
tensor.dtype = 7
for size in (1, 5):
    tensor.tensor_shape.dim.add(size=size)
tensor.string_val.extend([b"", b"", b"", b"sku-2", b"sku-5"])
response = PredictionServiceStub(grpc.insecure_channel(sys.argv[1])).Predict(request, timeout=10)
print(*[item.decode() for item in response.outputs["item_ids"].string_val[:2]])
assert not [name for name in sys.modules if name.split(".")[0] in ("serving", "protos")]
"""


def request_for(x: object) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = "scaler"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array(x, np.float32)))
    return request


def status(client: RecommenderClient) -> str:
    """What a client that waits is told."""
    with pytest.raises(RecommenderError) as caught:
        client.wait_until_ready(timeout=1)
    return str(caught.value)


def test_script_with_grpc_and_published_stubs_alone_gets_recommendations(server: ModelServer, tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", STUBS_ONLY, server.address], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.split() == ["sku-5", "sku-2"]


def test_port_in_use_is_said(server: ModelServer, scaler: Path, tmp_path: Path) -> None:
    publish(scaler, tmp_path / "scaler", 1)
    with pytest.raises(ServingError, match=rf"Cannot listen on 127.0.0.1:{server.port}: Address already in use"):
        ModelServer(model_configs_for(tmp_path), port=server.port)


def test_only_loopback_is_listened_on_by_default(server: ModelServer) -> None:
    with socket.socket() as probe:
        # Another address of the same machine; on 0.0.0.0 this would be refused, the port being taken.
        probe.bind(("127.0.0.2", server.port))


def test_message_above_the_limit_is_refused(scaler: Path, tmp_path: Path) -> None:
    publish(scaler, tmp_path / "scaler", 1)
    with ModelServer(model_configs_for(tmp_path), 0, options=ServerOptions(max_message_bytes=10_000)) as server:
        server.wait_until_available(60)
        stub = PredictionServiceStub(grpc.insecure_channel(server.address))
        with pytest.raises(grpc.RpcError, match="larger than max") as caught:
            stub.Predict(request_for(np.zeros((2_000, 2))), timeout=10)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.Predict(request_for([[1.0, 2.0]]), timeout=10).outputs["y"].float_val[:] == [2.0, 4.0]


def test_version_whose_warm_up_fails_is_not_served(scaler: Path, tmp_path: Path) -> None:
    add_warm_up(publish(scaler, tmp_path / "scaler", 1), [request_for([[1.0]])])
    with ModelServer(model_configs_for(tmp_path), 0) as server:
        with pytest.raises(ServingError, match=r'Model scaler cannot be loaded.*record 1: input "x" must be float32'):
            server.wait_until_available(60)
        with RecommenderClient(server.address, model="scaler") as client:
            assert "version 1 is LOADING (" in status(client)
            assert 'record 1: input "x" must be float32 [?, 2], received float32 [1, 1]' in status(client)


def test_version_without_a_model_is_reported_and_touches_nothing_else(
    scaler: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(scaler, tmp_path / "scaler", 1)
    options = ServerOptions(file_system_poll_wait_seconds=0.05, max_num_load_retries=0)
    with ModelServer(model_configs_for(tmp_path), 0, options=options) as server:
        server.wait_until_available(60)
        (tmp_path / "scaler" / "2").mkdir()
        end = time.monotonic() + 10
        while "version 2: cannot be loaded" not in caplog.text and time.monotonic() < end:
            time.sleep(0.02)
        stub = PredictionServiceStub(grpc.insecure_channel(server.address))
        assert stub.Predict(request_for([[1.0, 2.0]]), timeout=10).model_spec.version.value == 1
    assert f"{tmp_path / 'scaler' / '2'}: Could not find SavedModel" in caplog.text


def test_broken_model_does_not_keep_another_from_answering(scaler: Path, tmp_path: Path) -> None:
    publish(scaler, tmp_path / "scaler", 1)
    truncate_variables(publish(scaler, tmp_path / "broken", 1))
    with ModelServer(model_configs_for(tmp_path), 0) as server:
        with pytest.raises(ServingError, match="Model broken cannot be loaded"):
            server.wait_until_available(60)
        with RecommenderClient(server.address, model="scaler") as client:
            assert client.wait_until_ready(timeout=30) == 1


def takes_connections(port: int) -> bool:
    """Whether somebody listens there on loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_request_under_way_is_answered_before_the_server_stops(
    scaler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(scaler, tmp_path / "scaler", 1)
    server = ModelServer(model_configs_for(tmp_path), 0)
    server.start()
    server.wait_until_available(60)
    answers: list[float] = []
    stub = PredictionServiceStub(grpc.insecure_channel(server.address))
    under_way, go_on, run = threading.Event(), threading.Event(), Servable.run

    def held(*arguments: object) -> object:
        under_way.set()
        assert go_on.wait(30)
        return run(*arguments)

    monkeypatch.setattr(Servable, "run", held)

    def ask() -> None:
        response = stub.Predict(request_for(np.ones((3, 2))), timeout=30)
        answers.append(response.outputs["y"].float_val[-1])

    asking, stopping = threading.Thread(target=ask), threading.Thread(target=server.stop)
    asking.start()
    assert under_way.wait(30)
    stopping.start()
    # The server has begun to stop when it takes no new connection.
    deadline = time.monotonic() + 30
    while takes_connections(server.port):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not answers
    go_on.set()
    asking.join(30)
    stopping.join(30)
    assert answers == [2.0]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signal_drains_and_stops(recommender: Path, tmp_path: Path, number: signal.Signals) -> None:
    publish(recommender, tmp_path / "recommender", 1)
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    assert port, process.communicate()[1]
    with RecommenderClient(f"localhost:{port}") as client:
        assert client.recommend(["sku-3"], k=1).item_ids == ("sku-3",)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "stopped\n")
