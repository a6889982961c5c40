"""The server under test. These tests know nothing but gRPC, HTTP, published protos and the files a server reads.

By default it is the embedded server. Another one, such as TensorFlow Serving 2.16, is tested in three steps:

1. `python -m tests.conformance.prepare FOLDER` writes models and configuration, and prints the command that starts
   `tensorflow_model_server` on them, with every flag that counts (batching, monitoring, threads, polling).
2. Start it, freshly: the tests publish versions, and reload configurations that they put back.
3. `CONFORMANCE_TARGET=HOST:8500 CONFORMANCE_REST_TARGET=HOST:8501 CONFORMANCE_MODELS=FOLDER pytest tests/conformance`,
   with FOLDER under the path that the server sees. Run prepare again before the next run.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1.health_pb2_grpc import HealthStub
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.model_config import read_model_server_config
from serving.options import ServerOptions, read_batching_parameters, read_monitoring_config
from serving.server import ModelServer
from tests.conformance.prepare import (
    BATCHING_CONFIG,
    MODELS_CONFIG,
    MONITORING_CONFIG,
    PROBE,
    VERSIONS,
    prepare,
)
from tests.serving.models import Scaler


@dataclass
class Server:
    """A running model server, its models' folder, and the stubs to ask it."""

    models: Path
    prediction: PredictionServiceStub
    status: ModelServiceStub
    health: HealthStub
    # HOST:PORT; None where a foreign server's isn't named.
    rest: str | None

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Asks with a deadline."""
        return self.prediction.Predict(request, timeout=20)

    def refusal(self, request: PredictRequest) -> grpc.RpcError:
        """The error that this request gets."""
        with pytest.raises(grpc.RpcError) as caught:
            self.predict(request)
        return caught.value

    def configuration(self) -> ModelServerConfig:
        """A copy of the one that the server was started with."""
        return text_format.Parse((self.models / MODELS_CONFIG).read_text(), ModelServerConfig())

    def reload(self, config: ModelServerConfig) -> None:
        """Puts a configuration in force."""
        self.status.HandleReloadConfigRequest(ReloadConfigRequest(config=config), timeout=60)

    def states(self, model: str) -> dict[int, int]:
        """State by version, empty while there is none."""
        request = GetModelStatusRequest()
        request.model_spec.name = model
        try:
            response = self.status.GetModelStatus(request, timeout=20)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
                return {}
            raise
        return {entry.version: entry.state for entry in response.model_version_status}

    def wait_for(self, model: str, version: int, state: int = ModelVersionStatus.AVAILABLE) -> None:
        """Returns once a version has reached a state."""
        end = time.monotonic() + 30
        while self.states(model).get(version) != state:
            assert time.monotonic() < end, f"{model} {version} never reached {state}: {self.states(model)}"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """SavedModels of y = factor · x, one per factor."""
    folder = tmp_path_factory.mktemp("saved")

    def save(factor: float) -> Path:
        directory = folder / str(factor)
        return directory if directory.exists() else Scaler(factor).save(directory)

    return save


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server under test, with versions 1 (y = 2x) and 2 (y = 3x) of `scaler`, and 1 of `swapped` and `probe`."""
    target = os.environ.get("CONFORMANCE_TARGET")
    if target:
        folder = Path(os.environ["CONFORMANCE_MODELS"])
        yield _ready(folder, target, os.environ.get("CONFORMANCE_REST_TARGET"))
        return
    folder = tmp_path_factory.mktemp("models")
    prepare(folder, tmp_path_factory.mktemp("prepared"))
    options = ServerOptions(
        batching=read_batching_parameters(folder / BATCHING_CONFIG),
        monitoring=read_monitoring_config(folder / MONITORING_CONFIG),
        rest_api_port=_free_port(),
        grpc_max_threads=64,
        file_system_poll_wait_seconds=0.1,
    )
    with ModelServer(read_model_server_config(folder / MODELS_CONFIG), 0, options=options) as embedded:
        assert embedded.rest is not None
        yield _ready(folder, embedded.address, embedded.rest.address)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _ready(folder: Path, target: str, rest: str | None) -> Server:
    channel = grpc.insecure_channel(target)
    server = Server(folder, PredictionServiceStub(channel), ModelServiceStub(channel), HealthStub(channel), rest)
    for name, versions in (VERSIONS | {PROBE: {1: 1.0}}).items():
        for version in versions:
            server.wait_for(name, version)
    return server


@pytest.fixture
def request_for() -> Callable[..., PredictRequest]:
    """Builds requests for `scaler`: arrays by input name."""

    def build(
        model: str = "scaler",
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        **inputs: object,
    ) -> PredictRequest:
        request = PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        return request

    return build
