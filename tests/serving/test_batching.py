"""The request batcher: what it joins, how it pads and splits, whom a failure hits; then a real server that batches."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from protos.server_config_pb2 import BatchingParameters
from serving.batching import RequestBatcher, batching_rules
from serving.errors import RequestError, ServingError
from serving.metrics import ServingMetrics
from serving.model_config import model_configs_for
from serving.options import ServerOptions
from serving.servable import Servable, Signature, TensorSpec
from serving.server import ModelServer
from tests.serving.models import Scaler, publish

ONE_THREAD = "num_batch_threads { value: 1 } max_batch_size { value: 8 }"
FLOATS = TensorSpec("x:0", tf.float32, (-1, -1))
DOUBLE = Signature("double", {"shift": FLOATS, "x": FLOATS}, {"y": FLOATS}, {"shift": np.zeros((1, 1), np.float32)})


def parameters(text: str) -> BatchingParameters:
    return text_format.Parse(text, BatchingParameters())


class Doubler:
    """y = 2x + shift, one batch at a time as the test lets them through; a row of -1 fails its batch."""

    def __init__(self) -> None:
        # The x of each batch, in the order in which they were run.
        self.batches: list[np.ndarray] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def run(self, signature: Signature, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, Any]:
        self.batches.append(inputs["x"])
        self.entered.release()
        assert self.gate.acquire(timeout=30)
        if (inputs["x"] == -1).any():
            raise RequestError(grpc.StatusCode.INTERNAL, "a row of -1")
        y = 2 * inputs["x"] + inputs.get("shift", 0)
        answers = {"y": y, "scalar": np.float32(1), "first": y[:1]}
        return {name: answers[name] for name in outputs}


class Bench:
    """A batcher over a Doubler, with callers in threads of their own."""

    def __init__(self, text: str) -> None:
        self.metrics = ServingMetrics()
        self.batcher = RequestBatcher(parameters(text), self.metrics)
        self.servable = Doubler()
        self.callers = ThreadPoolExecutor(32)
        self.batcher.start()

    def ask(self, x: object, outputs: Sequence[str] = ("y",), **more: object) -> "Future[dict[str, np.ndarray]]":
        """Sends a request."""
        inputs = {name: np.array(value, np.float32) for name, value in {"x": x, **more}.items()}
        return self.callers.submit(self.batcher.run, self.servable, DOUBLE, inputs, outputs)  # type: ignore[arg-type]

    def occupy(self) -> "Future[dict[str, np.ndarray]]":
        """Returns when the only thread is busy with a request of its own."""
        first = self.ask([[0.0]])
        assert self.servable.entered.acquire(timeout=30)
        return first

    def queued(self, rows: int) -> None:
        """Returns when so many rows wait."""
        end = threading.Event()
        for _ in range(3_000):
            if sum(batch.rows for queue in self.batcher._queues.values() for batch in queue) == rows:
                return
            end.wait(0.01)
        raise AssertionError(f"never {rows} rows in the queues")

    def let_through(self, batches: int) -> None:
        """Lets batches be run to their end."""
        for _ in range(batches):
            self.servable.gate.release()


@pytest.fixture
def bench() -> Iterator[Callable[[str], Bench]]:
    benches: list[Bench] = []

    def start(text: str) -> Bench:
        benches.append(Bench(text))
        return benches[-1]

    yield start
    for each in benches:
        each.let_through(100)
        each.callers.shutdown()
        each.batcher.stop()


def answer(future: "Future[dict[str, np.ndarray]]") -> list[list[float]]:
    return future.result(30)["y"].tolist()


def refusal(future: "Future[dict[str, np.ndarray]]") -> RequestError:
    with pytest.raises(RequestError) as caught:
        future.result(30)
    return caught.value


def test_requests_that_come_while_a_batch_is_run_are_joined(bench: Callable[[str], Bench]) -> None:
    b = bench(ONE_THREAD)
    first = b.occupy()
    second = b.ask([[1.0], [2.0]])
    b.queued(2)
    third = b.ask([[3.0]])
    b.queued(3)
    b.let_through(2)
    assert [answer(first), answer(second), answer(third)] == [[[0.0]], [[2.0], [4.0]], [[6.0]]]
    assert [batch.tolist() for batch in b.servable.batches] == [[[0.0]], [[1.0], [2.0], [3.0]]]


def test_batch_holds_at_most_max_batch_size_rows(bench: Callable[[str], Bench]) -> None:
    b = bench("num_batch_threads { value: 1 } max_batch_size { value: 3 }")
    b.occupy()
    asked = []
    for count in (1, 2, 3):
        asked.append(b.ask([[float(count)], [float(count)]]))
        b.queued(2 * count)
    b.let_through(4)
    assert [answer(future) for future in asked] == [[[2.0]] * 2, [[4.0]] * 2, [[6.0]] * 2]
    assert [len(batch) for batch in b.servable.batches] == [1, 2, 2, 2]


def test_batch_is_padded_to_an_allowed_size_with_the_last_request_s_first_row(bench: Callable[[str], Bench]) -> None:
    b = bench("num_batch_threads { value: 1 } max_batch_size { value: 8 } allowed_batch_sizes: [1, 4, 8]")
    b.occupy()
    one = b.ask([[1.0]])
    b.queued(1)
    two = b.ask([[2.0], [3.0]])
    b.queued(3)
    b.let_through(2)
    assert (answer(one), answer(two)) == ([[2.0]], [[4.0], [6.0]])
    assert b.servable.batches[1].tolist() == [[1.0], [2.0], [3.0], [2.0]]


def test_other_widths_other_outputs_and_other_versions_are_not_joined(bench: Callable[[str], Bench]) -> None:
    b = bench(ONE_THREAD)
    b.occupy()
    narrow = b.ask([[1.0]])
    wide = b.ask([[1.0, 2.0]])
    other = b.ask([[1.0]], outputs=("y", "first"))
    b.queued(3)
    b.let_through(4)
    assert (answer(narrow), answer(wide), answer(other)) == ([[2.0]], [[2.0, 4.0]], [[2.0]])
    assert sorted(batch.shape for batch in b.servable.batches[1:]) == [(1, 1), (1, 1), (1, 2)]


def test_variable_lengths_are_padded_with_the_tensor_s_first_element(bench: Callable[[str], Bench]) -> None:
    b = bench(f"{ONE_THREAD} pad_variable_length_inputs: true")
    b.occupy()
    narrow = b.ask([[5.0], [6.0]])
    b.queued(2)
    wide = b.ask([[1.0, 2.0, 3.0]])
    b.queued(3)
    b.let_through(2)
    assert (answer(narrow), answer(wide)) == ([[10.0] * 3, [12.0, 10.0, 10.0]], [[2.0, 4.0, 6.0]])
    assert b.servable.batches[1].tolist() == [[5.0, 5.0, 5.0], [6.0, 5.0, 5.0], [1.0, 2.0, 3.0]]


def test_default_of_one_row_serves_requests_of_several(bench: Callable[[str], Bench]) -> None:
    b = bench(ONE_THREAD)
    b.occupy()
    plain = b.ask([[1.0], [2.0]])
    b.queued(2)
    shifted = b.ask([[3.0], [4.0]], shift=[[10.0], [20.0]])
    b.queued(4)
    b.let_through(2)
    assert (answer(plain), answer(shifted)) == ([[2.0], [4.0]], [[16.0], [28.0]])


def test_failing_batch_fails_its_requests_and_no_other(bench: Callable[[str], Bench]) -> None:
    b = bench("num_batch_threads { value: 1 } max_batch_size { value: 2 }")
    before = b.occupy()
    bad = b.ask([[-1.0]])
    b.queued(1)
    beside = b.ask([[1.0]])
    b.queued(2)
    after = b.ask([[2.0]])
    b.queued(3)
    b.let_through(3)
    for future in (bad, beside):
        assert (refusal(future).code, refusal(future).message) == (grpc.StatusCode.INTERNAL, "a row of -1")
    assert (answer(before), answer(after)) == ([[0.0]], [[4.0]])


def test_full_queue_refuses(bench: Callable[[str], Bench]) -> None:
    b = bench("num_batch_threads { value: 1 } max_batch_size { value: 2 } max_enqueued_batches { value: 2 }")
    b.occupy()
    waiting = []
    for count in (1, 2):
        waiting.append(b.ask([[1.0], [1.0]]))
        b.queued(2 * count)
    error = refusal(b.ask([[1.0]]))
    assert error.code == grpc.StatusCode.UNAVAILABLE
    assert error.message == (
        "The batch scheduling queue to which this task was submitted is full; "
        "currently 2 batches enqueued and max_enqueued_batches is 2"
    )
    b.let_through(3)
    assert [answer(future) for future in waiting] == [[[2.0], [2.0]]] * 2


def test_request_above_max_batch_size_is_refused(bench: Callable[[str], Bench]) -> None:
    error = refusal(bench("max_batch_size { value: 2 }").ask([[1.0]] * 3))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == "Task size 3 is larger than maximum input batch size 2"


def test_large_request_is_split_where_that_is_enabled(bench: Callable[[str], Bench]) -> None:
    b = bench(
        "num_batch_threads { value: 1 } max_batch_size { value: 10 } max_execution_batch_size { value: 3 } "
        "enable_large_batch_splitting { value: true } max_enqueued_batches { value: 3 }"
    )
    b.occupy()
    small = b.ask([[1.0]])
    b.queued(1)
    # Two rows fill the batch that waits, then three, then the rest.
    large = b.ask([[float(number)] for number in range(6)])
    b.queued(7)
    too_much = refusal(b.ask([[1.0]] * 3))
    assert too_much.code == grpc.StatusCode.UNAVAILABLE
    assert "task size is 3 but scheduling capacity is only 2 (num_enqueued_batches=3" in too_much.message
    b.let_through(4)
    assert answer(small) == [[2.0]]
    assert answer(large) == [[2.0 * number] for number in range(6)]
    assert [len(batch) for batch in b.servable.batches] == [1, 3, 3, 1]


def test_request_without_rows_is_answered_without_any(bench: Callable[[str], Bench]) -> None:
    b = bench(f"{ONE_THREAD} allowed_batch_sizes: [4, 8]")
    b.let_through(1)
    assert b.ask(np.zeros((0, 2))).result(30)["y"].shape == (0, 2)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"x": 1.0}, "Batching Run() input tensors must have at least one dimension"),
        (
            {"x": [[1.0]] * 3, "shift": [[1.0]] * 2},
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
    ],
)
def test_inputs_without_one_number_of_rows_are_refused(
    bench: Callable[[str], Bench], inputs: dict[str, object], sentence: str
) -> None:
    error = refusal(bench(ONE_THREAD).ask(**inputs))
    assert (error.code, error.message) == (grpc.StatusCode.INVALID_ARGUMENT, sentence)


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("scalar", "Batched output tensor has 0 dimensions"),
        ("first", "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes"),
    ],
)
def test_outputs_without_the_batch_dimension_are_refused(
    bench: Callable[[str], Bench], output: str, sentence: str
) -> None:
    b = bench(ONE_THREAD)
    b.let_through(1)
    error = refusal(b.ask([[1.0], [2.0]], outputs=(output,)))
    assert error.code == grpc.StatusCode.FAILED_PRECONDITION
    assert error.message.startswith(sentence)


def test_batch_waits_its_timeout_for_more(bench: Callable[[str], Bench]) -> None:
    b = bench(f"{ONE_THREAD} batch_timeout_micros {{ value: 10000000 }}")
    one = b.ask([[1.0]] * 3)
    b.queued(3)
    assert not b.servable.entered.acquire(timeout=0.1)
    # Full before its time.
    two = b.ask([[2.0]] * 5)
    b.let_through(1)
    assert (answer(one), answer(two)) == ([[2.0]] * 3, [[4.0]] * 5)
    assert [len(batch) for batch in b.servable.batches] == [8]


def test_stopping_runs_what_waits_and_ends_the_threads(bench: Callable[[str], Bench]) -> None:
    b = bench(f"{ONE_THREAD} batch_timeout_micros {{ value: 10000000 }}")
    waiting = b.ask([[1.0]])
    b.queued(1)
    b.let_through(1)
    b.batcher.stop()
    assert answer(waiting) == [[2.0]]
    assert not any(thread.is_alive() for thread in b.batcher._threads)


def test_sizes_and_waits_are_counted(bench: Callable[[str], Bench]) -> None:
    b = bench(f'{ONE_THREAD} allowed_batch_sizes: [4, 8] thread_pool_name {{ value: "shop" }}')
    b.let_through(1)
    answer(b.ask([[1.0]] * 3))
    text = b.metrics.text()
    name = ":tensorflow:serving:batching_session"
    assert f'{name}:queuing_latency_count{{thread_pool_name="shop"}} 1\n' in text
    assert f"{name}:wrapped_run_count{{}} 1\n" in text
    assert f"{name}:input_batch_size_sum{{}} 3\n" in text
    assert f"{name}:processed_batch_size_sum{{}} 4\n" in text
    assert f'{name}:padding_size_sum{{execution_batch_size="4"}} 1\n' in text


def test_defaults_are_tensorflow_serving_s() -> None:
    rules = batching_rules(BatchingParameters())
    assert (rules.max_batch_size, rules.timeout, rules.max_enqueued_batches) == (1_000, 0.0, 10)
    assert rules.thread_pool_name == "batch_threads"
    assert rules.padded_size(7) == 7


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1, received 0"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be at least 1, received 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be at least 0, received -1"),
        ("max_enqueued_batches { value: 0 }", "max_enqueued_batches must be at least 1, received 0"),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [2, 1, 4]",
            r"entries must be monotonically increasing; received \[2, 1, 4\]",
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: [1, 4]",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        (
            "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 16 }",
            r"max_execution_batch_size must be at most max_batch_size \(8\), received 16",
        ),
    ],
)
def test_parameter_that_breaks_a_rule_is_named_at_start(text: str, sentence: str) -> None:
    with pytest.raises(ServingError, match=sentence):
        batching_rules(parameters(text))


@pytest.fixture(scope="module")
def batching_server(tmp_path_factory: pytest.TempPathFactory, scaler: Path) -> Iterator[ModelServer]:
    export = tmp_path_factory.mktemp("batched")
    publish(scaler, export / "scaler", 1)
    rules = parameters(
        "max_batch_size { value: 8 } allowed_batch_sizes: [2, 4, 8] num_batch_threads { value: 1 } "
        "max_enqueued_batches { value: 100 }"
    )
    options = ServerOptions(batching=rules, grpc_max_threads=32, file_system_poll_wait_seconds=0.05)
    with ModelServer(model_configs_for(export), 0, options=options) as server:
        server.wait_until_available(60)
        yield server


def request_for(x: np.ndarray, *outputs: str) -> PredictRequest:
    request = PredictRequest(output_filter=outputs)
    request.model_spec.name = "scaler"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
    return request


def test_concurrent_answers_are_those_of_the_model_alone(batching_server: ModelServer, scaler: Path) -> None:
    alone = Servable(scaler, tf.compat.v1.ConfigProto())
    signature = alone.signature("")
    draw = np.random.default_rng(5)
    asked = [draw.normal(size=(draw.integers(1, 9), 2)).astype(np.float32) for _ in range(200)]
    with grpc.insecure_channel(batching_server.address) as channel, ThreadPoolExecutor(16) as callers:
        stub = PredictionServiceStub(channel)
        answers = list(callers.map(lambda x: stub.Predict(request_for(x), timeout=30), asked))
    for x, response in zip(asked, answers, strict=True):
        rows = len(x)
        expected = alone.run(signature, {"x": x, "shift": np.zeros(rows, np.float32)}, ["total", "y"])
        for name, values in expected.items():
            np.testing.assert_array_equal(tf.make_ndarray(response.outputs[name]), values)


def test_request_that_is_wrong_is_refused_before_it_meets_others(batching_server: ModelServer) -> None:
    wrong, right = request_for(np.ones((1, 3), np.float32)), request_for(np.ones((1, 2), np.float32))
    with grpc.insecure_channel(batching_server.address) as channel, ThreadPoolExecutor(16) as callers:
        stub = PredictionServiceStub(channel)
        futures = [callers.submit(stub.Predict, (wrong, right)[number % 2], timeout=30) for number in range(40)]
        for number, future in enumerate(futures):
            if number % 2:
                assert future.result().outputs["y"].float_val[:] == [2.0, 2.0]
            else:
                with pytest.raises(grpc.RpcError, match='input "x" must be float32') as caught:
                    future.result()
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_swaps_wait_for_batches(batching_server: ModelServer, tmp_path: Path) -> None:
    base_path = batching_server._core._manager._models["scaler"].config.base_path
    factors = {1: 2.0}
    stopping, wrong, seen = threading.Event(), [], set()

    def ask() -> None:
        with grpc.insecure_channel(batching_server.address) as channel:
            stub = PredictionServiceStub(channel)
            while not stopping.is_set():
                response = stub.Predict(request_for(np.ones((1, 2), np.float32)), timeout=30)
                version = response.model_spec.version.value
                seen.add(version)
                if response.outputs["y"].float_val[0] != factors[version]:
                    wrong.append(version)

    with ThreadPoolExecutor(8) as callers:
        asking = [callers.submit(ask) for _ in range(8)]
        for version in (2, 3):
            factors[version] = version + 5.0
            publish(Scaler(factors[version]).save(tmp_path / str(version)), base_path, version)
            while version not in seen and not any(future.done() for future in asking):
                stopping.wait(0.01)
        stopping.set()
        for future in asking:
            future.result(30)
    assert wrong == []
    assert seen == {1, 2, 3}
