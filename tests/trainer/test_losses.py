"""Softmax losses against numbers worked by hand and against each other."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.losses import sampled_softmax_loss, softmax_loss
from trainer.negatives import MixtureSampler


def test_full_softmax_by_hand() -> None:
    # Logits 0 and ln 3 → p = (1/4, 3/4); target 1 → −ln 3/4. The second has no target.
    logits = tf.constant([[0.0, np.log(3)], [5.0, 1.0]], tf.float32)
    assert float(softmax_loss(logits, tf.constant([1, -2]))) == pytest.approx(-np.log(3 / 4), abs=1e-6)


def test_full_softmax_and_its_gradient_equal_tensorflows_own() -> None:
    rng = np.random.default_rng(3)
    logits = tf.constant(5 * rng.normal(size=(7, 11)), tf.float32)
    targets = tf.constant([0, 10, -1, 3, 3, -2, 5])
    counted = targets >= 0
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        ours = 2 * softmax_loss(logits, targets)
        own = tf.nn.sparse_softmax_cross_entropy_with_logits(targets[counted], logits[counted])
        theirs = 2 * tf.reduce_mean(own)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(ours, logits), tape.gradient(theirs, logits), atol=1e-6)


def test_sampled_softmax_by_hand() -> None:
    # Positive logit ln 2. Negatives: logit ln 6 expected three times → 6/3 = 2; the target itself is not counted;
    # logit ln 4 expected half a time → 4/0.5 = 8. Loss = −ln(2 / (2 + 2 + 8)) = ln 6.
    loss = sampled_softmax_loss(
        positive=tf.constant([np.log(2)], tf.float32),
        negative=tf.constant([[np.log(6), np.log(2), np.log(4)]], tf.float32),
        negative_log_counts=tf.constant([np.log(3), 0.0, np.log(0.5)], tf.float32),
        targets=tf.constant([7]),
        negative_rows=tf.constant([3, 7, 4]),
    )
    assert float(loss) == pytest.approx(np.log(6), abs=1e-6)


def test_sampled_softmax_approximates_the_full_one_under_a_skewed_proposal() -> None:
    rng = np.random.default_rng(5)
    logits = 2 * rng.normal(size=(30, 42)).astype(np.float32)
    targets = rng.integers(2, 42, 30).astype(np.int32)
    share = np.zeros(42)
    share[2:] = 1 / np.arange(1, 41) / np.sum(1 / np.arange(1, 41))
    full = float(softmax_loss(logits[:, 2:], targets - 2))

    def sampled(corrected: bool) -> float:
        rows, log_counts = MixtureSampler(share, 3_000, 1_000).draw(np.random.default_rng(6))
        correction = log_counts if corrected else np.zeros_like(log_counts)
        positive = logits[np.arange(30), targets]
        return float(sampled_softmax_loss(positive, logits[:, rows], correction, targets, rows))

    assert sampled(corrected=True) == pytest.approx(full, abs=0.03)
    assert abs(sampled(corrected=False) - full) > 1
