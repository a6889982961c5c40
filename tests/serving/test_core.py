"""The core without a transport: configurations that replace each other, by call and by file, and what is counted."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.core import ServingCore
from serving.errors import RequestError, ServingError
from serving.options import ServerOptions, read_batching_parameters
from tests.serving.models import add_warm_up, publish, truncate_variables

Start = Callable[..., ServingCore]


def config(base_path: Path, *names: str, fields: str = "") -> ModelServerConfig:
    """Models of these names below one folder."""
    models = " ".join(
        f'config {{ name: "{name}" base_path: "{base_path / name}" model_platform: "tensorflow" {fields} }}'
        for name in names
    )
    return text_format.Parse(f"model_config_list {{ {models} }}", ModelServerConfig())


def request_for(model: str = "scaler", label: str = "", width: int = 2) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = model
    if label:
        request.model_spec.version_label = label
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones((1, width), np.float32)))
    return request


def version_of(core: ServingCore, request: PredictRequest) -> int:
    return int(core.predict(request, "GRPC").model_spec.version.value)


@pytest.fixture
def start(scaler: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts cores over `scaler`, versions 1 and 2 of which are there, the newest served; stops them at the end."""
    cores: list[ServingCore] = []
    for version in (1, 2):
        publish(scaler, tmp_path / "scaler", version)

    def begin(models: ModelServerConfig, **options: object) -> ServingCore:
        core = ServingCore(models, ServerOptions(file_system_poll_wait_seconds=0.05, **options))  # type: ignore[arg-type]
        core.start()
        cores.append(core)
        core.wait_until_available(60)
        return core

    yield begin
    for core in cores:
        core.stop()


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited 20 s in vain"
        time.sleep(0.01)


def test_label_at_start_needs_the_option_for_it(start: Start, tmp_path: Path) -> None:
    labelled = config(tmp_path, "scaler", fields='version_labels { key: "stable" value: 2 }')
    with pytest.raises(
        ServingError, match=r"FAILED_PRECONDITION: .*version 2 of model scaler.*--allow-version-labels-for-unavail"
    ):
        start(labelled)
    core = start(labelled, allow_version_labels_for_unavailable_models=True)
    assert version_of(core, request_for(label="stable")) == 2


def test_new_model_that_cannot_be_loaded_is_the_answer_to_the_reload(start: Start, tmp_path: Path) -> None:
    core = start(config(tmp_path, "scaler"))
    truncate_variables(publish(tmp_path / "scaler" / "1", tmp_path / "broken", 1))
    with pytest.raises(RequestError, match=r"1 model\(s\) did not become available: \{\{broken due to error") as caught:
        core.reload_config(config(tmp_path, "scaler", "broken"))
    assert caught.value.code == grpc.StatusCode.UNKNOWN
    assert version_of(core, request_for()) == 2


def test_new_model_without_a_base_path_is_said_at_once(start: Start, tmp_path: Path) -> None:
    core = start(config(tmp_path, "scaler"))
    began = time.monotonic()
    with pytest.raises(RequestError, match=r"Could not find base path .*nowhere for model nowhere"):
        core.reload_config(config(tmp_path, "scaler", "nowhere"), timeout=60)
    assert time.monotonic() - began < 30


def test_empty_list_unloads_all(start: Start, tmp_path: Path) -> None:
    core = start(config(tmp_path, "scaler"))
    core.reload_config(text_format.Parse("model_config_list { }", ModelServerConfig()))

    def refusal() -> str:
        try:
            core.predict(request_for(), "GRPC")
        except RequestError as error:
            return error.message
        return ""

    eventually(lambda: refusal() == "Servable not found for request: Latest(scaler)")


def test_file_is_followed_and_a_bad_one_leaves_the_last(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "models.config"
    models = config(tmp_path, "scaler")
    path.write_text(text_format.MessageToString(models))
    core = start(models, model_config_file=path, model_config_file_poll_wait_seconds=0.05)
    path.write_text("model_config_list { config { nam")
    eventually(lambda: "the last configuration stays" in caplog.text)
    time.sleep(0.2)
    # Said once, not at every look.
    assert caplog.text.count("the last configuration stays") == 1
    assert version_of(core, request_for()) == 2
    fields = "model_version_policy { specific { versions: 1 } }"
    path.write_text(text_format.MessageToString(config(tmp_path, "scaler", fields=fields)))
    eventually(lambda: version_of(core, request_for()) == 1)


def test_label_in_the_file_comes_into_force_when_its_version_is_loaded(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text(text_format.MessageToString(config(tmp_path, "scaler")))
    core = start(config(tmp_path, "scaler"), model_config_file=path, model_config_file_poll_wait_seconds=0.05)
    labelled = config(tmp_path, "scaler", fields='version_labels { key: "canary" value: 3 }')
    path.write_text(text_format.MessageToString(labelled))
    publish(tmp_path / "scaler" / "1", tmp_path / "scaler", 3)

    def is_labelled() -> bool:
        try:
            return version_of(core, request_for(label="canary")) == 3
        except RequestError:
            return False

    eventually(is_labelled)


def test_requests_loads_and_warm_ups_are_counted(start: Start, tmp_path: Path, scaler: Path) -> None:
    add_warm_up(publish(scaler, tmp_path / "warm", 1), [request_for("warm")])
    core = start(config(tmp_path, "scaler", "warm"))
    core.predict(request_for(), "REST")
    for wrong in (request_for("nobody"), request_for(width=3)):
        with pytest.raises(RequestError):
            core.predict(wrong, "GRPC")
    text = core.metrics_text()
    serving = ":tensorflow:serving"
    for line in (
        f'{serving}:request_count{{model_name="scaler",status="OK"}} 1',
        f'{serving}:request_count{{model_name="scaler",status="INVALID_ARGUMENT"}} 1',
        f'{serving}:request_count{{model_name="nobody",status="NOT_FOUND"}} 1',
        f'{serving}:request_latency_count{{model_name="scaler",API="Predict",entrypoint="REST"}} 1',
        f'{serving}:runtime_latency_count{{model_name="scaler",API="Predict",runtime="TF1"}} 1',
        f'{serving}:model_warmup_latency_count{{model_path="{tmp_path / "warm" / "1"}",status="OK"}} 1',
        f':tensorflow:cc:saved_model:load_attempt_count{{model_path="{tmp_path / "scaler" / "2"}",status="success"}} 1',
    ):
        assert f"\n{line}\n" in text


def test_warm_up_that_fails_is_counted(start: Start, tmp_path: Path, scaler: Path) -> None:
    broken = add_warm_up(publish(scaler, tmp_path / "elsewhere", 1), [request_for(), request_for(width=3)])
    core = start(config(tmp_path, "scaler"))
    path, count = publish(broken, tmp_path / "scaler", 3), ":tensorflow:serving:model_warmup_latency_count"
    failed = f'\n{count}{{model_path="{path}",status="INVALID_ARGUMENT"}} 1\n'
    eventually(lambda: failed in core.metrics_text())
    assert version_of(core, request_for()) == 2


def test_missing_batching_file_is_named_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"batching\.config: no such file; it holds a BatchingParameters"):
        read_batching_parameters(tmp_path / "batching.config")
