"""`tandem serve --engine tensorflow-serving`: what is started, when it counts as ready, how it ends."""

import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout
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
from tests.serving.models import Scaler, add_warm_up, ask_for_unknown_op, publish

ROOT = Path(__file__).parents[2]
PORTABLE = "tandem export … --set export.index=portable"
PATIENCE = 60


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


def test_a_run_is_served_with_the_shipped_files_and_stopped_with_the_command(
    tmp_path: Path, saved: Path, binary: Path, record: Path
) -> None:
    run, rest = run_of(tmp_path, saved, "recommender", "item_encoder"), take_port(0)
    arguments = ["serve", str(run), "--engine", "tensorflow-serving", "--port", "0", "--rest-port", str(rest)]
    command = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        env=os.environ | {"PATH": f"{binary.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert command.stdout is not None
        line = command.stdout.readline().rstrip()
        target = line.split()[-1]
        port = int(target.removeprefix("127.0.0.1:"))
        assert line == f"Serving item_encoder, recommender: REST on http://127.0.0.1:{rest}, gRPC on {target}"
        with grpc.insecure_channel(target) as channel:
            answer = PredictionServiceStub(channel).Predict(double_of(3.0, 4.0), timeout=PATIENCE)
        assert list(answer.outputs["y"].float_val) == [6.0, 8.0]
        started = json.loads(record.read_text())
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
    finally:
        command.terminate()
        _, errors = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0
    assert ended(started["pid"])
    assert f"listens on all interfaces, not on loopback alone: port {port} and {rest}" in errors
    assert f"Running gRPC ModelServer at 0.0.0.0:{port} ..." in errors


@pytest.mark.slow
def test_a_server_that_dies_ends_the_command_with_its_status_and_last_words(
    tmp_path: Path, saved: Path, binary: Path, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, out = take_port(0), io.StringIO()

    def kill_when_it_is_ready() -> None:
        end = time.monotonic() + PATIENCE
        while "Serving recommender: gRPC on" not in out.getvalue() and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill_when_it_is_ready)
    killer.start()
    arguments = ["serve", str(run_of(tmp_path, saved)), "--engine", "tensorflow-serving", "--port", str(port)]
    with redirect_stdout(out):
        # 128 + 9, as a shell tells of it.
        assert main([*arguments, "--tensorflow-model-server", str(binary)]) == 137
    killer.join()
    error = capsys.readouterr().err
    assert "tensorflow_model_server ended with exit status 137; its last lines:" in error
    assert "Traceback" not in error


def test_an_op_that_a_warm_up_misses_ends_the_start_and_says_what_to_export(
    tmp_path: Path, binary: Path, record: Path
) -> None:
    del record
    greeting = PredictRequest()
    greeting.model_spec.signature_name = "greet"
    greeting.inputs["name"].CopyFrom(tf.make_tensor_proto(["x"]))
    broken = ask_for_unknown_op(Scaler(1.0).save(tmp_path / "saved"))
    run = run_of(tmp_path, add_warm_up(broken, [greeting]))
    with pytest.raises(EngineError, match="ended with exit status 255") as caught:
        serve(flags_of(run, binary))
    assert "A model needs the op StringJo1n, which this tensorflow_model_server does not hold" in str(caught.value)
    assert PORTABLE in str(caught.value)
    assert "--engine embedded" in str(caught.value)
    assert caught.value.exit_status == 255


class WithoutOp(tf.Module):
    """Loads, and fails with TensorFlow's words about a missing op when it is asked."""

    def save(self, directory: Path) -> Path:
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def scale(x: tf.Tensor) -> dict[str, tf.Tensor]:
            message = "Op type not registered 'Scann>ScannSearchBatched' in binary running on shop-1."
            return {"y": tf.debugging.check_numerics(x / 0.0, message)}

        tf.saved_model.save(self, str(directory), signatures={"serving_default": scale})
        return directory


def test_available_is_not_ready_until_it_answers(
    tmp_path: Path, binary: Path, record: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STAND_IN_COPY", str(tmp_path / "copies"))
    saved = add_warm_up(WithoutOp().save(tmp_path / "saved"), [double_of(1.0, 2.0)])
    (saved / "assets.extra" / "tandem.json").write_text(json.dumps({"custom_ops": ["Scann"]}))
    with pytest.raises(EngineError) as caught:
        serve(flags_of(run_of(tmp_path, saved), binary))
    message = str(caught.value)
    assert message.startswith("The server does not answer for model recommender version 1: INVALID_ARGUMENT: ")
    assert "A model needs the op Scann>ScannSearchBatched, which this tensorflow_model_server does not hold" in message
    assert PORTABLE in message
    assert "model recommender needs the ops of Scann: stock builds of TensorFlow Serving lack them" in caplog.text
    # A server that cannot answer is not left running.
    assert ended(json.loads(record.read_text())["pid"])


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
