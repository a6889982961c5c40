"""What interactions are worth: shares and gains worked out by hand."""

from dataclasses import replace

import numpy as np
import tensorflow as tf

from tests.trainer.worlds import checkerboard_sequences
from trainer.data import Sequences
from trainer.target_value import TargetValue, type_shares
from transform.tables import EVENT_TYPES

VIEW, PURCHASE = EVENT_TYPES["view"], EVENT_TYPES["purchase"]


def interactions(rows: list[int], types: list[int]) -> Sequences:
    """One shopper, all of whose interactions are of the training span."""
    whole = checkerboard_sequences(users_per_group=1)
    count = np.array([len(rows)])
    columns = {
        name: getattr(whole, name)[: len(rows)]
        for name in ("labels", "timestamps", "sessions", "baskets", "devices", "regions", "positions", "surfaces")
    }
    return replace(
        whole,
        user_ids=whole.user_ids[:1],
        offsets=np.array([0, len(rows)]),
        train_end=count,
        validation_end=count,
        rows=np.array(rows, np.int32),
        types=np.array(types, np.int8),
        propensities=np.empty(0, np.float32),
        **columns,
    )


def test_shares_are_smoothed_towards_the_shop() -> None:
    # Ten interactions, four of them purchases; product 2 was bought in three of its five, product 3 in one of five.
    sequences = interactions([2] * 5 + [3] * 5, [PURCHASE] * 3 + [VIEW] * 2 + [PURCHASE] + [VIEW] * 4)
    shares = type_shares(sequences, 5, [VIEW, PURCHASE])
    np.testing.assert_allclose(shares[0], [0.6, 0.4], rtol=1e-6)
    np.testing.assert_allclose(shares[2], [(2 + 12) / 25, (3 + 8) / 25], rtol=1e-6)
    np.testing.assert_allclose(shares[3], [(4 + 12) / 25, (1 + 8) / 25], rtol=1e-6)
    np.testing.assert_allclose(shares[4], [0.6, 0.4], rtol=1e-6)


def test_only_the_training_span_counts() -> None:
    sequences = interactions([2, 2, 2], [VIEW, VIEW, PURCHASE])
    cut = replace(sequences, train_end=np.array([2]))
    np.testing.assert_allclose(type_shares(cut, 3, [VIEW, PURCHASE])[2], [1.0, 0.0])


def test_gain_is_the_logarithm_of_the_relative_worth() -> None:
    value = TargetValue(np.array([[0.8, 0.2], [0.8, 0.2], [0.5, 0.5], [0.9, 0.1]], np.float32))
    rows = tf.constant([[2, 3], [2, 3], [2, 3]])
    gains = value(rows, tf.constant([[0.0, 0.0], [0.0, 5.0], [1.0, 4.0]])).numpy()
    # Worth of a view 1 and of a purchase 4: 0.5 + 2.0 and 0.9 + 0.4, against 0.8 + 0.8 as usual.
    expected = [[0, 0], np.log([2.5, 0.5]), np.log([2.5 / 1.6, 1.3 / 1.6])]
    np.testing.assert_allclose(gains, expected, rtol=1e-5)


def test_weights_below_zero_count_as_zero() -> None:
    value = TargetValue(np.array([[0.8, 0.2], [0.8, 0.2], [0.5, 0.5]], np.float32))
    gains = value(tf.constant([[2], [2]]), tf.constant([[-1.0, 1.0], [-1.0, -2.0]])).numpy()
    np.testing.assert_allclose(gains, [[np.log(2.5)], [0]], rtol=1e-5)
