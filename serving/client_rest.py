"""TensorFlow Serving's REST API as a client's transport: columns of JSON over kept connections."""

import http.client
import json
import math
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from protos.predict_pb2 import (
    GetModelMetadataResponse,
    GetModelStatusResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
    Tensor,
)
from serving.client_conversation import Call, Method
from serving.client_options import ClientOptions, RestAddress, Tls
from serving.client_signature import SIGNATURE_DEF, Port
from serving.client_tensors import make_tensor, shape_of, values_of

# As TensorFlow Serving writes status codes (ToHTTPStatusCode in its util/net_http); proxies add 502.
_CODES: Mapping[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CHUNK = 1 << 16


class RestTransport:
    """Carries the calls of one client as HTTP requests; threads share it, each request on a connection of its own."""

    def __init__(self, target: str, options: ClientOptions) -> None:
        self._target = target
        self._address = RestAddress.parse(target, options.tls is not None)
        self._context = _ssl_context(options.tls or Tls()) if self._address.encrypted else None
        self._max_bytes = options.max_message_bytes
        # Connections that wait for their next request.
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def send(self, call: Call) -> Message:
        """The response.

        Raises:
            RecommenderError: refused, or not answered in time; HTTP statuses become their gRPC codes.
        """
        if call.method is Method.PREDICT:
            return _predict(cast(PredictRequest, call.request), call, self._ask)
        spec = call.request.model_spec  # type: ignore[attr-defined]
        if call.method is Method.METADATA:
            return _metadata(self._ask(call, "GET", f"{_path(spec)}/metadata", None))
        return json_format.ParseDict(
            self._ask(call, "GET", _path(spec), None), GetModelStatusResponse(), ignore_unknown_fields=True
        )

    def close(self) -> None:
        """Ends the connections that no request is using."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(self, call: Call, verb: str, path: str, body: str | None) -> Any:
        """The JSON that a path answers with."""
        try:
            status, content = self._exchange(call, verb, self._address.path + path, body)
        except TimeoutError:
            raise call.failed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", self._target) from None
        except (OSError, http.client.HTTPException) as error:
            said = str(error) or type(error).__name__
            raise call.failed(grpc.StatusCode.UNAVAILABLE, said, self._target) from None
        try:
            answer = json.loads(content)
        except ValueError:
            answer = content[:200].decode(errors="replace")
        if status == 200 and isinstance(answer, dict):
            return answer
        said = answer.get("error", answer) if isinstance(answer, dict) else f"HTTP status {status}: {answer}"
        raise call.failed(_CODES.get(status, grpc.StatusCode.UNKNOWN), said, self._target)

    def _exchange(self, call: Call, verb: str, path: str, body: str | None) -> tuple[int, bytes]:
        while True:
            connection, kept = self._connection(call)
            try:
                connection.request(verb, path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = self._read(response, connection, call)
            except (ConnectionError, http.client.BadStatusLine):
                connection.close()
                # The server may have ended a connection while it waited here; a new one tells.
                if not kept:
                    raise
                continue
            except BaseException:
                connection.close()
                raise
            if response.will_close:
                connection.close()
            else:
                with self._lock:
                    self._idle.append(connection)
            return response.status, content

    def _connection(self, call: Call) -> tuple[http.client.HTTPConnection, bool]:
        """A connection, and whether it has carried a request before."""
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            kept.sock.settimeout(call.seconds_left)
            return kept, True
        host, port, seconds = self._address.host, self._address.port, call.seconds_left
        if self._context is not None:
            return http.client.HTTPSConnection(host, port, timeout=seconds, context=self._context), False
        return http.client.HTTPConnection(host, port, timeout=seconds), False

    def _read(self, response: http.client.HTTPResponse, connection: http.client.HTTPConnection, call: Call) -> bytes:
        """The body, within the call's deadline as a whole and no longer than the client takes."""
        content = bytearray()
        # Where the connection ends with the response, http.client has already taken its socket away.
        while chunk := response.read1(_CHUNK):
            content += chunk
            if len(content) > self._max_bytes:
                said = f"Received message larger than max ({len(content)} vs. {self._max_bytes})"
                raise call.failed(grpc.StatusCode.RESOURCE_EXHAUSTED, said, self._target)
            if time.monotonic() > call.deadline:
                raise TimeoutError
            if connection.sock is not None:
                connection.sock.settimeout(call.seconds_left)
        # Nothing is left, but `read1` doesn't tell the connection so.
        response.read()
        return bytes(content)


def _predict(request: PredictRequest, call: Call, ask: Callable[..., Any]) -> PredictResponse:
    """Asks in column form. REST does not tell which version answered, so the one that was learned is asked for."""
    assert call.learned is not None
    signature = call.learned.signatures[request.model_spec.signature_name]
    spec = ModelSpec(name=request.model_spec.name)
    spec.version.value = call.learned.version
    inputs = {name: _nested(shape_of(tensor), _texts(values_of(tensor))) for name, tensor in request.inputs.items()}
    body = json.dumps({"signature_name": request.model_spec.signature_name, "inputs": inputs})
    outputs = ask(call, "POST", f"{_path(spec)}:predict", body)["outputs"]
    # A single output stands without its name.
    columns = outputs if isinstance(outputs, dict) else {next(iter(signature.outputs)): outputs}
    response = PredictResponse(model_spec=spec)
    for name, column in columns.items():
        response.outputs[name].CopyFrom(_tensor(column, signature.outputs[name]))
    return response


def _metadata(answer: Mapping[str, Any]) -> GetModelMetadataResponse:
    response = GetModelMetadataResponse()
    json_format.ParseDict(answer["model_spec"], response.model_spec, ignore_unknown_fields=True)
    signatures = json_format.ParseDict(answer["metadata"][SIGNATURE_DEF], SignatureDefMap(), ignore_unknown_fields=True)
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response


def _path(spec: ModelSpec) -> str:
    path = f"/v1/models/{spec.name}"
    if spec.HasField("version"):
        return f"{path}/versions/{spec.version.value}"
    return f"{path}/labels/{spec.version_label}" if spec.version_label else path


def _texts(values: Sequence[Any]) -> Sequence[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in values]


def _nested(shape: Sequence[int], values: Sequence[Any]) -> Any:
    """Values in row-major order as lists in lists."""
    if not shape:
        return values[0]
    if len(shape) == 1:
        return list(values)
    step = math.prod(shape[1:])
    return [_nested(shape[1:], values[start * step : (start + 1) * step]) for start in range(shape[0])]


def _tensor(column: Any, port: Port) -> Tensor:
    shape = list(_shape(column))
    return make_tensor(port.dtype, shape, list(_flat(column, len(shape))))


def _shape(column: Any) -> Iterator[int]:
    while isinstance(column, list):
        yield len(column)
        column = column[0] if column else None


def _flat(column: Any, depth: int) -> Iterator[Any]:
    if depth == 0:
        yield column
        return
    for part in column:
        yield from _flat(part, depth - 1)


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    root = tls.pem("root_certificate")
    context = ssl.create_default_context(cadata=root.decode() if root is not None else None)
    certificate, key = tls.pem("certificate"), tls.pem("key")
    if certificate is not None and key is not None:
        with _file_of(certificate + b"\n" + key) as path:
            context.load_cert_chain(path)
    return context


@contextmanager
def _file_of(content: bytes) -> Iterator[str]:
    """A file that only this user may read, for as long as it is needed: OpenSSL takes a chain from a path alone."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(content)
        file.flush()
        yield file.name
