"""What a candidate gains by being in the history."""

import numpy as np
import tensorflow as tf

from trainer.repeats import RepeatWeights, add_repeat_gain, repeat_gain, shared_repeat_gain

HISTORY = np.array([[0, 5, 6, 5]], np.int32)
# What is asked at the last two slots: the gain of each slot's product.
WEIGHTS = np.array([[[0, 1, 2, 0], [0, 10, 20, 30]]], np.float32)


def test_gain_of_own_candidates_by_hand() -> None:
    # Slot 2 asks for 5, met once by then: 1. Slot 3 asks for 5, met twice: 10 + 30.
    np.testing.assert_array_equal(repeat_gain(HISTORY, WEIGHTS, tf.constant([[5, 5]])), [[1, 40]])


def test_gain_of_shared_candidates_by_hand() -> None:
    np.testing.assert_array_equal(
        shared_repeat_gain(HISTORY, WEIGHTS, tf.constant([5, 6, 7])), [[[1, 2, 0], [40, 20, 0]]]
    )


def test_gain_in_the_whole_catalogue_by_hand() -> None:
    gained = add_repeat_gain(tf.ones([2, 8]), HISTORY, WEIGHTS)
    np.testing.assert_array_equal(gained, [[1, 1, 1, 1, 1, 2, 3, 1], [1, 1, 1, 1, 1, 41, 21, 1]])


def history(rows: list[int], times: tuple[int, ...] = (0, 0, 0)) -> dict[str, tf.Tensor]:
    return {"history_rows": tf.constant([rows]), "history_timestamps": tf.constant([times], tf.int64)}


def make_layer(times: bool = False) -> tuple[RepeatWeights, np.ndarray]:
    layer = RepeatWeights(4, 6, times)
    states = np.random.default_rng(1).normal(size=(1, 3, 4)).astype(np.float32)
    layer(states, history([2, 3, 4]))
    layer.query.kernel.assign(np.random.default_rng(2).normal(size=(4, 4)))
    layer.distance_bias.assign([1, 2, 3, 4, 5, 6])
    return layer, states


def test_weights_equal_the_formula_and_look_at_nothing_later_and_no_padding() -> None:
    layer, states = make_layer()
    weights = layer(states, history([0, 3, 4])).numpy()[0]
    query, key = layer.query(states).numpy()[0], layer.key(states).numpy()[0]
    expected = query @ key.T / 2 + [[1, 0, 0], [2, 1, 0], [3, 2, 1]]
    seen = np.array([[False, False, False], [False, True, False], [False, True, True]])
    np.testing.assert_allclose(weights, np.where(seen, expected, 0), rtol=1e-5)


def test_having_been_met_at_all_counts_once() -> None:
    layer, states = make_layer()
    plain = layer(states, history([5, 6, 5])).numpy()[0]
    layer.once.bias.assign([10])
    # Product 5 is met at slots 0 and 2, product 6 at slot 1: slot 2 adds nothing.
    added = layer(states, history([5, 6, 5])).numpy()[0] - plain
    np.testing.assert_allclose(added, [[10, 0, 0], [10, 10, 0], [10, 10, 0]], atol=1e-5)


def test_time_between_biases_the_weights() -> None:
    layer, states = make_layer(times=True)
    times = (100, 101, 105)
    plain = layer(states, history([5, 6, 7], times)).numpy()[0]
    # Buckets: 1 is less than a second, 2 from one, 3 from two, 4 from four seconds on; 0 is unknown.
    layer.time_bias.assign(np.arange(layer.time_bias.shape[0]))
    added = layer(states, history([5, 6, 7], times)).numpy()[0] - plain
    np.testing.assert_allclose(added, [[1, 0, 0], [2, 1, 0], [4, 4, 1]], atol=1e-5)
    unknown = layer(states, history([5, 6, 7], (0, 0, 105))).numpy()[0] - layer(states, history([5, 6, 7])).numpy()[0]
    np.testing.assert_allclose(unknown, [[0, 0, 0], [0, 0, 0], [0, 0, 1]], atol=1e-5)


def test_newest_only_is_the_last_slot() -> None:
    layer, states = make_layer(times=True)
    layer.once.bias.assign([10])
    layer.time_bias.assign(np.arange(layer.time_bias.shape[0]))
    batch = history([5, 6, 5], (100, 101, 105))
    np.testing.assert_allclose(layer(states, batch, newest_only=True)[:, 0], layer(states, batch)[:, -1], rtol=1e-6)


def test_it_starts_without_an_opinion() -> None:
    weights = RepeatWeights(4, 6, times=True)(tf.ones([1, 3, 4]), history([5, 6, 5]))
    assert np.all(weights.numpy() == 0)
