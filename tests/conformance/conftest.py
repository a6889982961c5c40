"""The server under test. These tests know nothing but gRPC, published protos and the files a server reads.

By default it is the embedded server. Another one is tested with CONFORMANCE_TARGET=HOST:PORT and
CONFORMANCE_MODELS=FOLDER, if it serves the models `scaler` and `swapped` from FOLDER/scaler and FOLDER/swapped with
the policy `latest { num_versions: 2 }` for scaler and the default one for swapped.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.options import ServerOptions
from serving.server import ModelServer
from tests.serving.models import Scaler, publish

_CONFIG = """
model_config_list {{
  config {{
    name: "scaler" base_path: "{models}/scaler" model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }}
  }}
  config {{ name: "swapped" base_path: "{models}/swapped" model_platform: "tensorflow" }}
}}
"""


@dataclass
class Server:
    """A running model server, its models' folder, and the stubs to ask it."""

    models: Path
    prediction: PredictionServiceStub
    status: ModelServiceStub

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Asks with a deadline."""
        return self.prediction.Predict(request, timeout=20)

    def refusal(self, request: PredictRequest) -> grpc.RpcError:
        """The error that this request gets."""
        with pytest.raises(grpc.RpcError) as caught:
            self.predict(request)
        return caught.value

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
def server(tmp_path_factory: pytest.TempPathFactory, saved: Callable[[float], Path]) -> Iterator[Server]:
    """The server under test, with versions 1 (y = 2x) and 2 (y = 3x) of `scaler` and version 1 of `swapped`."""
    target = os.environ.get("CONFORMANCE_TARGET")
    models = Path(os.environ["CONFORMANCE_MODELS"]) if target else tmp_path_factory.mktemp("models")
    for name, version in (("scaler", 1), ("scaler", 2), ("swapped", 1)):
        if not (models / name / str(version)).exists():
            publish(saved(version + 1.0), models / name, version)
    if target:
        yield _ready(models, target)
        return
    config = text_format.Parse(_CONFIG.format(models=models), ModelServerConfig())
    with ModelServer(config, port=0, options=ServerOptions(file_system_poll_wait_seconds=0.1)) as embedded:
        yield _ready(models, embedded.address)


def _ready(models: Path, target: str) -> Server:
    channel = grpc.insecure_channel(target)
    server = Server(models, PredictionServiceStub(channel), ModelServiceStub(channel))
    for name, version in (("scaler", 1), ("scaler", 2), ("swapped", 1)):
        server.wait_for(name, version)
    return server


@pytest.fixture
def request_for() -> Callable[..., PredictRequest]:
    """Builds requests for `scaler`: arrays by input name."""

    def build(
        model: str = "scaler", signature: str = "", version: int | None = None, **inputs: object
    ) -> PredictRequest:
        request = PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        return request

    return build
