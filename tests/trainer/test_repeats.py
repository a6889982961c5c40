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


def make_layer() -> tuple[RepeatWeights, np.ndarray]:
    layer = RepeatWeights(4, 6)
    states = np.random.default_rng(1).normal(size=(1, 3, 4)).astype(np.float32)
    layer(states, tf.ones([1, 3], tf.bool))
    layer.query.kernel.assign(np.random.default_rng(2).normal(size=(4, 4)))
    layer.distance_bias.assign([1, 2, 3, 4, 5, 6])
    return layer, states


def test_weights_equal_the_formula_and_look_at_nothing_later_and_no_padding() -> None:
    layer, states = make_layer()
    weights = layer(states, np.array([[False, True, True]])).numpy()[0]
    query, key = layer.query(states).numpy()[0], layer.key(states).numpy()[0]
    expected = query @ key.T / 2 + [[1, 0, 0], [2, 1, 0], [3, 2, 1]]
    seen = np.array([[False, False, False], [False, True, False], [False, True, True]])
    np.testing.assert_allclose(weights, np.where(seen, expected, 0), rtol=1e-5)


def test_newest_only_is_the_last_slot() -> None:
    layer, states = make_layer()
    valid = tf.ones([1, 3], tf.bool)
    np.testing.assert_allclose(layer(states, valid, newest_only=True)[:, 0], layer(states, valid)[:, -1], rtol=1e-6)


def test_it_starts_without_an_opinion() -> None:
    weights = RepeatWeights(4, 6)(tf.ones([1, 3, 4]), tf.ones([1, 3], tf.bool))
    assert np.all(weights.numpy() == 0)
