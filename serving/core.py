"""The model server without its transports: gRPC and REST both ask here."""

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn

import grpc
import numpy as np
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.batching import RequestBatcher
from serving.config_file import ConfigFileFollower
from serving.errors import RequestError, ServingError, invalid_argument
from serving.metrics import ServingMetrics, micros_since
from serving.model_config import parse_models
from serving.model_manager import ModelManager, ServedModel, Timing, VersionChoice
from serving.options import ServerOptions
from serving.predict import Run, predict
from serving.servable import DEFAULT_SIGNATURE, Servable, Signature, session_config
from serving.warmup import warm_up

_SIGNATURE_DEF = "signature_def"
# How REST and gRPC call themselves in the metrics.
Entrypoint = Literal["GRPC", "REST"]


class ServingCore:
    """Models, their versions, and what they answer. Threads may share it; every refusal is a RequestError."""

    def __init__(self, models: ModelServerConfig, options: ServerOptions) -> None:
        """Loads nothing before `start`.

        Raises:
            ServingError: the configuration breaks a rule.
        """
        self._options = options
        self._models = parse_models(models)
        self._session_config = session_config(options)
        self._manager = ModelManager(
            self._load,
            Timing(
                poll_seconds=options.file_system_poll_wait_seconds,
                load_retries=options.max_num_load_retries,
                retry_seconds=options.load_retry_interval_micros / 1e6,
            ),
            options.allow_version_labels_for_unavailable_models,
        )
        self._follower = None
        if options.model_config_file is not None and options.model_config_file_poll_wait_seconds > 0:
            self._follower = ConfigFileFollower(
                options.model_config_file, options.model_config_file_poll_wait_seconds, self._apply
            )
        self.metrics = ServingMetrics()
        self._batcher = RequestBatcher(options.batching, self.metrics) if options.batching is not None else None
        self._run: Run = self._batcher.run if self._batcher is not None else Servable.run

    def start(self) -> None:
        """Begins to load the models; one that is still loading is NOT_FOUND.

        Raises:
            ServingError: the configuration labels a version, which can't be loaded yet, without the option for it.
        """
        # Unloading a version collects garbage. What is alive before the first is loaded (TensorFlow's modules) is
        # none, and walking through it would hold up all requests for 0.2 s.
        gc.freeze()
        try:
            self._manager.configure(self._models)
        except RequestError as error:
            gc.unfreeze()
            raise ServingError(
                f"{error.code.name}: {error.message}. At start no version is loaded: give the label by a reload, or "
                f"start with --allow-version-labels-for-unavailable-models."
            ) from None
        if self._batcher is not None:
            self._batcher.start()
        if self._follower is not None:
            self._follower.start()

    def stop(self) -> None:
        """Unloads everything once the requests under way are answered."""
        if self._follower is not None:
            self._follower.stop()
        self._manager.stop()
        if self._batcher is not None:
            self._batcher.stop()
        gc.unfreeze()

    def wait_until_available(self, timeout: float) -> None:
        """Returns once every model has a loaded version.

        Raises:
            ServingError: a model can't be loaded, or `timeout` seconds passed.
        """
        self._manager.wait_until_available(timeout)

    def predict(self, request: PredictRequest, entrypoint: Entrypoint) -> PredictResponse:
        """Answers a request; counts and times it.

        Raises:
            RequestError: the model, version, signature, an input or an output is unknown, an input has the wrong
                type or shape, or the graph failed.
        """
        began = time.perf_counter()
        name = request.model_spec.name
        status = grpc.StatusCode.UNKNOWN
        try:
            with self._manager.use(*_model_and_version(request)) as (servable, version):
                response = predict(servable, request, lambda *call: self._timed_run(name, *call))
            response.model_spec.version.value = version
            status = grpc.StatusCode.OK
            return response
        except RequestError as error:
            status = error.code
            raise
        finally:
            self.metrics.request_count.add(name, status.name)
            self.metrics.request_latency.observe(micros_since(began), name, "Predict", entrypoint)

    def get_model_metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        """The signatures of a model.

        Raises:
            RequestError: the model or version isn't loaded, or a field is asked for that isn't `signature_def`.
        """
        name, choice = _model_and_version(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for metadata_field in request.metadata_field:
            if metadata_field != _SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {metadata_field} is not supported")
        with self._manager.use(name, choice) as (servable, version):
            response = GetModelMetadataResponse()
            response.model_spec.name = name
            response.model_spec.version.value = version
            response.metadata[_SIGNATURE_DEF].Pack(SignatureDefMap(signature_def=servable.signature_defs))
            return response

    def signature_def(self, spec: ModelSpec) -> SignatureDef:
        """The signature that a request would be answered by, for those who must know its types to make the request.

        Raises:
            RequestError: NOT_FOUND if the model isn't loaded, INVALID_ARGUMENT if it has no such signature.
        """
        with self._manager.use(*_choice_of(spec)) as (servable, _):
            name = spec.signature_name or DEFAULT_SIGNATURE
            definition = servable.signature_defs.get(name)
        if definition is None:
            raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
        return definition

    def get_model_status(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        """The state of a model's versions, newest first, or of the one asked for.

        Raises:
            RequestError: NOT_FOUND if there is none.
        """
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

    def refuse_examples(self, spec: ModelSpec, method: Literal["classify", "regress"]) -> NoReturn:
        """Says why a model doesn't classify or regress tf.Examples: Tandem's signatures only predict.

        Raises:
            RequestError: always; NOT_FOUND if the model isn't loaded, INVALID_ARGUMENT if its signature is another.
        """
        name, choice = _choice_of(spec)
        with self._manager.use(name, choice) as (servable, _):
            signature_name = spec.signature_name or DEFAULT_SIGNATURE
            definition = servable.signature_defs.get(signature_name)
        if definition is None:
            raise invalid_argument(f"No signature was found with the name: {signature_name}")
        expected = f"tensorflow/serving/{method}"
        if definition.method_name != expected:
            kind = "classification" if method == "classify" else "regression"
            raise invalid_argument(
                f"Expected {kind} signature method_name to be {expected}. Was: {definition.method_name}"
            )
        raise RequestError(
            grpc.StatusCode.UNIMPLEMENTED, f"This server only predicts; ask {signature_name} of {name} by Predict."
        )

    def refuse_tasks(self, request: MultiInferenceRequest) -> NoReturn:
        """Says why several classifications and regressions can't be answered; see `refuse_examples`.

        Raises:
            RequestError: always.
        """
        if not request.tasks:
            raise invalid_argument("ModelSpec has no name specified.")
        task = request.tasks[0]
        methods: dict[str, Literal["classify", "regress"]] = {
            "tensorflow/serving/classify": "classify",
            "tensorflow/serving/regress": "regress",
        }
        if task.method_name not in methods:
            raise RequestError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        self.refuse_examples(task.model_spec, methods[task.method_name])

    def reload_config(self, config: ModelServerConfig, timeout: float | None = None) -> None:
        """Puts a configuration in the place of the last, and returns once the models new in it are available.

        Args:
            config: replaces the present one as a whole: a model left out is unloaded.
            timeout: seconds to wait for new models; None waits as long as they load.

        Raises:
            RequestError: INVALID_ARGUMENT or FAILED_PRECONDITION if the configuration breaks a rule (the last one
                stays in force), UNKNOWN if a new model can't be loaded (the new one is in force).
        """
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        reasons = []
        for model in self._apply(config):
            try:
                model.wait_until_available(deadline, wait_for_files=False)
            except ServingError as error:
                reasons.append(f"{{{model.config.name} due to error: {error}}}")
        if reasons:
            raise RequestError(
                grpc.StatusCode.UNKNOWN, f"{len(reasons)} model(s) did not become available: {{{', '.join(reasons)}}}"
            )

    def metrics_text(self) -> str:
        """All metrics in Prometheus' text format."""
        return self.metrics.text()

    def _apply(self, config: ModelServerConfig) -> list[ServedModel]:
        if config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
                "currently supported"
            )
        try:
            # An empty list is one, too: nothing is served from then on.
            models = parse_models(config) if config.model_config_list.config else []
        except ServingError as error:
            raise invalid_argument(str(error)) from None
        return self._manager.configure(models)

    def _timed_run(
        self,
        name: str,
        servable: Servable,
        signature: Signature,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
    ) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        results = self._run(servable, signature, inputs, outputs)
        self.metrics.runtime_latency.observe(micros_since(began), name, "Predict", "TF1")
        return results

    def _load(self, directory: Path) -> Servable:
        """Loads a version and replays its warm-up requests."""
        path, began = str(directory), time.perf_counter()
        try:
            servable = Servable(directory, self._session_config)
        except BaseException:
            self.metrics.load_attempts.add(path, "fail")
            raise
        self.metrics.load_attempts.add(path, "success")
        self.metrics.load_latency.add(path, amount=micros_since(began))
        began = time.perf_counter()
        try:
            if warm_up(servable, directory, self._run):
                self.metrics.warmup_latency.observe(micros_since(began), path, "OK")
        except BaseException as error:
            code = error.code if isinstance(error, RequestError) else grpc.StatusCode.UNKNOWN
            self.metrics.warmup_latency.observe(micros_since(began), path, code.name)
            servable.close()
            raise
        return servable


def _model_and_version(
    request: PredictRequest | GetModelMetadataRequest | GetModelStatusRequest,
) -> tuple[str, VersionChoice]:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return _choice_of(request.model_spec)


def _choice_of(spec: ModelSpec) -> tuple[str, VersionChoice]:
    """The model and, where one is asked for, the version's number or label.

    Raises:
        RequestError: INVALID_ARGUMENT if no model is named.
    """
    if not spec.name:
        raise invalid_argument("ModelSpec has no name specified.")
    if spec.WhichOneof("version_choice") == "version_label":
        return spec.name, spec.version_label
    return spec.name, spec.version.value if spec.HasField("version") else None
