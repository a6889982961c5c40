"""Histories as vectors."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.history import (
    GAP_BUCKETS,
    HistoryEmbedding,
    RequestGapEmbedding,
    gap_buckets,
    hour_buckets,
    times_after,
    times_before,
    weekday_buckets,
)
from transform.clock import hour_of_day, weekday

START = 1_700_000_000


def times(*seconds: int) -> tf.Tensor:
    return tf.constant([seconds], tf.int64)


def test_time_gaps_fall_into_buckets_that_double() -> None:
    # Gaps: 0 s, 1 s, 2 s, 3 s, 4 s → [0, 1) = 1; [1, 2) = 2; [2, 4) = 3; [4, 8) = 4.
    later = times(*(START + gap for gap in range(5)))
    np.testing.assert_array_equal(gap_buckets(times(*[START] * 5), later), [[1, 2, 3, 3, 4]])


def test_longest_gap_has_the_last_bucket() -> None:
    assert gap_buckets(times(1), times(1 << 40))[0, 0] == GAP_BUCKETS - 1


def test_gap_from_or_to_an_unknown_time_is_unknown() -> None:
    np.testing.assert_array_equal(gap_buckets(times(0, START), times(START, 0)), [[0, 0]])


def test_a_clock_that_runs_backwards_counts_as_no_gap() -> None:
    assert gap_buckets(times(START), times(START - 5))[0, 0] == 1


def test_the_time_before_a_slot_is_the_one_to_its_left() -> None:
    history = {"history_timestamps": times(0, 10, 10, 30)}
    np.testing.assert_array_equal(times_before(history), [[0, 0, 10, 10]])


def test_the_time_after_a_slot_is_the_next_later_one_and_for_the_newest_the_request() -> None:
    # The two products of the basket at 10 both look to 30; padding looks to the first interaction.
    history = {"history_timestamps": times(0, 10, 10, 30), "context_timestamp": tf.constant([99], tf.int64)}
    np.testing.assert_array_equal(times_after(history), [[10, 30, 30, 99]])


def test_request_gap_is_hidden_now_and_then_in_training_only() -> None:
    layer = RequestGapEmbedding(4)
    last, request = tf.fill([1_000], tf.constant(START, tf.int64)), tf.fill([1_000], tf.constant(START + 60, tf.int64))
    unknown = layer(times(0), times(0))[0]
    hidden = np.all(layer(last, request, tf.constant([1, 2])).numpy() == unknown.numpy(), axis=1)
    # 100 of 1,000 expected; five standard deviations are 47.
    assert 53 <= hidden.sum() <= 147
    assert not np.all(layer(last, request).numpy() == unknown.numpy(), axis=1).any()


def test_hour_of_day_is_utc_and_unknown_is_its_own_bucket() -> None:
    # 1,700,000,000 s = 2023-11-14 22:13:20 UTC.
    np.testing.assert_array_equal(hour_buckets(tf.constant([0, START, START + 2 * 3_600], tf.int64)), [0, 23, 1])


def make_history(rows: list[int], seconds: list[int]) -> dict[str, tf.Tensor]:
    return {
        "history_rows": tf.constant([rows]),
        "history_types": tf.constant([[2 if row else 0 for row in rows]]),
        "history_timestamps": tf.constant([seconds], tf.int64),
    }


def test_positions_count_from_the_newest() -> None:
    layer = HistoryEmbedding(4, 8, has_timestamps=False, positions=True)
    short = layer(tf.ones([1, 2, 4]), make_history([5, 6], [0, 0]))
    long = layer(tf.ones([1, 4, 4]), make_history([0, 0, 5, 6], [0, 0, 0, 0]))
    np.testing.assert_array_equal(long[:, 2:], short)
    assert not np.allclose(short[0, 0], short[0, 1])


def test_every_padding_slot_is_the_same_whatever_lies_there() -> None:
    layer = HistoryEmbedding(4, 8, has_timestamps=True, positions=True)
    slots = layer(tf.random.stateless_normal([1, 3, 4], [1, 2]), make_history([0, 0, 6], [0, 0, START]))
    np.testing.assert_array_equal(slots[0, 0], slots[0, 1])


def test_times_are_not_read_where_the_data_have_no_clock() -> None:
    layer = HistoryEmbedding(4, 8, has_timestamps=False, positions=False)
    items = tf.ones([1, 2, 4])
    early, late = layer(items, make_history([5, 6], [1, 2])), layer(items, make_history([5, 6], [1, 9_999]))
    np.testing.assert_array_equal(early, late)


def test_too_long_a_history_is_refused() -> None:
    layer = HistoryEmbedding(4, 2, has_timestamps=False, positions=True)
    with pytest.raises(ValueError, match="histories are 3 long, the model was made for history_length = 2"):
        layer(tf.ones([1, 3, 4]), make_history([5, 6, 7], [0, 0, 0]))


def test_weekdays_are_those_of_the_transform() -> None:
    # 1 January 2024 was a Monday, 00:00 UTC.
    monday = 1_704_067_200
    seconds = monday + np.arange(-1, 8 * 86_400, 43_200)
    found = weekday_buckets(tf.constant(seconds, tf.int64)).numpy()
    assert found[:4].tolist() == [7, 1, 1, 2]
    np.testing.assert_array_equal(found, 1 + weekday(seconds))
    np.testing.assert_array_equal(hour_buckets(tf.constant(seconds, tf.int64)), 1 + hour_of_day(seconds))
    assert weekday_buckets(tf.constant([0, 1], tf.int64)).numpy().tolist() == [0, 4]
