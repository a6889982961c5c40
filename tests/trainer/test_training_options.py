"""The ranker trained with every option of devices, precision, loss and objective."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.test_training import CATALOGUE, RANKER, colour_separation, ranker_scores
from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences, write_transform
from trainer.config import LossConfig
from trainer.data import Catalogue
from trainer.ranker import load_ranker
from trainer.ranker_training import train_ranker

ROOT = Path(__file__).parents[2]
SAMPLED = LossConfig(name="sampled_softmax", negatives=16)


# The same of a small regression, in seconds: test_two_devices.py.
@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    command = [sys.executable, "-m", "tests.trainer.option_runs", str(tmp_path_factory.mktemp("runs"))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3_000:]
    return {name: np.array(scores) for name, scores in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tolerance"), [("two devices", 1e-4), ("compiled", 1e-4), ("bfloat16", 0.05)])
def test_devices_and_precision_change_digits_only(outcomes: dict[str, np.ndarray], name: str, tolerance: float) -> None:
    np.testing.assert_allclose(outcomes[name], outcomes["one device"], atol=tolerance)


@pytest.mark.slow
def test_low_precision_is_one(outcomes: dict[str, np.ndarray]) -> None:
    assert np.abs(outcomes["bfloat16"] - outcomes["one device"]).max() > 1e-4


@pytest.mark.slow
def test_a_divided_table_learns_the_checkerboard(outcomes: dict[str, np.ndarray]) -> None:
    assert colour_separation(outcomes["divided table"]) > 0.95


# A model of products that have numbers alone is traced in half the time.
PLAIN = checkerboard_catalogue(new_items=0, content=False)


@pytest.mark.parametrize(
    ("catalogue", "options"),
    [
        (PLAIN, {"loss": SAMPLED, "positions": ("absolute",), "time_bias": False}),
        # Eight numbers are few for gates: from one seed of two this loss does not get out of where it starts.
        (CATALOGUE, {"loss": replace(SAMPLED, name="gbce"), "fusion": "concatenation"}),
        (CATALOGUE, {"loss": replace(SAMPLED, name="bce", negative_sampling="uniform"), "repeats": "excluded"}),
        (PLAIN, {"loss": replace(SAMPLED, name="bpr", negative_sampling="in_batch")}),
        (
            PLAIN,
            {
                "loss": LossConfig(temperature=0.5, popularity_penalty=0.1),
                "objective": "masked_item",
                "repeats": "excluded",
            },
        ),
    ],
    ids=["sampled softmax, absolute positions", "gBCE", "BCE", "BPR", "popularity penalty, masked item"],
)
def test_losses_and_objectives_learn_the_checkerboard(
    tmp_path: Path, catalogue: Catalogue, options: dict[str, Any]
) -> None:
    new_items = 0 if catalogue is PLAIN else 2
    write_transform(tmp_path / "world", catalogue, checkerboard_sequences(new_items))
    config = replace(RANKER, **options)
    train_ranker(tmp_path / "world", tmp_path / "ranker", config, tmp_path / "logs")
    assert colour_separation(ranker_scores(load_ranker(tmp_path / "ranker", catalogue))) > 0.9
