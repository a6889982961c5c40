"""Attention among slots: who sees whom, and what distance and time add."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.attention import Attention, PositionBias, SlotPairs, TimeBias

SLOTS = np.random.default_rng(1).normal(size=(1, 3, 4)).astype(np.float32)
VALID = np.array([[False, True, True]])


def written_out(layer: Attention, seen: dict[int, list[int]], bias: np.ndarray) -> np.ndarray:
    """Softmax attention of two heads of width 2, slot by slot; bias [heads, L, L]."""
    query, key, value = np.split(layer.projection(SLOTS).numpy()[0], 3, axis=-1)
    mixed = np.zeros((3, 4), np.float32)
    for slot, others in seen.items():
        for number, head in enumerate((slice(0, 2), slice(2, 4))):
            scores = [query[slot, head] @ key[other, head] / np.sqrt(2) + bias[number, slot, other] for other in others]
            weights = np.exp(scores) / np.exp(scores).sum()
            mixed[slot, head] = weights @ value[others, head]
    return layer.output_projection(mixed).numpy()


@pytest.mark.parametrize(
    ("causal", "seen"),
    [
        # Slot 0 is padding and sees itself; slot 1 sees itself; slot 2 sees slots 1 and 2.
        (True, {0: [0], 1: [1], 2: [1, 2]}),
        # From both sides; nobody else sees the padding.
        (False, {0: [0, 1, 2], 1: [1, 2], 2: [1, 2]}),
    ],
)
def test_attention_equals_softmax_written_out(causal: bool, seen: dict[int, list[int]]) -> None:
    layer = Attention(4, 2, 5, positions=True, times=True)
    layer.build(None)
    position, time = np.random.default_rng(2).normal(size=(2, 9)), np.random.default_rng(3).normal(size=(29, 2))
    layer.position_bias.bias.assign(position)
    layer.time_bias.bias.assign(time)
    # Three seconds between slots 1 and 2: bucket 3; a moment with itself: bucket 1; slot 0 has no time: bucket 0.
    buckets = np.array([[0, 0, 0], [0, 1, 3], [0, 3, 1]])
    distance = np.arange(3)[None, :] - np.arange(3)[:, None]
    bias = position[:, 4 + distance] + time[buckets].transpose(2, 0, 1)
    pairs = SlotPairs(tf.constant(VALID), tf.constant([[0, 100, 103]], tf.int64), causal, [layer.time_bias])
    np.testing.assert_allclose(layer(SLOTS, pairs)[0], written_out(layer, seen, bias), atol=1e-5)


def test_weights_sum_to_one_and_give_what_the_layer_mixes() -> None:
    layer = Attention(4, 2, 3, positions=False, times=False)
    layer.build(None)
    weights = layer.weights(tf.constant(SLOTS), SlotPairs(tf.constant(VALID), None, True)).numpy()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    assert weights[0, :, 2, 0].tolist() == [0, 0]


def test_position_bias_is_by_distance_whatever_the_length() -> None:
    layer = PositionBias(1, 4)
    layer.bias.assign([[-3, -2, -1, 0, 1, 2, 3]])
    for length in (1, 3, 4):
        places = np.arange(length)
        np.testing.assert_array_equal(layer(length)[0], places[None, :] - places[:, None])


def test_time_bias_takes_one_number_a_head_and_bucket_from_each_block() -> None:
    first, second = TimeBias(2), TimeBias(1)
    first.bias.assign(np.arange(58).reshape(29, 2))
    second.bias.assign(-np.arange(29).reshape(29, 1))
    # Unknown to itself: bucket 0; a moment with itself: 1; four seconds apart, whichever is earlier: 2 + log₂ 4.
    times = tf.constant([[0, 104, 100]], tf.int64)
    pairs = SlotPairs(tf.constant(VALID), times, True, [first, second])
    buckets = np.array([[0, 0, 0], [0, 1, 4], [0, 4, 1]])
    np.testing.assert_array_equal(pairs.time_bias(first), [[2 * buckets, 2 * buckets + 1]])
    np.testing.assert_array_equal(pairs.time_bias(second), [[-buckets]])


def test_no_clock_no_time_bias() -> None:
    layer = TimeBias(2)
    assert SlotPairs(tf.constant(VALID), None, True, [layer]).time_bias(layer) is None
