"""Softmax losses against numbers worked by hand and against each other."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from trainer.losses import bpr_loss, gbce_beta, gbce_loss, popularity_costs, sampled_softmax_loss
from trainer.negatives import NegativeSampler


def full_softmax(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean cross-entropy by SciPy, over all columns."""
    return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(targets)), targets]))


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


def test_sampled_softmax_weighs_slots_and_leaves_out_reserved_rows_by_hand() -> None:
    # First: −ln(2 / (2 + 3)); the padding among the negatives does not count. Second: the only negative is its own
    # target, so 0. Third: no target. Weights 3, 1, 1 → 3/4 ln 5/2.
    loss = sampled_softmax_loss(
        positive=tf.constant([np.log(2), 0.5, 9.0], tf.float32),
        negative=tf.constant([[np.log(3), 4.0], [7.0, 8.0], [1.0, 1.0]], tf.float32),
        negative_log_counts=tf.zeros([2]),
        targets=tf.constant([7, 3, 0]),
        negative_rows=tf.constant([3, 0]),
        weights=tf.constant([3.0, 1.0, 1.0]),
    )
    assert float(loss) == pytest.approx(3 / 4 * np.log(5 / 2), abs=1e-6)


@pytest.mark.parametrize(("in_batch", "uniform"), [(8_000, 0), (0, 8_000), (4_000, 4_000)])
def test_each_way_of_sampling_approaches_the_full_softmax(in_batch: int, uniform: int) -> None:
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(40, 32)).astype(np.float32)
    products = np.arange(2, 32, dtype=np.int32)
    share = np.zeros(32)
    share[2:] = 1 / np.arange(1, 31) / np.sum(1 / np.arange(1, 31))
    targets = rng.choice(32, 40, p=share).astype(np.int32)
    full = full_softmax(logits[:, 2:], targets - 2)

    def loss(sign: float) -> float:
        # A batch large enough that its targets are spread as the share says.
        rows, log_counts = NegativeSampler(in_batch, uniform, products, share).draw(
            rng, rng.choice(32, 100_000, p=share)
        )
        positive = logits[np.arange(40), targets]
        return float(sampled_softmax_loss(positive, logits[:, rows], sign * log_counts, targets, rows))

    assert loss(+1) == pytest.approx(full, abs=0.03)
    assert abs(loss(-1) - full) > 1


def test_sampled_softmax_adds_the_mean_cost_by_hand() -> None:
    # Positive e⁰ = 1; negatives 2, expected twice → 1, and 2: p = (1/4, 1/4, 2/4). Loss ln 4; costs 4, 8, 1 → 3.5.
    loss = sampled_softmax_loss(
        positive=tf.zeros([1]),
        negative=tf.constant([[np.log(2), np.log(2)]], tf.float32),
        negative_log_counts=tf.constant([np.log(2), 0.0], tf.float32),
        targets=tf.constant([2]),
        negative_rows=tf.constant([3, 4]),
        costs=tf.constant([0.0, 0.0, 4.0, 8.0, 1.0]),
    )
    assert float(loss) == pytest.approx(np.log(4) + 3.5, abs=1e-6)


def test_gbce_by_hand() -> None:
    # σ(0) = 1/2, σ(ln 3) = 3/4. β = 1/2: −(1/2 ln 1/2 + ln(1 − 3/4) + ln(1 − 1/2)) / 3 = 3.5 ln 2 / 3. The third
    # negative is the target. The second slot has no target.
    loss = gbce_loss(
        positive=tf.zeros([2]),
        negative=tf.constant([[np.log(3), 0.0, 5.0]] * 2, tf.float32),
        targets=tf.constant([4, 0]),
        negative_rows=tf.constant([2, 3, 4]),
        beta=0.5,
    )
    assert float(loss) == pytest.approx(3.5 * np.log(2) / 3, abs=1e-6)


def test_bce_equals_tensorflows_own() -> None:
    rng = np.random.default_rng(8)
    positive, negative = (tf.constant(rng.normal(size=shape), tf.float32) for shape in [(5,), (5, 4)])
    logits = tf.concat([positive[:, tf.newaxis], negative], axis=1)
    labels = tf.one_hot(tf.zeros(5, tf.int32), 5)
    expected = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
    loss = gbce_loss(positive, negative, tf.fill([5], 9), tf.range(2, 6))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_beta_by_hand() -> None:
    # α = 10/100; t = 3/4: β = 0.1 (0.75 (1 − 10) + 10) = 0.325.
    assert gbce_beta(10, 101, 0.75) == pytest.approx(0.325)
    assert gbce_beta(10, 101, 0.0) == pytest.approx(1)
    assert gbce_beta(10, 101, 1.0) == pytest.approx(0.1)
    # More negatives than products, drawn with replacement: nothing is left to correct.
    assert gbce_beta(500, 101, 0.75) == pytest.approx(1)


@pytest.mark.parametrize(("calibration", "best"), [(1.0, 1 / 5), (0.0, 5 / 9)])
def test_calibrated_gbce_is_least_at_the_true_probability(calibration: float, best: float) -> None:
    # A product that is the target with probability 1/5, else one of five negatives out of 25, so that α = 1/5: the best
    # σ is 1/5 β / (1/5 β + 4/5 α), which is 1/5 with t = 1 and 5/9 with t = 0.
    score = tf.constant([np.log(best / (1 - best))], tf.float32)
    beta = gbce_beta(5, 26, calibration)
    with tf.GradientTape() as tape:
        tape.watch(score)
        as_target = gbce_loss(score, tf.zeros([1, 0]), tf.constant([2]), tf.zeros([0], tf.int32), beta=beta)
        # Beside a target of score 50, which costs nothing; the mean is over both.
        as_negative = 2 * gbce_loss(tf.constant([50.0]), score[tf.newaxis], tf.constant([3]), tf.constant([2]))
        expected_loss = 1 / 5 * as_target + 4 / 5 * 1 / 5 * as_negative
    assert float(tape.gradient(expected_loss, score)[0]) == pytest.approx(0, abs=1e-7)


def test_bpr_by_hand() -> None:
    # Differences ln 3 and 0: σ = 3/4, 1/2; the third negative is the target. Mean of ln 4/3 and ln 2, at any weight.
    loss = bpr_loss(
        positive=tf.constant([np.log(3), 1.0], tf.float32),
        negative=tf.constant([[0.0, np.log(3), 9.0], [1.0, 2.0, 3.0]], tf.float32),
        targets=tf.constant([4, 5]),
        negative_rows=tf.constant([2, 3, 4]),
        weights=tf.constant([0.3, 0.0]),
    )
    assert float(loss) == pytest.approx((np.log(4 / 3) + np.log(2)) / 2, abs=1e-6)


def test_a_slot_without_negatives_is_no_bpr_loss() -> None:
    assert float(bpr_loss(tf.ones([1]), tf.zeros([1, 1]), tf.constant([2]), tf.constant([2]))) == 0


def test_popularity_costs_by_hand() -> None:
    # Two products, shares 1 and 0: popularity 0.9 · 2 + 0.1 and 0.1, times the penalty.
    costs = popularity_costs(np.array([0, 0, 1.0, 0]), penalty=2.0)
    np.testing.assert_allclose(costs[2:], [2 * np.log(1.9), 2 * np.log(0.1)], rtol=1e-6)
