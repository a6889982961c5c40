"""`tandem serve --engine tensorflow-serving`: what is started, when it counts as ready, how it ends."""

import json
import os
import signal
import socket
import stat
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from pipeline.cli import main
from pipeline.serve import serve
from pipeline.serving_engine import EngineError, ModelServerProcess, take_port
from pipeline.serving_flags import TENSORFLOW_SERVING, ServeFlags
from serving.model_config import read_model_server_config
from tests.serving.models import Scaler, add_warm_up, publish

ROOT = Path(__file__).parents[2]
# Seconds that a start may take on a machine that does much else.
PATIENCE = 300


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = 2x with a warm-up request."""
    return add_warm_up(Scaler(2.0).save(tmp_path_factory.mktemp("saved") / "scaler"), [double_of(1.0, 2.0)])


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in says what it was started with."""
    monkeypatch.setenv("STAND_IN_RECORD", str(tmp_path / "record.json"))
    return tmp_path / "record.json"


@pytest.fixture
def binary(tmp_path: Path, record: Path) -> Path:
    """A `tensorflow_model_server` that is the stand-in."""
    del record
    return executable(
        tmp_path, f'export PYTHONPATH="{ROOT}"\nexec "{sys.executable}" -m tests.pipeline.stand_in_model_server "$@"'
    )


def executable(folder: Path, script: str) -> Path:
    path = folder / "bin" / "tensorflow_model_server"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run_of(folder: Path, saved: Path, *models: str) -> Path:
    run = folder / "run"
    for model in models or ("recommender",):
        publish(saved, run / "export" / model, 1)
    return run


def double_of(*values: float) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = "recommender"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array([values], np.float32)))
    return request


def flags_of(run: Path, binary: Path, **others: Any) -> ServeFlags:
    return ServeFlags(
        run=run, engine=TENSORFLOW_SERVING, tensorflow_model_server=binary, **{"port": 0, "host": "0.0.0.0"} | others
    )


def ended(pid: int) -> bool:
    """Whether a process is gone within a few seconds."""
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def when_ready(capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[str], None]], Callable[[], str]]:
    """Starts a thread that waits for the line which tells that all is served, and does something then.

    What it returns waits for the thread and gives what the command has written to standard error.
    """

    def start(act: Callable[[str], None]) -> Callable[[], str]:
        failures: list[BaseException] = []
        errors: list[str] = []

        def watch() -> None:
            try:
                end, out = time.monotonic() + PATIENCE, ""
                while "gRPC on " not in out:
                    assert time.monotonic() < end, "".join(errors)
                    time.sleep(0.05)
                    captured = capsys.readouterr()
                    out += captured.out
                    errors.append(captured.err)
                act(out)
            except BaseException as error:
                failures.append(error)
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=watch)
        thread.start()

        def finish() -> str:
            thread.join()
            assert failures == []
            return "".join(errors) + capsys.readouterr().err

        return finish

    return start


def test_a_run_is_served_with_the_shipped_files_and_stopped_with_the_command(
    tmp_path: Path,
    saved: Path,
    binary: Path,
    record: Path,
    monkeypatch: pytest.MonkeyPatch,
    when_ready: Callable[[Callable[[str], None]], Callable[[], str]],
) -> None:
    run, rest = run_of(tmp_path, saved, "recommender", "item_encoder"), take_port(0)
    monkeypatch.setenv("PATH", f"{binary.parent}:{os.environ['PATH']}")
    said = []

    def ask_and_stop(line: str) -> None:
        said.append(line)
        with grpc.insecure_channel(line.split()[-1]) as channel:
            answer = PredictionServiceStub(channel).Predict(double_of(3.0, 4.0), timeout=PATIENCE)
        assert list(answer.outputs["y"].float_val) == [6.0, 8.0]
        with urllib.request.urlopen(f"http://127.0.0.1:{rest}/v1/models/recommender", timeout=PATIENCE) as page:
            assert json.load(page)["model_version_status"][0]["state"] == "AVAILABLE"
        os.kill(os.getpid(), signal.SIGTERM)

    finish = when_ready(ask_and_stop)
    arguments = ["serve", str(run), "--engine", "tensorflow-serving", "--port", "0", "--rest-port", str(rest)]
    assert main(arguments) == 0
    errors, started = finish(), json.loads(record.read_text())
    assert ended(started["pid"])
    port = int(started["flags"][0].removeprefix("--port="))
    assert said == [f"Serving item_encoder, recommender: REST on http://127.0.0.1:{rest}, gRPC on 127.0.0.1:{port}\n"]
    shipped, cores = ROOT / "serving_config", len(os.sched_getaffinity(0))
    assert started["flags"] == [
        f"--port={port}",
        f"--rest_api_port={rest}",
        f"--model_config_file={run / 'serving' / 'models.config'}",
        "--enable_batching=true",
        f"--batching_parameters_file={shipped / 'batching.config'}",
        f"--monitoring_config_file={shipped / 'monitoring.config'}",
        "--grpc_max_threads=64",
        "--grpc_channel_arguments=grpc.so_reuseport=0",
        "--max_num_load_retries=0",
        "--tensorflow_intra_op_parallelism=1",
        f"--tensorflow_inter_op_parallelism={cores}",
    ]
    models = read_model_server_config(run / "serving" / "models.config").model_config_list.config
    assert {model.name: model.base_path for model in models} == {
        name: str(run / "export" / name) for name in ("recommender", "item_encoder")
    }
    assert f"listens on all interfaces, not on loopback alone: port {port} and {rest}" in errors
    assert f"Running gRPC ModelServer at 0.0.0.0:{port} ..." in errors


@pytest.mark.slow
def test_a_server_that_dies_ends_the_command_with_its_status_and_last_words(
    tmp_path: Path,
    saved: Path,
    binary: Path,
    record: Path,
    when_ready: Callable[[Callable[[str], None]], Callable[[], str]],
) -> None:
    finish = when_ready(lambda _: os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL))
    arguments = ["serve", str(run_of(tmp_path, saved)), "--engine", "tensorflow-serving", "--port", "0"]
    # 128 + 9, as a shell tells of it.
    assert main([*arguments, "--tensorflow-model-server", str(binary)]) == 137
    assert "tensorflow_model_server ended with exit status 137; its last lines:" in finish()


def test_an_op_that_a_warm_up_misses_ends_the_start_and_says_what_to_export(tmp_path: Path, saved: Path) -> None:
    # As TensorFlow Serving ends with --max_num_load_retries=0.
    missing = (
        "Failed to start server. Error: Unknown: 1 servable(s) did not become available: {{{name: recommender "
        "version: 1} due to error: Not found: Op type not registered 'Scann>ScannSearchBatched' in binary running on "
        "shop-1. Make sure the Op and Kernel are registered in the binary running in this process.}, }"
    )
    server = executable(tmp_path, f'echo "{missing}" >&2\nexit 255')
    with pytest.raises(EngineError, match="ended with exit status 255") as caught:
        serve(flags_of(run_of(tmp_path, saved), server))
    assert missing in str(caught.value)
    assert "A model needs the op Scann>ScannSearchBatched, which this tensorflow_model_server does not hold" in str(
        caught.value
    )
    assert "tandem export … --index portable" in str(caught.value)
    assert "--engine embedded" in str(caught.value)
    assert caught.value.exit_status == 255


def test_a_model_that_needs_other_ops_is_named_before_the_start(
    tmp_path: Path, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(tmp_path, saved)
    metadata = run / "export/recommender/1/assets.extra/tandem.json"
    metadata.write_text(json.dumps({"custom_ops": ["Scann"], "index": {"kind": "scann"}}))
    with pytest.raises(EngineError):
        serve(flags_of(run, executable(tmp_path, "exit 1")))
    assert "model recommender needs the ops of Scann: stock builds of TensorFlow Serving lack them" in caplog.text


def test_a_server_that_will_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stubborn = executable(
        tmp_path, "trap '' TERM\necho $$ > pid.partial; mv pid.partial pid\nwhile :; do sleep 0.1; done"
    )
    monkeypatch.chdir(tmp_path)
    process = ModelServerProcess([str(stubborn)], grace=0.3)
    while not (tmp_path / "pid").exists():
        time.sleep(0.02)
    process.stop()
    assert ended(int((tmp_path / "pid").read_text()))
    assert "did not stop in 0 s: killed" in capfd.readouterr().err


def test_a_signal_while_models_load_stops_server_and_command(tmp_path: Path, saved: Path) -> None:
    waiting = executable(tmp_path, f"echo $$ > {tmp_path}/pid\nexec sleep 60")
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    serve(flags_of(run_of(tmp_path, saved), waiting))
    assert ended(int((tmp_path / "pid").read_text()))


def test_only_the_last_lines_of_a_long_log_are_repeated(tmp_path: Path, saved: Path) -> None:
    talkative = executable(tmp_path, "seq 1 2000 >&2\nexit 3")
    with pytest.raises(EngineError, match="exit status 3; its last lines:\n  1986\n") as caught:
        serve(flags_of(run_of(tmp_path, saved), talkative))
    assert str(caught.value).endswith("\n  2000")
    assert caught.value.exit_status == 3


def test_a_missing_binary_says_how_to_get_it(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["serve", str(run_of(tmp_path, saved)), "--engine", "tensorflow-serving"]) == 1
    error = capsys.readouterr().err
    assert "tensorflow_model_server is not on PATH" in error
    assert "apt package tensorflow-model-server" in error
    assert "tensorflow/serving:2.16.1" in error
    assert "--engine embedded needs none" in error


def test_a_path_that_is_no_program_is_named(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "text").touch()
    with pytest.raises(EngineError, match=r"text is not an executable file\. Install"):
        serve(flags_of(run_of(tmp_path, saved), tmp_path / "text"))


def test_loopback_is_refused_because_it_cannot_be_had(tmp_path: Path, saved: Path) -> None:
    true = executable(tmp_path, "true")
    with pytest.raises(EngineError, match=r"--host 127\.0\.0\.1: .*listens on all interfaces.*--grpc-socket-path PATH"):
        serve(flags_of(run_of(tmp_path, saved), true, host="127.0.0.1"))


def test_a_port_in_use_is_told_before_models_are_loaded(tmp_path: Path, saved: Path) -> None:
    true = executable(tmp_path, "true")
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EngineError, match=f"Cannot listen on port {port}: Address already in use"):
            serve(flags_of(run_of(tmp_path, saved), true, port=port))
