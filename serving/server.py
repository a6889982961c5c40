"""The embedded model server: TensorFlow Serving's gRPC services in a Python process, loopback unless told otherwise."""

import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
import tensorflow as tf
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import (
    PredictionServiceServicer,
    add_PredictionServiceServicer_to_server,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.errors import RequestError, ServingError
from serving.model_config import parse_models
from serving.model_manager import ModelManager, Timing
from serving.predict import predict
from serving.servable import Servable
from serving.warmup import warm_up

_LOG = logging.getLogger(__name__)
_SIGNATURE_DEF = "signature_def"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Request = TypeVar("_Request", PredictRequest, GetModelMetadataRequest, GetModelStatusRequest)


@dataclass(frozen=True)
class ServerOptions:
    """How much the server takes on; every size is bounded."""

    timing: Timing = field(default_factory=Timing)
    # Requests worked on at once; the rest wait their turn, and above `max_requests` get RESOURCE_EXHAUSTED.
    threads: int = 16
    max_requests: int = 512
    # Bytes of one request or response; a larger one gets RESOURCE_EXHAUSTED.
    max_message_bytes: int = 64 << 20
    # TensorFlow's threads: within one operation, and for operations beside each other (0 = one a core).
    intra_op_threads: int = 1
    inter_op_threads: int = 0


class ModelServer:
    """Serves the models of a ModelServerConfig over gRPC.

    with ModelServer(model_configs_for(Path("runs/demo/export")), port=8500) as server:
        server.wait_until_available(timeout=60)
    """

    def __init__(
        self,
        models: ModelServerConfig,
        port: int,
        host: str = "127.0.0.1",
        options: ServerOptions = ServerOptions(),
    ) -> None:
        """Takes the port (0 = a free one, see `port`); nothing is loaded or answered before `start`.

        Raises:
            ServingError: the configuration breaks a rule, or the port can't be had.
        """
        self._manager = ModelManager(parse_models(models), _loader(options), options.timing)
        self._grpc = grpc.server(
            ThreadPoolExecutor(options.threads, thread_name_prefix="rpc"),
            maximum_concurrent_rpcs=options.max_requests,
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", options.max_message_bytes),
                # Two servers on one port would share its requests at random.
                ("grpc.so_reuseport", 0),
            ],
        )
        add_PredictionServiceServicer_to_server(_PredictionService(self._manager), self._grpc)
        add_ModelServiceServicer_to_server(_ModelService(self._manager), self._grpc)
        self.host = host
        self.port = _listen(self._grpc, host, port)

    @property
    def address(self) -> str:
        """HOST:PORT for a client."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Begins to load the models and to answer; a model that is still loading answers NOT_FOUND."""
        # Unloading a version collects garbage. What is alive before the first is loaded (TensorFlow's modules) is
        # none, and walking through it would hold up all requests for 0.2 s.
        gc.freeze()
        self._manager.start()
        self._grpc.start()
        _LOG.info("gRPC on %s", self.address)

    def wait_until_available(self, timeout: float) -> None:
        """Returns once every model has a loaded version.

        Raises:
            ServingError: a model can't be loaded, or `timeout` seconds passed.
        """
        self._manager.wait_until_available(timeout)

    def stop(self, grace: float = 10.0) -> None:
        """Takes no new requests, gives those under way `grace` seconds to finish, then unloads the models."""
        self._grpc.stop(grace).wait()
        self._manager.stop()
        gc.unfreeze()

    def run_until_signal(self, grace: float = 10.0) -> None:
        """Blocks until SIGINT or SIGTERM, then drains and stops. Only for the main thread; the server is started."""
        stopping = threading.Event()
        before = {
            number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            stopping.wait()
        finally:
            # A second signal, while draining, ends the process the usual way.
            for number, handler in before.items():
                signal.signal(number, handler)
        _LOG.info("draining: requests under way have %.0f s", grace)
        self.stop(grace)

    def __enter__(self) -> "ModelServer":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


class _PredictionService(PredictionServiceServicer):
    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:  # noqa: N802
        with _answering(context), self._manager.use(*_model_and_version(request)) as (servable, version):
            response = predict(servable, request)
            response.model_spec.version.value = version
            return response

    def GetModelMetadata(  # noqa: N802
        self, request: GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> GetModelMetadataResponse:
        with _answering(context):
            name, number = _model_and_version(request)
            if not request.metadata_field:
                raise _invalid("GetModelMetadataRequest must specify at least one metadata_field")
            for metadata_field in request.metadata_field:
                if metadata_field != _SIGNATURE_DEF:
                    raise _invalid(f"Metadata field {metadata_field} is not supported")
            with self._manager.use(name, number) as (servable, version):
                response = GetModelMetadataResponse()
                response.model_spec.name = name
                response.model_spec.version.value = version
                signatures = SignatureDefMap(signature_def=servable.signature_defs)
                response.metadata[_SIGNATURE_DEF].Pack(signatures)
                return response


class _ModelService(ModelServiceServicer):
    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def GetModelStatus(  # noqa: N802
        self, request: GetModelStatusRequest, context: grpc.ServicerContext
    ) -> GetModelStatusResponse:
        with _answering(context):
            response = GetModelStatusResponse()
            for version in self._manager.status(*_model_and_version(request)):
                status = response.model_version_status.add(version=version.number, state=int(version.state))
                if version.error is not None:
                    status.status.error_code = version.error.code.value[0]
                    status.status.error_message = version.error.message
                else:
                    # Present though OK, as TensorFlow Serving sends it.
                    status.status.SetInParent()
            return response


@contextmanager
def _answering(context: grpc.ServicerContext) -> Iterator[None]:
    """Turns a RequestError into the error of the call; a call that nobody waits for any more isn't worked on."""
    if not context.is_active():
        context.abort(grpc.StatusCode.CANCELLED, "The client has gone, or its deadline passed while waiting.")
    try:
        yield
    except RequestError as error:
        context.abort(error.code, error.message)


def _model_and_version(request: _Request) -> tuple[str, int | None]:
    """The model and, where one is asked for, the version.

    Raises:
        RequestError: INVALID_ARGUMENT if no model is named, or a version label is used.
    """
    if not request.HasField("model_spec"):
        raise _invalid("Missing ModelSpec")
    spec: ModelSpec = request.model_spec
    if not spec.name:
        raise _invalid("ModelSpec has no name specified.")
    if spec.WhichOneof("version_choice") == "version_label":
        raise _invalid(f"Unrecognized servable version label: {spec.version_label}")
    return spec.name, spec.version.value if spec.HasField("version") else None


def _invalid(message: str) -> RequestError:
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def _loader(options: ServerOptions) -> Callable[[Path], Servable]:
    """Loads a version and replays its warm-up requests."""
    session_config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads or os.cpu_count() or 1,
    )

    def load(directory: Path) -> Servable:
        servable = Servable(directory, session_config)
        try:
            warm_up(servable, directory)
        except BaseException:
            servable.close()
            raise
        return servable

    return load


def _listen(server: grpc.Server, host: str, port: int) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError:
        raise ServingError(f"Cannot listen on {address}: {_bind_error(host, port)}") from None


def _bind_error(host: str, port: int) -> str:
    """Why the system refuses the address; gRPC doesn't say."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"{os.strerror(error.errno or 0)}. Stop what uses it, or choose another port (0 = any free one)."
    return "the address was refused. Choose another host or port (0 = any free one)."
