"""What is seen of batching from outside: padding to the allowed sizes, and what can't be joined."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from tests.conformance.conftest import Server
from tests.conformance.prepare import MAX_BATCH_SIZE

Build = Callable[..., PredictRequest]


@pytest.mark.parametrize(("rows", "run"), [(1, 2), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_batch_is_padded_to_an_allowed_size_and_cut_again(
    server: Server, request_for: Build, rows: int, run: int
) -> None:
    numbers = np.arange(rows, dtype=np.float32)
    outputs = server.predict(request_for("probe", a=numbers, b=10 * numbers)).outputs
    assert outputs["rows"].float_val[:] == [run] * rows
    assert outputs["sum"].float_val[:] == (11 * numbers).tolist()


def test_concurrent_requests_get_their_own_rows(server: Server, request_for: Build) -> None:
    def ask(number: int) -> tuple[list[float], float]:
        rows = number % MAX_BATCH_SIZE + 1
        a = np.full(rows, number, np.float32)
        outputs = server.predict(request_for("probe", a=a, b=np.arange(rows, dtype=np.float32))).outputs
        return list(outputs["sum"].float_val), outputs["rows"].float_val[0]

    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(ask, range(200)))
    for number, (values, run) in enumerate(answers):
        assert values == [float(number + row) for row in range(number % MAX_BATCH_SIZE + 1)]
        assert run in (2, 4, MAX_BATCH_SIZE)


def test_request_above_max_batch_size_is_refused(server: Server, request_for: Build) -> None:
    rows = np.zeros(MAX_BATCH_SIZE + 1, np.float32)
    error = server.refusal(request_for("probe", a=rows, b=rows))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f"Task size {MAX_BATCH_SIZE + 1} is larger than maximum input batch size" in error.details()


def test_inputs_must_have_one_0th_dimension(server: Server, request_for: Build) -> None:
    error = server.refusal(request_for("probe", a=np.zeros(2, np.float32), b=np.zeros(3, np.float32)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "equal 0th-dimension size" in error.details()


def test_output_without_the_batch_dimension_is_refused(server: Server, request_for: Build) -> None:
    error = server.refusal(request_for("probe", "sum", a=np.zeros(2, np.float32)))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "Batched output tensor" in error.details()
