"""The embedded model server: TensorFlow Serving's services in a Python process, loopback unless told otherwise."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NoReturn

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, GetModelMetadataResponse
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import (
    PredictionServiceServicer,
    add_PredictionServiceServicer_to_server,
)
from tensorflow_serving.apis.regression_pb2 import RegressionRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.core import ServingCore
from serving.errors import RequestError, ServingError
from serving.options import ServerOptions
from serving.rest import RestServer
from serving.tls import server_credentials

_LOG = logging.getLogger(__name__)
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Threads that say no to the requests above `grpc_max_threads`, and answer for the server's health meanwhile.
_SPARE_THREADS = 2
_DEFAULTS = ServerOptions()
# Calls that may wait for one of them. gRPC itself refuses the rest, before it reads their messages.
_WAITING_CALLS = 512


class ModelServer:
    """Serves the models of a ModelServerConfig over gRPC and, where the options give a port for it, over REST.

    with ModelServer(model_configs_for(Path("runs/demo/export")), port=8500) as server:
        server.wait_until_available(timeout=60)
    """

    def __init__(
        self,
        models: ModelServerConfig,
        port: int,
        host: str = "127.0.0.1",
        options: ServerOptions = _DEFAULTS,
    ) -> None:
        """Takes the port (0 = a free one, see `port`); nothing is loaded or answered before `start`.

        Raises:
            ServingError: the configuration or an option breaks a rule, or the port can't be had.
        """
        self._core = ServingCore(models, options)
        if options.monitoring is not None and not options.rest_api_port:
            _LOG.warning("monitoring is configured, but metrics are read from the REST port: give --rest-port")
        self._grpc = grpc.server(
            ThreadPoolExecutor(options.grpc_max_threads + _SPARE_THREADS, thread_name_prefix="rpc"),
            maximum_concurrent_rpcs=options.grpc_max_threads + _WAITING_CALLS,
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", options.max_message_bytes),
                # Two servers on one port would share its requests at random.
                ("grpc.so_reuseport", 0),
            ],
        )
        self._health = HealthServicer()
        self._health.set("", HealthCheckResponse.NOT_SERVING)
        admission = _Admission(options.grpc_max_threads)
        add_PredictionServiceServicer_to_server(_PredictionService(self._core, admission), self._grpc)
        add_ModelServiceServicer_to_server(_ModelService(self._core, admission), self._grpc)
        add_HealthServicer_to_server(self._health, self._grpc)
        self.host = host
        self.port = _listen(self._grpc, host, port, server_credentials(options.ssl_config))
        self.rest = RestServer(self._core, host, options.rest_api_port, options) if options.rest_api_port else None

    @property
    def address(self) -> str:
        """HOST:PORT for a client."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Begins to load the models and to answer; a model that is still loading answers NOT_FOUND.

        Raises:
            ServingError: the configuration labels a version, which can't be loaded yet, without the option for it.
        """
        self._core.start()
        self._grpc.start()
        self._health.set("", HealthCheckResponse.SERVING)
        _LOG.info("gRPC on %s", self.address)
        if self.rest is not None:
            self.rest.start()

    def wait_until_available(self, timeout: float) -> None:
        """Returns once every model has a loaded version.

        Raises:
            ServingError: a model can't be loaded, or `timeout` seconds passed.
        """
        self._core.wait_until_available(timeout)

    def stop(self, grace: float = 10.0) -> None:
        """Takes no new requests, gives those under way `grace` seconds to finish, then unloads the models."""
        self._health.enter_graceful_shutdown()
        drained = self._grpc.stop(grace)
        if self.rest is not None:
            self.rest.stop(grace)
        drained.wait()
        self._core.stop()

    def run_until_signal(self, grace: float = 10.0) -> None:
        """Blocks until SIGINT or SIGTERM, then drains and stops. Only for the main thread; the server is started."""
        stopping = threading.Event()
        before = {number: signal.signal(number, lambda *_: stopping.set()) for number in _STOP_SIGNALS}
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


class _Admission:
    """Lets in as many calls as there are threads for them."""

    def __init__(self, calls: int) -> None:
        self._free = threading.BoundedSemaphore(calls)

    @contextmanager
    def answering(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Turns a RequestError into the error of the call; a call that nobody waits for any more isn't worked on."""
        if not self._free.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        try:
            if not context.is_active():
                context.abort(grpc.StatusCode.CANCELLED, "The client has gone, or its deadline passed while waiting.")
            yield
        except RequestError as error:
            context.abort(error.code, error.message)
        finally:
            self._free.release()


class _PredictionService(PredictionServiceServicer):
    def __init__(self, core: ServingCore, admission: _Admission) -> None:
        self._core = core
        self._admission = admission

    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:  # noqa: N802
        with self._admission.answering(context):
            return self._core.predict(request, "GRPC")

    def GetModelMetadata(  # noqa: N802
        self, request: GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> GetModelMetadataResponse:
        with self._admission.answering(context):
            return self._core.get_model_metadata(request)

    def Classify(self, request: ClassificationRequest, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        with self._admission.answering(context):
            self._core.refuse_examples(request.model_spec, "classify")

    def Regress(self, request: RegressionRequest, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        with self._admission.answering(context):
            self._core.refuse_examples(request.model_spec, "regress")

    def MultiInference(self, request: MultiInferenceRequest, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802
        with self._admission.answering(context):
            self._core.refuse_tasks(request)


class _ModelService(ModelServiceServicer):
    def __init__(self, core: ServingCore, admission: _Admission) -> None:
        self._core = core
        self._admission = admission

    def GetModelStatus(  # noqa: N802
        self, request: GetModelStatusRequest, context: grpc.ServicerContext
    ) -> GetModelStatusResponse:
        with self._admission.answering(context):
            return self._core.get_model_status(request)

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: ReloadConfigRequest, context: grpc.ServicerContext
    ) -> ReloadConfigResponse:
        with self._admission.answering(context):
            self._core.reload_config(request.config, context.time_remaining())
            response = ReloadConfigResponse()
            # Present though OK, as TensorFlow Serving sends it.
            response.status.SetInParent()
            return response


def _listen(server: grpc.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError:
        raise ServingError(f"Cannot listen on {address}: {_bind_error(host, port, credentials)}") from None


def _bind_error(host: str, port: int, credentials: grpc.ServerCredentials | None) -> str:
    """Why the system refuses the address; gRPC doesn't say."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"{os.strerror(error.errno or 0)}. Stop what uses it, or choose another port (0 = any free one)."
    if credentials is not None:
        return "server_key and server_cert are no pair of a key and its certificate in PEM. Look at the SSLConfig."
    return "the address was refused. Choose another host or port (0 = any free one)."
