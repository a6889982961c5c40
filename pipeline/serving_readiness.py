"""When a model server is ready: every model AVAILABLE, and a Predict answered by each version that is."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import tensorflow as tf
from cryptography import x509
from tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
)
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from pipeline.serving_engine import EngineError, explain_missing_op, missing_op
from protos.server_config_pb2 import SSLConfig
from serving.model_config import ModelConfig, version_directories
from serving.warmup import WARMUP_FILE

_LOG = logging.getLogger(__name__)
# Beside the warm-up requests the export says what a version is made of and needs.
_METADATA_FILE = WARMUP_FILE.with_name("tandem.json")
_POLL_SECONDS = 0.1
# Seconds for a status, and for the first answer of a model, which may trace its graph.
_STATUS_SECONDS = 5.0
_ANSWER_SECONDS = 60.0
# Answers of a server that is still starting.
_NOT_YET = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DEADLINE_EXCEEDED)


def open_channel(target: str, ssl_config: SSLConfig | None) -> grpc.Channel:
    """A channel to a server on this machine.

    With TLS the server is known by its own certificate, under the name that this bears. Where it wants one of its
    clients, it is shown its own, which its `custom_ca` must have signed then.
    """
    if ssl_config is None:
        return grpc.insecure_channel(target)
    certificate = ssl_config.server_cert.encode()
    own = (ssl_config.server_key.encode(), certificate) if ssl_config.client_verify else (None, None)
    credentials = grpc.ssl_channel_credentials(certificate, *own)
    return grpc.secure_channel(target, credentials, [("grpc.ssl_target_name_override", _borne_name(certificate))])


def wait_until_answering(
    channel: grpc.Channel,
    models: list[ModelConfig],
    check_alive: Callable[[], None],
    stopping: threading.Event,
    timeout: float,
) -> bool:
    """Waits until every model is AVAILABLE and answers.

    TensorFlow Serving calls a model AVAILABLE although ops of its graph are missing; only an answer tells.

    Args:
        channel: to the server.
        models: what it serves; their base paths are read for the requests to ask.
        check_alive: raises if the server has ended.
        stopping: set when the command is asked to stop.
        timeout: seconds for all models together.

    Returns:
        False if `stopping` was set before.

    Raises:
        EngineError: a model can't be loaded or doesn't answer, or the time is over.
    """
    deadline = time.monotonic() + timeout
    service, prediction = ModelServiceStub(channel), PredictionServiceStub(channel)
    for model in models:
        while True:
            available, state = _available(service, model.name)
            if available:
                break
            check_alive()
            if time.monotonic() > deadline:
                raise EngineError(f"Model {model.name} was not AVAILABLE after {timeout:.0f} s: {state}")
            if stopping.wait(_POLL_SECONDS):
                return False
        for version in available:
            _ask(prediction, model, version)
    return True


def custom_ops(models: list[ModelConfig]) -> Iterator[tuple[str, list[str]]]:
    """The models whose newest version needs ops that stock TensorFlow lacks, as the export has written beside them."""
    for model in models:
        versions = version_directories(model.base_path)
        file = versions[max(versions)] / _METADATA_FILE if versions else None
        if file is not None and file.is_file():
            ops = json.loads(file.read_text(encoding="utf-8")).get("custom_ops", [])
            if ops:
                yield model.name, ops


def _available(service: ModelServiceStub, model: str) -> tuple[list[int], str]:
    """Versions that are AVAILABLE, none while the server starts; and what the server says of them.

    Raises:
        EngineError: all versions there are have been given up.
    """
    request = GetModelStatusRequest()
    request.model_spec.name = model
    try:
        response: GetModelStatusResponse = service.GetModelStatus(request, timeout=_STATUS_SECONDS)
    except grpc.RpcError as error:
        if error.code() in _NOT_YET:
            return [], f"{error.code().name}: {error.details()}"
        raise EngineError(f"Model {model}: no status: {error.code().name}: {error.details()}") from None
    statuses = list(response.model_version_status)
    if statuses and all(status.state == ModelVersionStatus.END for status in statuses):
        raise _unusable(f"model {model} version {statuses[0].version}", statuses[0].status.error_message)
    available = [status.version for status in statuses if status.state == ModelVersionStatus.AVAILABLE]
    states = [f"version {one.version} {ModelVersionStatus.State.Name(one.state)}" for one in statuses]
    return available, ", ".join(states)


def _ask(prediction: PredictionServiceStub, model: ModelConfig, version: int) -> None:
    """Replays the version's first warm-up request.

    Raises:
        EngineError: the request fails.
    """
    request = _first_request(version_directories(model.base_path).get(version))
    if request is None:
        _LOG.warning("model %s version %d holds no %s: AVAILABLE, not asked", model.name, version, WARMUP_FILE)
        return
    request.model_spec.name = model.name
    request.model_spec.version.value = version
    try:
        prediction.Predict(request, timeout=_ANSWER_SECONDS)
    except grpc.RpcError as error:
        raise _unusable(f"model {model.name} version {version}", f"{error.code().name}: {error.details()}") from None


def _first_request(directory: Path | None) -> PredictRequest | None:
    if directory is None or not (directory / WARMUP_FILE).is_file():
        return None
    for record in tf.data.TFRecordDataset(str(directory / WARMUP_FILE)).take(1).as_numpy_iterator():
        return PredictionLog.FromString(record).predict_log.request
    return None


def _borne_name(certificate: bytes) -> str:
    """A host name that a PEM certificate is for."""
    parsed = x509.load_pem_x509_certificate(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    except x509.ExtensionNotFound:
        hosts = [str(part.value) for part in parsed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if not hosts:
        raise EngineError("server_cert of the SSL configuration is for no host name; give it a subjectAltName.")
    # Of a wildcard any host will do.
    return hosts[0].replace("*", "any")


def _unusable(version: str, reason: str) -> EngineError:
    op = missing_op(reason)
    explained = f"\n{explain_missing_op(op)}" if op else ""
    return EngineError(f"The server does not answer for {version}: {reason}{explained}")
