"""TensorFlow Serving's REST API in front of any gRPC server, from its documentation and TensorFlow's own conversions.

Knows nothing of serving/: what the client says and hears over REST is held against an independent reading of
https://www.tensorflow.org/tfx/serving/api_rest.
"""

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

_PATH = re.compile(r"/v1/models/(\w+)(?:/versions/(\d+)|/labels/(\w+))?(:predict|/metadata)?")
_REQUESTS = {":predict": PredictRequest, "/metadata": GetModelMetadataRequest, None: GetModelStatusRequest}
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
}


class Bridge(ThreadingHTTPServer):
    """An HTTP server in front of a gRPC one."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        channel = grpc.insecure_channel(behind)
        self.prediction, self.models = PredictionServiceStub(channel), ModelServiceStub(channel)
        # Paths asked, and the client's address of each.
        self.asked: list[tuple[str, Any]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


@contextmanager
def bridge(behind: str, context: ssl.SSLContext | None = None) -> Iterator[Bridge]:
    """Runs one, with TLS if a context is given."""
    with Bridge(behind) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bridge

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        self.server.asked.append((self.path, self.client_address))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, answer = 200, self._ask(json.loads(body) if body else {})
        except grpc.RpcError as error:
            status, answer = _STATUS.get(error.code(), 500), {"error": error.details()}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        name, version, label, what = _PATH.fullmatch(self.path).groups()
        request = {":predict": PredictRequest, "/metadata": GetModelMetadataRequest, None: GetModelStatusRequest}[
            what
        ]()
        request.model_spec.name = name
        if version:
            request.model_spec.version.value = int(version)
        elif label:
            request.model_spec.version_label = label
        if what == ":predict":
            return self._predict(request, body)
        if what == "/metadata":
            request.metadata_field.append("signature_def")
            response = self.server.prediction.GetModelMetadata(request, timeout=10)
            signatures = SignatureDefMap.FromString(response.metadata["signature_def"].value)
            return {"model_spec": _json(response.model_spec), "metadata": {"signature_def": _json(signatures)}}
        answer = _json(self.server.models.GetModelStatus(request, timeout=10))
        for entry in answer["model_version_status"]:
            entry["status"] = {"error_code": "OK", "error_message": ""}
        return answer

    def _predict(self, request: PredictRequest, body: dict[str, Any]) -> dict[str, Any]:
        request.model_spec.signature_name = body["signature_name"]
        for name, column in body["inputs"].items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(column, tf.int64 if _whole(column) else None))
        outputs = self.server.prediction.Predict(request, timeout=10).outputs
        columns = {name: _column(tf.make_ndarray(tensor)) for name, tensor in outputs.items()}
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}


def _json(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(message, including_default_value_fields=True, preserving_proto_field_name=True)


def _whole(column: Any) -> bool:
    return np.array(column).dtype.kind == "i"


def _column(values: np.ndarray) -> Any:
    return np.char.decode(values.astype(bytes)).tolist() if values.dtype == object else values.tolist()
