"""What the paths of TensorFlow Serving's REST API mean: method, path and body to an answer.

Source: tensorflow_serving/model_servers/http_rest_api_handler.cc, http_rest_api_util.cc and http_server.cc.
"""

import logging
import re
from typing import Literal, NamedTuple, NoReturn
from urllib.parse import unquote

import grpc
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from protos.server_config_pb2 import MonitoringConfig
from serving.core import ServingCore
from serving.errors import RequestError, invalid_argument
from serving.rest_json import (
    check_examples,
    error_json,
    metadata_json,
    outputs_json,
    parse_body,
    predict_inputs,
    predictions_json,
    signature_name,
    status_json,
)

_LOG = logging.getLogger(__name__)
DEFAULT_PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
_API = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_MODEL = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"/v1/models/(?P<model>[^/:]+){_MODEL}:(?P<method>classify|regress|predict)", re.IGNORECASE)
_GET = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_MODEL}(?:/(?P<metadata>metadata))?", re.IGNORECASE)
_MAX_INT64 = (1 << 63) - 1
_JSON = "application/json"
Body = bytes | bytearray
_HTTP_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    # The client has closed its request; nginx' number, which TensorFlow Serving takes too.
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class Answer(NamedTuple):
    """What goes back to the client."""

    status: int
    body: bytes
    content_type: str = _JSON


def refusal(error: RequestError) -> Answer:
    """The answer that says why there is none."""
    return Answer(_HTTP_STATUS[error.code], error_json(error.message))


class RestApi:
    """Answers requests of the REST API from a ServingCore. Threads may share it."""

    def __init__(self, core: ServingCore, monitoring: MonitoringConfig | None) -> None:
        self._core = core
        self._metrics_path = None
        if monitoring is not None and monitoring.prometheus_config.enable:
            self._metrics_path = monitoring.prometheus_config.path or DEFAULT_PROMETHEUS_PATH

    def answer(self, method: str, path: str, body: Body) -> Answer:
        """Answers a request, whatever it is.

        Args:
            method: of HTTP, such as "POST".
            path: with the query, if there is one.
            body: as it was sent.
        """
        try:
            if path == self._metrics_path:
                return Answer(200, self._core.metrics_text().encode(), "text/plain")
            if not _API.fullmatch(path):
                return Answer(404, error_json(f"Not found: {path}. The API is below /v1/models."))
            return Answer(200, self._json(method, path, body))
        except RequestError as error:
            return refusal(error)
        except Exception as error:
            # A defect met by one request must not end the connection without an answer.
            _LOG.exception("%s %.200s", method, path)
            return refusal(RequestError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"))

    def _json(self, method: str, path: str, body: Body) -> bytes:
        match = {"POST": _POST, "GET": _GET}[method].fullmatch(path) if method in ("POST", "GET") else None
        if match is None:
            raise _malformed(method, path)
        spec = _spec(match["model"], match["version"], match["label"])
        if method == "GET":
            return self._metadata(spec) if match["metadata"] == "metadata" else self._status(spec)
        # The path is matched in any case, its last word only as it is written.
        if match["method"] == "predict":
            return self._predict(spec, body)
        if match["method"] == "classify":
            self._refuse_examples("classify", spec, body)
        if match["method"] == "regress":
            self._refuse_examples("regress", spec, body)
        raise _malformed(method, path)

    def _predict(self, spec: ModelSpec, body: Body) -> bytes:
        document = parse_body(body)
        spec.signature_name = signature_name(document)
        given = predict_inputs(document, self._core.signature_def(spec))
        # Parsed JSON takes many times its tensors' memory.
        del document
        response = self._core.predict(PredictRequest(model_spec=spec, inputs=given.tensors), "REST")
        return predictions_json(response.outputs) if given.row_form else outputs_json(response.outputs)

    def _refuse_examples(self, method: Literal["classify", "regress"], spec: ModelSpec, body: Body) -> NoReturn:
        document = parse_body(body)
        spec.signature_name = signature_name(document)
        check_examples(document)
        self._core.refuse_examples(spec, method)

    def _status(self, spec: ModelSpec) -> bytes:
        return status_json(self._core.get_model_status(GetModelStatusRequest(model_spec=spec)))

    def _metadata(self, spec: ModelSpec) -> bytes:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        return metadata_json(self._core.get_model_metadata(request))


def _spec(model: str | None, version: str | None, label: str | None) -> ModelSpec:
    if model is None:
        raise invalid_argument("Missing model name in request.")
    spec = ModelSpec(name=unquote(model))
    if version is not None:
        if len(version) > 19 or int(version) > _MAX_INT64:
            raise invalid_argument(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = unquote(label)
    return spec


def _malformed(method: str, path: str) -> RequestError:
    return invalid_argument(f"Malformed request: {method} {path}")
