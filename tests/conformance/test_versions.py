"""How versions come and go: found on disk, swapped under load, broken ones kept out. A test takes the next numbers."""

import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from tests.conformance.conftest import Server
from tests.serving.models import add_warm_up, publish, truncate_variables

X = np.array([[1.0, 2.0]], np.float32)
Build = Callable[..., PredictRequest]
Saved = Callable[[float], Path]


@pytest.fixture(scope="module")
def next_version(server: Server) -> Callable[[], int]:
    """Version numbers above all that were seen so far."""
    numbers = count(max(server.states("swapped")) + 1)
    return lambda: next(numbers)


def test_new_version_replaces_the_old(
    server: Server, request_for: Build, saved: Saved, next_version: Callable[[], int]
) -> None:
    old = server.predict(request_for(model="swapped", x=X)).model_spec.version.value
    new = next_version()
    publish(saved(5.0), server.models / "swapped", new)
    server.wait_for("swapped", new)
    response = server.predict(request_for(model="swapped", x=X))
    assert response.model_spec.version.value == new
    assert response.outputs["y"].float_val[:] == [5.0, 10.0]
    server.wait_for("swapped", old, ModelVersionStatus.END)


def test_broken_version_leaves_the_old_one_serving(
    server: Server, request_for: Build, saved: Saved, next_version: Callable[[], int], tmp_path: Path
) -> None:
    old = server.predict(request_for(model="swapped", x=X)).model_spec.version.value
    broken = next_version()
    publish(truncate_variables(publish(saved(2.0), tmp_path, 1)), server.models / "swapped", broken)
    server.wait_for("swapped", broken, ModelVersionStatus.LOADING)
    for _ in range(20):
        assert server.predict(request_for(model="swapped", x=X)).model_spec.version.value == old
    assert server.states("swapped")[old] == ModelVersionStatus.AVAILABLE


def warm_up_requests(request_for: Build, count: int, width: int = 2) -> list[PredictRequest]:
    return [request_for("swapped", x=np.ones((1, width), np.float32))] * count


def test_version_whose_warm_up_succeeds_becomes_available(
    server: Server, request_for: Build, saved: Saved, next_version: Callable[[], int], tmp_path: Path
) -> None:
    new = next_version()
    warm = add_warm_up(publish(saved(4.0), tmp_path, 1), warm_up_requests(request_for, 3))
    publish(warm, server.models / "swapped", new)
    server.wait_for("swapped", new)
    assert server.predict(request_for("swapped", x=X)).outputs["y"].float_val[:] == [4.0, 8.0]


@pytest.mark.parametrize(("count", "width"), [(1, 3), (1_001, 2)], ids=["failing record", "too many records"])
def test_version_whose_warm_up_fails_does_not_become_available(
    server: Server,
    request_for: Build,
    saved: Saved,
    next_version: Callable[[], int],
    tmp_path: Path,
    count: int,
    width: int,
) -> None:
    old = server.predict(request_for("swapped", x=X)).model_spec.version.value
    broken = next_version()
    add_warm_up(publish(saved(2.0), tmp_path, 1), warm_up_requests(request_for, count, width))
    publish(tmp_path / "1", server.models / "swapped", broken)
    server.wait_for("swapped", broken, ModelVersionStatus.LOADING)
    for _ in range(20):
        time.sleep(0.05)
        assert server.predict(request_for("swapped", x=X)).model_spec.version.value == old
    assert server.states("swapped")[broken] == ModelVersionStatus.LOADING


def test_names_that_are_not_integers_are_ignored(server: Server, saved: Saved, next_version: Callable[[], int]) -> None:
    publish(saved(2.0), server.models / "swapped" / "drafts", 1)
    new = next_version()
    publish(saved(2.0), server.models / "swapped", new)
    server.wait_for("swapped", new)
    assert set(server.states("swapped")) <= set(range(1, new + 1))


def test_swaps_under_load_lose_no_request(
    server: Server, request_for: Build, saved: Saved, next_version: Callable[[], int]
) -> None:
    first = next_version()
    publish(saved(2.0), server.models / "swapped", first)
    server.wait_for("swapped", first)
    factors = {first: 2.0}
    stopping, wrong, answered = threading.Event(), [], set()

    def ask() -> None:
        while not stopping.is_set():
            response = server.predict(request_for(model="swapped", x=X))
            version = response.model_spec.version.value
            answered.add(version)
            if response.outputs["y"].float_val[0] != factors[version]:
                wrong.append(response)

    def watched() -> None:
        try:
            ask()
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=watched) for _ in range(4)]
    for thread in threads:
        thread.start()
    for swap in range(4):
        new = next_version()
        factors[new] = 3.0 + swap % 2
        publish(saved(factors[new]), server.models / "swapped", new)
        server.wait_for("swapped", new)
    stopping.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(answered) >= 4
