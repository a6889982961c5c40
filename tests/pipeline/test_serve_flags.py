"""The flags of `tandem serve`: what they make of files and options, on either engine."""

import argparse
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
import yaml
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from pipeline.runner import StepError
from pipeline.serve import serve
from pipeline.serving_engine import take_port
from pipeline.serving_engine_flags import Listening, command_line
from pipeline.serving_files import SHIPPED, serving_files
from pipeline.serving_flags import ServeFlags, add_serve_flags
from serving.errors import ServingError
from tests.serving.models import Scaler, publish


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publishes two versions of one model, y = 2x and y = 3x."""
    folder = tmp_path_factory.mktemp("run")
    for version, factor in ((1, 2.0), (2, 3.0)):
        publish(Scaler(factor).save(folder / "saved" / str(version)), folder / "export" / "scaler", version)
    return folder


def parsed(*arguments: str) -> ServeFlags:
    parser = argparse.ArgumentParser()
    add_serve_flags(parser)
    return ServeFlags(**vars(parser.parse_args(arguments)))


def tensorflow_serving_flags(flags: ServeFlags, listening: Listening) -> dict[str, str]:
    files = serving_files(flags)
    command = command_line(Path("server"), flags, files, Path("models.config"), listening)
    assert command[0] == "server"
    return dict(flag.removeprefix("--").split("=", 1) for flag in command[1:])


def test_without_flags_everything_is_left_to_the_engine() -> None:
    assert parsed("runs/shop") == ServeFlags(run=Path("runs/shop"))


def test_flags_reach_tensorflow_serving_under_its_own_names(run: Path) -> None:
    flags = parsed(
        str(run),
        *("--grpc-max-threads", "8", "--max-num-load-retries", "2", "--load-retry-interval-micros", "3"),
        *("--file-system-poll-wait-seconds", "4", "--tensorflow-intra-op-parallelism", "5"),
        *("--tensorflow-inter-op-parallelism", "6", "--allow-version-labels-for-unavailable-models"),
    )
    given = tensorflow_serving_flags(flags, Listening(8500, None, 0))
    assert given == {
        "port": "8500",
        "rest_api_port": "0",
        "model_config_file": "models.config",
        "enable_batching": "true",
        "batching_parameters_file": str(SHIPPED / "batching.config"),
        "grpc_max_threads": "8",
        "grpc_channel_arguments": "grpc.so_reuseport=0",
        "max_num_load_retries": "2",
        "load_retry_interval_micros": "3",
        "file_system_poll_wait_seconds": "4",
        "tensorflow_intra_op_parallelism": "5",
        "tensorflow_inter_op_parallelism": "6",
        "allow_version_labels_for_unavailable_models": "true",
    }


def test_a_socket_opens_no_port(run: Path) -> None:
    listening = Listening(0, Path("/run/tandem.sock"), 0)
    given = tensorflow_serving_flags(ServeFlags(run=run), listening)
    assert (given["port"], given["grpc_socket_path"]) == ("0", "/run/tandem.sock")
    assert listening.target == "unix:/run/tandem.sock"


def test_containers_start_tensorflow_serving_as_the_command_does() -> None:
    flags = ServeFlags(
        model_config_file=SHIPPED / "models.config",
        model_config_file_poll_wait_seconds=30,
        rest_api_port=8501,
        tensorflow_inter_op_parallelism=2,
        allow_version_labels_for_unavailable_models=True,
    )
    given = tensorflow_serving_flags(flags, Listening(8500, None, 8501)) | {
        "model_config_file": "/config/models.config",
        "batching_parameters_file": "/config/batching.config",
        "monitoring_config_file": "/config/monitoring.config",
    }
    compose = yaml.safe_load((SHIPPED / "compose.yaml").read_text(encoding="utf-8"))
    deployment = yaml.safe_load((SHIPPED / "kubernetes/deployment.yaml").read_text(encoding="utf-8"))
    for command in (
        compose["services"]["tensorflow-serving"]["command"],
        deployment["spec"]["template"]["spec"]["containers"][0]["args"],
    ):
        assert dict(flag.removeprefix("--").split("=", 1) for flag in command) == given


def test_the_embedded_container_is_started_with_flags_that_exist() -> None:
    compose = yaml.safe_load((SHIPPED / "compose.yaml").read_text(encoding="utf-8"))
    flags = parsed(*compose["services"]["embedded"]["command"])
    assert flags.host == "0.0.0.0"
    assert (flags.port, flags.rest_api_port) == (8500, 8501)
    assert flags.enable_batching
    assert flags.model_config_file == Path("/config/models.config")


@pytest.mark.parametrize(
    ("flag", "content", "message"),
    [
        ("batching_parameters_file", "max_batch_size: 32", "not a BatchingParameters in text form: 1:17"),
        ("monitoring_config_file", "prometheus { }", "not a MonitoringConfig in text form: 1:1"),
        ("ssl_config_file", "server_key: 5", "not a SSLConfig in text form: 1:13"),
        ("model_config_file", "model_config_list { config { path: 1 } }", "not a ModelServerConfig in text form: 1:30"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, run: Path, flag: str, content: str, message: str
) -> None:
    (tmp_path / "some.config").write_text(content)
    given: dict[str, Any] = {"run": run, "rest_api_port": 1, flag: tmp_path / "some.config"}
    if flag == "model_config_file":
        given["run"] = None
    with pytest.raises(ServingError, match=f"^{re.escape(str(tmp_path / 'some.config'))}: {message}"):
        serving_files(ServeFlags(**given))


def test_a_missing_file_is_named_with_an_example(tmp_path: Path, run: Path) -> None:
    flags = ServeFlags(run=run, batching_parameters_file=tmp_path / "none.config")
    with pytest.raises(
        ServingError, match=r"none\.config: no such file; it holds a BatchingParameters .* max_batch_size"
    ):
        serving_files(flags)


def test_batching_parameters_need_batching(run: Path) -> None:
    flags = ServeFlags(run=run, batching_parameters_file=SHIPPED / "batching.config", enable_batching=False)
    with pytest.raises(StepError, match=r"batching\.config says how requests are joined, --no-enable-batching that"):
        serving_files(flags)


def test_metrics_need_the_rest_port(run: Path) -> None:
    flags = ServeFlags(run=run, monitoring_config_file=SHIPPED / "monitoring.config")
    with pytest.raises(StepError, match=r"metrics are served on the REST port; add --rest-port PORT"):
        serving_files(flags)


def test_a_run_has_no_configuration_to_follow(run: Path) -> None:
    with pytest.raises(StepError, match=r"a run has no models\.config that could change"):
        serving_files(ServeFlags(run=run, model_config_file_poll_wait_seconds=1))


def while_serving(flags: ServeFlags, ask: Callable[[grpc.Channel], None]) -> None:
    """Serves until `ask` is done, on the main thread as the command does."""
    failures: list[BaseException] = []

    def client() -> None:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{flags.port}") as channel:
                ask(channel)
        except BaseException as error:
            failures.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client)
    before = signal.getsignal(signal.SIGTERM)
    # Between two tests a signal that comes too early must not end pytest.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    thread.start()
    try:
        serve(flags)
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert failures == []


def answer(channel: grpc.Channel, factor: float, **spec: Any) -> None:
    """Returns once the server multiplies by this factor."""
    request = PredictRequest()
    request.model_spec.name = "scaler"
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones((1, 2), np.float32)))
    end, last = time.monotonic() + 60, ""
    while time.monotonic() < end:
        try:
            response = PredictionServiceStub(channel).Predict(request, timeout=20)
            last = str(list(response.outputs["y"].float_val))
            if last == str([factor, factor]):
                return
        except grpc.RpcError as error:
            last = f"{error.code()}: {error.details()}"
        time.sleep(0.05)
    raise AssertionError(last)


def test_a_label_moves_when_the_followed_file_says_so(run: Path, tmp_path: Path) -> None:
    config = tmp_path / "models.config"

    def label(version: int) -> None:
        config.write_text(
            f'model_config_list {{ config {{ name: "scaler" base_path: "{run}/export/scaler" '
            f'model_platform: "tensorflow" model_version_policy {{ specific {{ versions: 1 versions: 2 }} }} '
            f'version_labels {{ key: "champion" value: {version} }} }} }}'
        )

    def ask(channel: grpc.Channel) -> None:
        answer(channel, 2.0, label="champion")
        label(2)
        answer(channel, 3.0, label="champion")

    label(1)
    flags = parsed(
        *("--model-config-file", str(config), "--model-config-file-poll-wait-seconds", "1"),
        *("--port", str(take_port(0)), "--allow-version-labels-for-unavailable-models"),
    )
    while_serving(flags, ask)


def test_a_run_is_served_by_its_newest_version(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = take_port(0)
    while_serving(parsed(str(run), "--port", str(port)), lambda channel: answer(channel, 3.0))
    assert capsys.readouterr().out == f"Serving scaler: gRPC on 127.0.0.1:{port}\n"


def test_rest_metrics_and_the_health_check_of_containers_stand_on_the_rest_port(run: Path, tmp_path: Path) -> None:
    publish(Scaler(2.0).save(tmp_path / "saved"), run / "export" / "greeter", 1)
    port, rest = take_port(0), take_port(0)

    def available(*models: str) -> int:
        environment = os.environ | {"REST_PORT": str(rest)}
        return subprocess.run(
            ["bash", SHIPPED / "models_available.sh", *models], env=environment, timeout=20
        ).returncode

    def ask(channel: grpc.Channel) -> None:
        answer(channel, 3.0)
        with urllib.request.urlopen(f"http://127.0.0.1:{rest}/monitoring/prometheus/metrics", timeout=20) as page:
            assert ':tensorflow:serving:request_count{model_name="scaler",status="OK"} ' in page.read().decode()
        assert available("scaler", "greeter") == 0
        assert available("scaler", "nobody") == 1

    while_serving(parsed(str(run), "--port", str(port), "--rest-port", str(rest), "--enable-batching"), ask)
