"""What each objective shows the encoder and asks of it."""

from dataclasses import replace

import numpy as np
import tensorflow as tf

from tests.trainer.test_windows import make_sequences
from tests.trainer.worlds import START, checkerboard_catalogue
from trainer.config import RankerConfig
from trainer.objectives import MaskedItem, NextItem
from trainer.ranker import Ranker
from trainer.windows import TrainingWindows
from transform.tables import UNKNOWN

ROWS = np.array([9, 8, 7, 6, 5, 4, 3], np.int32)
WEIGHTS = np.arange(7, dtype=np.float32)


def make_windows() -> TrainingWindows:
    """One shopper with seven interactions, in windows of eight slots."""
    sequences = replace(make_sequences([list(range(7))]), rows=ROWS)
    return TrainingWindows(sequences, 8, 1, seed=1, target_weights=WEIGHTS)


def masked(objective: MaskedItem, seed: int = 1) -> dict[str, np.ndarray]:
    windows = make_windows()
    (batch,) = windows.epoch(0)
    return objective.training(windows, batch, np.random.default_rng(seed))


def test_next_item_targets_what_follows_with_its_weight() -> None:
    windows = make_windows()
    (batch,) = windows.epoch(0)
    inputs = NextItem().training(windows, batch, np.random.default_rng(1))
    assert inputs["history_rows"].tolist() == [[0, 9, 8, 7, 6, 5, 4, 3]]
    assert inputs["targets"].tolist() == [[9, 8, 7, 6, 5, 4, 3, 0]]
    assert inputs["target_weights"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 0]]


def test_masked_items_are_hidden_and_are_the_only_targets() -> None:
    whole, weights = np.array([[0, *ROWS]]), np.array([[0, *WEIGHTS]])
    drawn = set()
    for seed in range(50):
        inputs = masked(MaskedItem(0.4, 0.0), seed)
        slots = inputs["target_slots"]
        # Of eight slots three may be masked; of seven interactions three are.
        assert slots.shape == (1, 3)
        hidden = inputs["history_rows"] == UNKNOWN
        assert np.flatnonzero(hidden[0]).tolist() == sorted(slots[0])
        np.testing.assert_array_equal(inputs["targets"], np.take_along_axis(whole, slots, axis=1))
        np.testing.assert_array_equal(inputs["target_weights"], np.take_along_axis(weights, slots, axis=1))
        np.testing.assert_array_equal(np.where(hidden, whole, inputs["history_rows"]), whole)
        assert (inputs["history_types"][hidden] == 0).all()
        drawn |= set(slots[0].tolist())
    assert drawn == set(range(1, 8))


def test_short_windows_have_few_targets_and_empty_ones_none() -> None:
    windows = TrainingWindows(make_sequences([[0, 1]]), 8, 1, seed=1)
    (batch,) = windows.epoch(0)
    inputs = MaskedItem(0.9, 0.0).training(windows, batch, np.random.default_rng(1))
    # Padded to four slots; the second window is filling.
    assert inputs["target_weights"].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert (inputs["history_rows"][1] == 0).all()


def test_some_windows_are_trained_as_requests_are_asked() -> None:
    inputs = masked(MaskedItem(0.4, 0.99))
    assert inputs["targets"].tolist() == [[3, 0, 0]]
    assert inputs["target_slots"][0, 0] == 7
    assert (inputs["history_rows"] == UNKNOWN).sum() == 1


def test_masked_request_ends_with_an_unknown_product_at_its_own_time() -> None:
    batch = {
        "history_rows": tf.constant([[0, 5, 7]]),
        "history_types": tf.constant([[0, 2, 6]]),
        "history_timestamps": tf.constant([[0, 100, 200]], tf.int64),
        "context_timestamp": tf.constant([300], tf.int64),
    }
    question = MaskedItem(0.2, 0.1).question(batch)
    assert question["history_rows"].numpy().tolist() == [[5, 7, UNKNOWN]]
    assert question["history_types"].numpy().tolist() == [[2, 6, 0]]
    assert question["history_timestamps"].numpy().tolist() == [[100, 200, 300]]
    assert NextItem().question(batch) is batch


def test_a_masked_slot_looks_to_both_sides_and_never_at_what_it_hides() -> None:
    config = RankerConfig(dim=8, history_length=4, blocks=1, heads=2, objective="masked_item", repeats="excluded")
    ranker = Ranker(checkerboard_catalogue(), config)
    rows = tf.constant([[5, UNKNOWN, 7, 9]])
    times = START + 3_600 * np.arange(1, 5)[None]

    def loss(target: int, last: int = 9) -> float:
        shown = tf.concat([rows[:, :3], [[last]]], axis=1)
        inputs = {
            "history_rows": shown,
            "history_types": tf.constant([[2, 0, 2, 2]]),
            "history_timestamps": tf.constant(times, tf.int64),
            "context_timestamp": tf.constant([START + 90_000], tf.int64),
            "target_slots": tf.constant([[1]]),
            "targets": tf.constant([[target]]),
            "target_weights": tf.constant([[1.0]]),
        }
        return float(ranker.compute_loss(inputs))

    assert loss(6) != loss(6, last=8)
    # Of the products that may be the answer all probabilities sum to 1; those shown beside it are no rivals.
    total = sum(np.exp(-loss(row)) for row in ranker.products.trained_rows[2:].tolist() if row not in (5, 7, 9))
    np.testing.assert_allclose(total, 1, rtol=1e-4)
