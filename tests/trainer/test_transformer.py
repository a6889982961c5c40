"""Transformer blocks and their dropout."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.attention import Attention, SlotPairs
from trainer.transformer import Block, GatedFeedForward, dropout, split_seed

SEED = tf.constant([1, 2])


def test_dropout_keeps_the_mean_and_the_share() -> None:
    dropped = dropout(tf.ones([100, 101]), 0.2, SEED).numpy()
    assert np.mean(dropped == 0) == pytest.approx(0.2, abs=0.015)
    assert dropped.max() == pytest.approx(1.25, rel=1e-4)


def test_dropout_is_the_same_for_the_same_seed_only() -> None:
    ones = tf.ones([64])
    np.testing.assert_array_equal(dropout(ones, 0.5, SEED), dropout(ones, 0.5, SEED))
    assert not np.array_equal(dropout(ones, 0.5, SEED), dropout(ones, 0.5, SEED + 1))


def test_no_seed_means_no_dropout() -> None:
    np.testing.assert_array_equal(dropout(tf.ones([8]), 0.5, None), np.ones(8))


def test_split_seeds_differ() -> None:
    first, second = split_seed(SEED, 2)
    assert not np.array_equal(first, second)


def test_feed_forward_is_swiglu() -> None:
    layer = GatedFeedForward(2, "feed_forward")
    slots = np.random.default_rng(1).normal(size=(1, 3, 2)).astype(np.float32)
    actual = layer(slots)
    hidden = slots @ layer.hidden.kernel.numpy()
    gate, value = hidden[..., :4], hidden[..., 4:]
    inner = gate / (1 + np.exp(-gate)) * value
    expected = inner @ layer.output_projection.kernel.numpy() + layer.output_projection.bias.numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_block_is_causal_where_its_pairs_are() -> None:
    block = Block(Attention(4, 2, 5, positions=True, times=False), 0.0, "block")
    slots = np.random.default_rng(1).normal(size=(1, 5, 4)).astype(np.float32)
    changed = slots.copy()
    # Not one number for all: the norm would take it away.
    changed[0, 3:] += [1, 2, 3, 5]
    for causal in (True, False):
        pairs = SlotPairs(tf.ones([1, 5], tf.bool), None, causal)
        assert np.allclose(block(changed, pairs)[0, :3], block(slots, pairs)[0, :3], atol=1e-6) == causal
        assert not np.allclose(block(changed, pairs)[0, 3:], block(slots, pairs)[0, 3:])
