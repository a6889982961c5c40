"""Causal pooling against its formula, written out."""

import numpy as np
import tensorflow as tf

from trainer.pooling import CausalPooling


def make_layer(dim: int = 6, heads: int = 2, length: int = 5) -> tuple[CausalPooling, np.ndarray]:
    layer = CausalPooling(dim, heads, length)
    slots = np.random.default_rng(1).normal(size=(2, length, dim)).astype(np.float32)
    layer(slots, slots[..., :2], tf.ones([2, length], tf.bool))
    layer.distance_bias.assign(np.random.default_rng(2).normal(size=(heads, length)))
    return layer, slots


def test_equals_the_formula_in_loops() -> None:
    layer, slots = make_layer()
    valid = np.array([[False, True, True, True, True], [True] * 5])
    scores = 8 * np.tanh(layer.scores(slots).numpy() / 8)
    values = layer.values(slots).numpy().reshape(2, 5, 2, 3)
    bias = layer.distance_bias.numpy()
    # The values of each head and, beside them, the first two numbers of each slot.
    values = np.concatenate([values, np.repeat(slots[:, :, None, :2], 2, axis=2)], axis=-1)
    expected = np.zeros((2, 5, 2, 5))
    for b in range(2):
        for t in range(5):
            for h in range(2):
                seen = [j for j in range(t + 1) if valid[b, j]]
                weights = np.array([np.exp(scores[b, j, h] + bias[h, t - j]) for j in seen])
                for weight, j in zip(weights / max(weights.sum(), 1e-9), seen, strict=True):
                    expected[b, t, h] += weight * values[b, j, h]
    pooled, beside = layer(slots, slots[..., :2], valid)
    np.testing.assert_allclose(pooled, expected[..., :3].reshape(2, 5, 6), atol=1e-5)
    np.testing.assert_allclose(beside, expected[..., 3:], atol=1e-5)


def test_newest_only_is_the_last_slot() -> None:
    layer, slots = make_layer()
    valid = tf.ones([2, 5], tf.bool)
    newest, everything = layer(slots, slots, valid, newest_only=True), layer(slots, slots, valid)
    for part, whole in zip(newest, everything, strict=True):
        np.testing.assert_allclose(part, whole[:, -1:], atol=1e-6)


def test_nothing_pools_to_zero() -> None:
    layer, slots = make_layer()
    for part in layer(slots, slots, tf.zeros([2, 5], tf.bool)):
        assert np.all(part.numpy() == 0)


def test_left_padding_changes_nothing() -> None:
    layer, slots = make_layer()
    padded = np.concatenate([np.full((2, 2, 6), 9, np.float32), slots[:, :3]], axis=1)
    valid = np.array([[False, False, True, True, True]] * 2)
    short = layer(slots[:, :3], slots[:, :3], tf.ones([2, 3], tf.bool))
    for part, whole in zip(short, layer(padded, padded, valid), strict=True):
        np.testing.assert_allclose(whole[:, 2:], part, atol=1e-6)
