"""Expected counts of negatives, and which of them count."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.negatives import NegativeSampler, log_expected_counts, negative_mask

# Six rows: padding, unknown, four products.
SHARE = np.array([0, 0, 0.5, 0.25, 0.25, 0])
PRODUCTS = np.arange(2, 6, dtype=np.int32)


def test_expected_counts_by_hand() -> None:
    # 100 draws from the targets and 8 uniform ones over 4 products: 50 + 2, 25 + 2, 0 + 2; padding counts for nothing.
    counts = log_expected_counts(np.array([2, 3, 5, 0]), SHARE, products=4, from_targets=100, uniform=8)
    np.testing.assert_allclose(counts, [np.log(52), np.log(27), np.log(2), 0], rtol=1e-6)


def test_draws_come_as_often_as_expected() -> None:
    rng = np.random.default_rng(1)
    targets = rng.choice(6, 200_000, p=SHARE).astype(np.int32)
    rows, log_counts = NegativeSampler(60_000, 40_000, PRODUCTS, SHARE).draw(rng, targets)
    drawn = np.bincount(rows, minlength=6)
    assert drawn[:2].sum() == 0
    # 60,000 · share + 10,000.
    np.testing.assert_allclose(drawn[2:], [40_000, 25_000, 25_000, 10_000], rtol=0.03)
    np.testing.assert_allclose(np.exp(log_counts), np.array([0, 0, 40_000, 25_000, 25_000, 10_000])[rows], rtol=1e-5)


def test_in_batch_negatives_are_targets_of_the_step_and_uniform_ones_any_product() -> None:
    targets = np.array([[0, 3], [3, 0]], np.int32)
    rows, log_counts = NegativeSampler(40, 4_000, PRODUCTS, SHARE).draw(np.random.default_rng(2), targets)
    assert set(rows[:40]) == {3}
    np.testing.assert_allclose(np.bincount(rows[40:], minlength=6)[2:], 1_000, rtol=0.1)
    # Expected by the share among all targets, not by this step's: 40 · 0.25 + 1,000.
    np.testing.assert_allclose(log_counts[:40], np.log(1_010), rtol=1e-6)


def test_uniform_draws_are_from_the_given_products_alone() -> None:
    some = np.array([2, 5], np.int32)
    rows, log_counts = NegativeSampler(0, 1_000, some, SHARE).draw(np.random.default_rng(2), np.array([3]))
    np.testing.assert_allclose(np.bincount(rows, minlength=6), [0, 0, 500, 0, 0, 500], atol=60)
    np.testing.assert_allclose(log_counts, np.log(500), rtol=1e-6)


def test_a_step_without_targets_draws_padding() -> None:
    rows, log_counts = NegativeSampler(2, 1, PRODUCTS, SHARE).draw(np.random.default_rng(2), np.zeros((2, 2), np.int32))
    assert rows[:2].tolist() == [0, 0]
    assert rows[2] >= 2
    assert log_counts[:2].tolist() == [0, 0]


def test_in_batch_negatives_without_frequencies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need the frequencies of the targets, received in_batch = 3 and no"):
        NegativeSampler(3, 5, PRODUCTS, None)


def test_mask_leaves_out_padding_accidental_hits_and_later_products_of_the_same_shopper() -> None:
    inputs = {
        # Two windows of three slots.
        "history_rows": tf.constant([[2, 3, 4], [0, 5, 2]]),
        # Positives: row 3 from slot 0 of the first window, row 9 from slot 1 of the second; the third is filling.
        "positive_slots": tf.constant([0, 4, 0]),
        "positive_rows": tf.constant([3, 9, 0]),
        "negative_rows": tf.constant([2, 4, 3]),
    }
    mask = negative_mask(inputs).numpy()
    # Candidates:            3      9     0      2      4      3
    # First: its own is 3; 3 and 4 come later in its window, 2 is already behind it and counts.
    assert mask[0].tolist() == [False, True, False, True, False, False]
    # Second: its own is 9; 2 comes later.
    assert mask[1].tolist() == [True, False, False, False, True, True]
