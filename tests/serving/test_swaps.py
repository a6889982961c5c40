"""Versions swapped in a row under load, broken ones among them: no failed answer, no wrong one, and no memory kept."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from tests.serving.models import Scaler, add_warm_up, ask_for_unknown_op, publish, truncate_variables

ROOT = Path(__file__).parents[2]
SERVE = """
import sys
from pathlib import Path
from google.protobuf import text_format
from protos.server_config_pb2 import BatchingParameters
from serving.model_config import model_configs_for
from serving.options import ServerOptions
from serving.server import ModelServer

batching = text_format.Parse(
    "max_batch_size { value: 8 } num_batch_threads { value: 2 } max_enqueued_batches { value: 100 }",
    BatchingParameters(),
)
options = ServerOptions(batching=batching, file_system_poll_wait_seconds=0.05, max_num_load_retries=0)
with ModelServer(model_configs_for(Path(sys.argv[1])), 0, options=options) as server:
    server.wait_until_available(60)
    print(server.address, flush=True)
    server.run_until_signal(grace=5)
"""
# Swaps that must come about, and four ways to be broken.
KINDS = ("good", "truncated", "unknown op", "good", "warm-up", "empty")
CALLERS = 4


def request_for(x: object) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = "scaler"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array(x, np.float32)))
    return request


class Shop:
    """A server in a process of its own, its callers, and the versions that they may be answered by."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.base_path = folder / "models" / "scaler"
        self.drafts = folder / "drafts"
        # Two factors, so that the wrong version's answer is seen.
        self.saved = [Scaler(factor, megabytes).save(folder / str(factor)) for factor in (2.0, 3.0)]
        self.newest = 0
        self.wrong: list[str] = []
        self.answers = 0
        self.address = ""

    @contextmanager
    def open(self) -> Iterator[psutil.Process]:
        """Serves version 1; gives the server's process."""
        self.publish("good")
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self.base_path.parent)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        ) as process:
            try:
                assert process.stdout is not None
                self.address = process.stdout.readline().strip()
                assert self.address, "the server did not start"
                yield psutil.Process(process.pid)
            finally:
                process.terminate()
        assert process.returncode == 0

    def publish(self, kind: str) -> int:
        """Puts the next version in place, whole or broken; version N multiplies by 2 or 3, in turns."""
        self.newest += 1
        number = self.newest
        draft = publish(self.saved[number % 2], self.drafts, number)
        if kind == "truncated":
            truncate_variables(draft)
        elif kind == "unknown op":
            ask_for_unknown_op(draft)
        elif kind == "warm-up":
            add_warm_up(draft, [request_for([[1.0, 2.0]]), request_for([[1.0, 2.0, 3.0]])])
        elif kind == "empty":
            for path in sorted(draft.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        self.base_path.mkdir(parents=True, exist_ok=True)
        draft.rename(self.base_path / str(number))
        return number

    def ask(self, stopping: threading.Event) -> None:
        """Asks until told to stop, and keeps what should not have been answered."""
        with grpc.insecure_channel(self.address) as channel:
            stub = PredictionServiceStub(channel)
            while not stopping.is_set():
                try:
                    response = stub.Predict(request_for([[1.0, 2.0]]), timeout=30)
                except grpc.RpcError as error:
                    self.wrong.append(str(error))
                    continue
                version = response.model_spec.version.value
                factor = (2.0, 3.0)[version % 2]
                if response.outputs["y"].float_val[:] != [factor, 2 * factor]:
                    self.wrong.append(f"version {version}: {list(response.outputs['y'].float_val)}")
                self.answers += 1

    def swap(self, kinds: Iterator[str]) -> int:
        """Publishes one version after the other and waits for the end of each; returns how many became available."""
        available = 1
        with grpc.insecure_channel(self.address) as channel:
            status = ModelServiceStub(channel)
            serving = self.newest
            for kind in kinds:
                number = self.publish(kind)
                if kind == "good":
                    self.wait(status, number, ModelVersionStatus.AVAILABLE)
                    # One that failed before was given up already.
                    self.wait(status, serving, ModelVersionStatus.END)
                    serving = number
                    available += 1
                else:
                    self.wait(status, number, ModelVersionStatus.END)
        return available

    def wait(self, status: ModelServiceStub, number: int, state: int) -> None:
        """Returns once a version has reached a state."""
        request = GetModelStatusRequest()
        request.model_spec.name = "scaler"
        end = time.monotonic() + 60
        while True:
            entries = status.GetModelStatus(request, timeout=20).model_version_status
            if (number, state) in [(entry.version, entry.state) for entry in entries]:
                return
            assert time.monotonic() < end, f"version {number} never reached {state}: {entries}"
            time.sleep(0.01)


@contextmanager
def under_load(shop: Shop) -> Iterator[None]:
    """Callers ask while the block runs."""
    stopping = threading.Event()
    with ThreadPoolExecutor(CALLERS) as callers:
        asking = [callers.submit(shop.ask, stopping) for _ in range(CALLERS)]
        try:
            yield
        finally:
            stopping.set()
        for future in asking:
            future.result()


def test_swaps_under_load_fail_no_request(tmp_path: Path) -> None:
    shop = Shop(tmp_path, megabytes=1)
    with shop.open(), under_load(shop):
        assert shop.swap(iter(KINDS)) == 3
    assert shop.wrong == []
    assert shop.answers > 20


@pytest.mark.slow
def test_hundred_swaps_under_load_fail_no_request_and_keep_no_memory(tmp_path: Path) -> None:
    shop = Shop(tmp_path, megabytes=20)
    levels: list[float] = []
    with shop.open() as process:
        for _ in range(5):
            with under_load(shop):
                shop.swap(islice(cycle(KINDS), 20))
            # The versions' own folders are no subject here, and a hundred of them are gigabytes.
            time.sleep(0.5)
            levels.append(process.memory_info().rss / 2**20)
    assert shop.wrong == []
    assert shop.newest == 101
    # One version more would be 20 MB, and all of them 1,000.
    assert levels[-1] - levels[0] < 20, f"MB after each 20 swaps: {[round(level) for level in levels]}"
