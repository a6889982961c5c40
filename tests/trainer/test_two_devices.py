"""Data-parallel training on two logical devices gives what one device gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.trainer.two_devices"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("other", "reference", "tolerance"),
    [
        ("one, compiled", "one", 1e-5),
        ("one, second device", "one", 0),
        ("two", "one", 1e-5),
        ("two, compiled", "one", 1e-5),
        ("two, clipped", "one, clipped", 1e-5),
        # Eight bits of mantissa, then eleven; products are rounded, sums of products and weights are not.
        ("one, bfloat16", "one", 0.05),
        ("two, bfloat16", "one, bfloat16", 0.05),
        ("one, float16", "one", 0.01),
        ("one, float16, compiled", "one", 0.01),
        ("two, float16", "one, float16", 0.01),
    ],
)
def test_trainings_agree(outcomes: dict[str, Any], other: str, reference: str, tolerance: float) -> None:
    received, expected = (np.array(outcomes[name]["values"]) for name in (other, reference))
    np.testing.assert_allclose(received, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["two", "two, compiled", "two, clipped", "two, bfloat16", "two, float16"])
def test_both_devices_hold_the_same_weights(outcomes: dict[str, Any], name: str) -> None:
    assert outcomes[name]["apart"] == 0
    assert outcomes[name]["swapped_wrongly"] == 0


def test_precisions_and_clipping_make_a_difference(outcomes: dict[str, Any]) -> None:
    one = outcomes["one"]["values"]
    assert all(outcomes[f"one, {name}"]["values"] != one for name in ("clipped", "bfloat16", "float16"))


def test_an_absent_device_is_named_beside_those_that_are_there(outcomes: dict[str, Any]) -> None:
    assert outcomes["third device"] == "training.devices names CPU:2, and there is only CPU:0, CPU:1."


def test_a_batch_that_does_not_divide_is_refused(outcomes: dict[str, Any]) -> None:
    assert "divisible by the number of devices, received batch_size = 9 for CPU:0, CPU:1" in outcomes["odd batch"]


def test_a_divided_table_gives_the_values_and_gradients_of_the_whole(outcomes: dict[str, Any]) -> None:
    sharded = outcomes["sharded"]
    assert (sharded["devices"], sharded["sizes"]) == (["CPU:0", "CPU:1"], [6, 5])
    assert sharded["values"][0] == sharded["values"][1]
    assert sharded["gradients"][0] == sharded["gradients"][1]
    assert sharded["read back"]


def test_a_divided_table_trains_as_the_whole(outcomes: dict[str, Any]) -> None:
    divided, whole = outcomes["sharded"]["losses"]
    np.testing.assert_allclose(divided, whole, rtol=1e-6)
