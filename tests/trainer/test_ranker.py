"""The ranker: what a state may know, and what it must not."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.worlds import START, checkerboard_catalogue
from trainer.config import RankerConfig
from trainer.ranker import Ranker
from transform.tables import FIRST

CATALOGUE = checkerboard_catalogue()
CONFIG = RankerConfig(dim=8, history_length=8, blocks=2, heads=2)


def make_batch(*histories: list[int], length: int = 8) -> dict[str, tf.Tensor]:
    """Left-padded histories; interactions are an hour apart, the request a minute after the newest."""
    rows = np.array([[0] * (length - len(history)) + history for history in histories], np.int32)
    times = START + 3_600 * np.cumsum(rows > 0, axis=1)
    return {
        "history_rows": tf.constant(rows),
        "history_types": tf.constant(np.where(rows > 0, 2, 0).astype(np.int32)),
        "history_timestamps": tf.constant(np.where(rows > 0, times, 0), tf.int64),
        "context_timestamp": tf.constant(times[:, -1] + 60, tf.int64),
    }


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return Ranker(CATALOGUE, CONFIG)


def test_padding_changes_nothing(ranker: Ranker) -> None:
    short = ranker.encode(make_batch([5, 7, 9], length=3))
    long = ranker.encode(make_batch([5, 7, 9]))
    np.testing.assert_allclose(long.vector, short.vector, atol=1e-5)
    np.testing.assert_allclose(long.repeat_weights[:, -3:], short.repeat_weights, atol=1e-5)


def test_a_batch_row_does_not_see_the_others(ranker: Ranker) -> None:
    alone, together = ranker.encode(make_batch([5, 7])), ranker.encode(make_batch([5, 7], [8, 6, 4]))
    np.testing.assert_allclose(together.vector[:1], alone.vector, atol=1e-5)


def test_a_later_interaction_never_changes_an_earlier_state(ranker: Ranker) -> None:
    def states(newest: int) -> np.ndarray:
        batch = make_batch([5, 7, 9, newest])
        return ranker.states(tf.gather(ranker.item_table(), batch["history_rows"]), batch).numpy()

    np.testing.assert_allclose(states(4)[:, :-1], states(6)[:, :-1], atol=1e-6)
    assert not np.allclose(states(4)[:, -1], states(6)[:, -1])


def test_state_depends_on_order_type_time_gap_and_time_of_request(ranker: Ranker) -> None:
    base = make_batch([5, 7, 9])
    state = ranker.encode(base).vector
    bought = {**base, "history_types": tf.where(base["history_rows"] == 9, 6, base["history_types"])}
    later = {**base, "history_timestamps": base["history_timestamps"] + [[0] * 7 + [1_000_000]]}
    back_next_day = {**base, "context_timestamp": base["context_timestamp"] + 86_400}
    for changed in (make_batch([7, 5, 9]), bought, later, back_next_day):
        assert not np.allclose(ranker.encode(changed).vector, state)


def test_times_are_ignored_without_a_clock() -> None:
    ranker = Ranker(checkerboard_catalogue(has_timestamps=False), CONFIG)
    base = make_batch([5, 7, 9])
    later = {**base, "history_timestamps": base["history_timestamps"] * 2}
    np.testing.assert_array_equal(ranker.encode(base).vector, ranker.encode(later).vector)


def test_empty_and_unknown_histories_have_a_state(ranker: Ranker) -> None:
    assert np.isfinite(ranker.encode(make_batch([], [1, 1])).vector).all()


def test_a_given_table_gives_the_same_state(ranker: Ranker) -> None:
    batch = make_batch([5, 7, 9])
    np.testing.assert_allclose(ranker.encode(batch, ranker.item_table()).vector, ranker.encode(batch).vector, atol=1e-6)


def test_score_is_the_dot_product_plus_the_gain_of_what_was_met(ranker: Ranker) -> None:
    state, vectors = ranker.encode(make_batch([5, 8, 5])), ranker.item_vectors(tf.constant([3, 5, 8]))
    weights = np.zeros([1, 8], np.float32)
    weights[0, -3:] = [1.0, -10.0, 100.0]
    state = state._replace(repeat_weights=tf.constant(weights))
    # Row 3 was never met; row 5 twice, 1 + 100; row 8 once.
    expected = vectors.numpy() @ state.vector.numpy()[0] + [0.0, 101.0, -10.0]
    np.testing.assert_allclose(
        ranker.score(state, vectors[tf.newaxis], tf.constant([[3, 5, 8]]))[0], expected, rtol=1e-5
    )


def test_candidates_and_whole_catalogue_get_the_same_scores(ranker: Ranker) -> None:
    ranker.repeat_weights.distance_bias.assign(np.arange(8) + 1.0)
    state, rows = ranker.encode(make_batch([5, 8, 5], [9])), tf.constant([[5, 9, 8], [9, 5, 3]])
    scores = ranker.score(state, tf.gather(ranker.item_table(), rows), rows)
    everything = ranker.score_catalogue(state, ranker.item_table())
    np.testing.assert_allclose(scores, tf.gather(everything, rows, batch_dims=1), rtol=1e-5)


def test_sampled_loss_approximates_the_full_one() -> None:
    full = Ranker(CATALOGUE, CONFIG)
    sampled = Ranker(CATALOGUE, RankerConfig(dim=8, history_length=8, blocks=2, heads=2, full_softmax_limit=1))
    full.repeat_weights.distance_bias.assign(np.linspace(2, -2, 8))
    sampled.set_weights(full.get_weights())
    # The two new products are rivals of nothing.
    negatives = np.repeat(CATALOGUE.trained_rows[FIRST:], 2)
    inputs = {
        **make_batch([5, 7, 9, 7], [4, 6]),
        "targets": tf.constant([[0] * 4 + [7, 9, 7, 5], [0] * 6 + [6, 4]]),
        "target_weights": tf.constant([[0.0] * 4 + [1.0] * 4, [0.0] * 6 + [1.0] * 2]),
        "negative_rows": tf.constant(negatives),
        # Each product stands there twice.
        "negative_log_counts": tf.fill([len(negatives)], np.log(2).astype(np.float32)),
    }
    assert float(sampled.compute_loss(inputs)) == pytest.approx(float(full.compute_loss(inputs)), abs=1e-4)
