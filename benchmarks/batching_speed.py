"""The embedded server one by one and with batching, in one run: requests/s it can answer, and latency at a given rate.

    python -m benchmarks.batching_speed [MODEL_BASE_PATH] [--rate 400] [--seconds 10]

Without a model it serves one of a recommender's cost: the ids of a history are looked up, pooled, and multiplied with
weights that are read from memory at each call, so that a batch costs little more than a request. Requests are one
shopper each. The server is a process of its own; the load comes from this one: both share the machine's cores.
"""

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import numpy as np

from benchmarks.machine import machine, table

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_LENGTH = 100
_ITEMS = 10_000
_WIDTH = 1_024
_CALLERS = 32
_BATCHING = """
max_batch_size { value: 32 } batch_timeout_micros { value: 0 } max_enqueued_batches { value: 100 }
num_batch_threads { value: 1 }
allowed_batch_sizes: [1, 2, 4, 8, 16, 32]
"""


def save_model(directory: Path) -> None:
    """Writes `serving_default`: history_item_ids [B, 100] → item_ids, scores [B, 20]."""
    import tensorflow as tf

    class Scorer(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            seed = np.random.default_rng(1)
            ids = [f"item-{number}" for number in range(_ITEMS)]
            self.rows = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(ids, tf.range(_ITEMS, dtype=tf.int64)), 0
            )
            self.ids = tf.constant(ids)
            self.table = tf.Variable(seed.normal(size=(_ITEMS, 64)).astype(np.float32))
            self.layers = [
                tf.Variable(seed.normal(size=shape).astype(np.float32) / 32)
                for shape in ((64, _WIDTH), (_WIDTH, 2 * _WIDTH), (2 * _WIDTH, 64))
            ]

        @tf.function(input_signature=[tf.TensorSpec([None, _LENGTH], tf.string, "history_item_ids")])
        def recommend(self, history_item_ids: tf.Tensor) -> dict[str, tf.Tensor]:
            state = tf.reduce_mean(tf.gather(self.table, self.rows.lookup(history_item_ids)), axis=1)
            for layer in self.layers:
                state = tf.nn.relu(state @ layer)
            scores, best = tf.math.top_k(state @ tf.transpose(self.table), 20)
            return {"item_ids": tf.gather(self.ids, best), "scores": scores}

    scorer = Scorer()
    tf.saved_model.save(scorer, str(directory), signatures={"serving_default": scorer.recommend})


def serve(base_path: Path, batching: bool, port: Connection) -> None:
    """Serves the model until a message comes; sends the port first, and the seconds of processor time at each ask."""
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    from protos.server_config_pb2 import BatchingParameters
    from serving.options import ServerOptions
    from serving.server import ModelServer

    models = ModelServerConfig()
    models.model_config_list.config.add(name="model", base_path=str(base_path), model_platform="tensorflow")
    parameters = text_format.Parse(_BATCHING, BatchingParameters()) if batching else None
    with ModelServer(models, 0, options=ServerOptions(batching=parameters, grpc_max_threads=64)) as server:
        server.wait_until_available(60)
        port.send(server.port)
        while port.recv():
            port.send(time.process_time())


def requests(count: int, items: np.ndarray) -> list[bytes]:
    """Serialized requests for one shopper each."""
    from protos.predict_pb2 import DT_STRING, PredictRequest

    draw = np.random.default_rng(2)
    messages = []
    for _ in range(count):
        request = PredictRequest()
        request.model_spec.name = "model"
        tensor = request.inputs["history_item_ids"]
        tensor.dtype = DT_STRING
        for size in (1, _LENGTH):
            tensor.tensor_shape.dim.add(size=size)
        tensor.string_val.extend(item.encode() for item in draw.choice(items, _LENGTH))
        messages.append(request.SerializeToString())
    return messages


def closed_loop(target: str, messages: list[bytes], seconds: float) -> float:
    """Requests a second with callers that ask again as soon as they are answered."""
    counts = [0] * _CALLERS
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        with grpc.insecure_channel(target) as channel:
            call = channel.unary_unary(_PREDICT)
            while time.perf_counter() < end:
                call(messages[(number + counts[number]) % len(messages)], timeout=20)
                counts[number] += 1

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(_CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sum(counts) / seconds


def open_loop(target: str, messages: list[bytes], rate: float, seconds: float) -> tuple[np.ndarray, int]:
    """Seconds of each answer, and the number of errors, when requests come at random times at a given rate.

    Latency counts from the time at which a request was due, so that a late load generator hides nothing.
    """
    due = np.cumsum(np.random.default_rng(3).exponential(1 / rate, int(rate * seconds)))
    latencies = np.full(len(due), np.nan)
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(_PREDICT)
        left = threading.Semaphore(0)
        began = time.perf_counter()

        def answered(number: int, future: grpc.Future) -> None:
            if future.exception() is None:
                latencies[number] = time.perf_counter() - began - due[number]
            left.release()

        for number, moment in enumerate(due):
            time.sleep(max(moment - (time.perf_counter() - began), 0))
            future = call.future(messages[number % len(messages)], timeout=20)
            future.add_done_callback(lambda future, number=number: answered(number, future))
        for _ in due:
            left.acquire()
    answers = latencies[~np.isnan(latencies)]
    return answers, len(due) - len(answers)


def measure(base_path: Path, batching: bool, messages: list[bytes], rate: float, seconds: float) -> list[str]:
    """One row of the table."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(base_path, batching, there))
    server.start()
    try:
        target = f"127.0.0.1:{here.recv()}"
        closed_loop(target, messages, 2)
        most = closed_loop(target, messages, seconds)
        used = _processor_seconds(here)
        latencies, errors = open_loop(target, messages, rate, seconds)
        used = _processor_seconds(here) - used
    finally:
        here.send(False)
        server.join(30)
    percentiles = [f"{np.percentile(latencies, q) * 1_000:.1f}" for q in (50, 90, 99)] if len(latencies) else ["-"] * 3
    name = "batched" if batching else "one by one"
    return [name, f"{most:.0f}", f"{rate:.0f}", *percentiles, str(errors), f"{used / len(latencies) * 1_000:.2f}"]


def _processor_seconds(server: Connection) -> float:
    server.send(True)
    return float(server.recv())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="base path with a version in it")
    parser.add_argument("--items", type=Path, help="ids of the model's products, one a line")
    parser.add_argument("--rate", type=float, default=400.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base_path = arguments.model or Path(folder) / "model"
        if arguments.model is None:
            save_model(base_path / "1")
        items = np.array(
            arguments.items.read_text().split() if arguments.items else [f"item-{number}" for number in range(_ITEMS)]
        )
        messages = requests(2_000, items)
        rows = [
            measure(base_path.resolve(), batching, messages, arguments.rate, arguments.seconds)
            for batching in (False, True)
        ]
    print(f"\n{os.cpu_count()} cores, {_CALLERS} callers in the closed loop. {machine()}\n")
    heads = ["", "requests/s", "at rate", "p50 ms", "p90 ms", "p99 ms", "errors", "server ms of a core a request"]
    print(table(heads, rows))


if __name__ == "__main__":
    main()
