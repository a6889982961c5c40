"""The ranker: what a state may know, and what it must not."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.worlds import START, checkerboard_catalogue
from trainer.config import RankerConfig
from trainer.ranker import Ranker

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
    np.testing.assert_allclose(ranker.encode(make_batch([5, 7, 9])), short, atol=1e-5)


def test_a_batch_row_does_not_see_the_others(ranker: Ranker) -> None:
    alone, together = ranker.encode(make_batch([5, 7])), ranker.encode(make_batch([5, 7], [8, 6, 4]))
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


def test_a_later_interaction_never_changes_an_earlier_state(ranker: Ranker) -> None:
    def states(newest: int) -> np.ndarray:
        batch = make_batch([5, 7, 9, newest])
        return ranker.states(tf.gather(ranker.item_table(), batch["history_rows"]), batch).numpy()

    np.testing.assert_allclose(states(4)[:, :-1], states(6)[:, :-1], atol=1e-6)
    assert not np.allclose(states(4)[:, -1], states(6)[:, -1])


def test_state_depends_on_order_type_time_gap_and_time_of_request(ranker: Ranker) -> None:
    base = make_batch([5, 7, 9])
    state = ranker.encode(base)
    bought = {**base, "history_types": tf.where(base["history_rows"] == 9, 6, base["history_types"])}
    later = {**base, "history_timestamps": base["history_timestamps"] + [[0] * 7 + [1_000_000]]}
    back_next_day = {**base, "context_timestamp": base["context_timestamp"] + 86_400}
    for changed in (make_batch([7, 5, 9]), bought, later, back_next_day):
        assert not np.allclose(ranker.encode(changed), state)


def test_times_are_ignored_without_a_clock() -> None:
    ranker = Ranker(checkerboard_catalogue(has_timestamps=False), CONFIG)
    base = make_batch([5, 7, 9])
    later = {**base, "history_timestamps": base["history_timestamps"] * 2}
    np.testing.assert_array_equal(ranker.encode(base), ranker.encode(later))


def test_empty_and_unknown_histories_have_a_state(ranker: Ranker) -> None:
    assert np.isfinite(ranker.encode(make_batch([], [1, 1]))).all()


def test_a_given_table_gives_the_same_state(ranker: Ranker) -> None:
    batch = make_batch([5, 7, 9])
    np.testing.assert_allclose(ranker.encode(batch, ranker.item_table()), ranker.encode(batch), atol=1e-6)


def test_score_is_the_dot_product_with_the_item_vector(ranker: Ranker) -> None:
    state, vectors = ranker.encode(make_batch([5], [6])), ranker.item_vectors(tf.constant([3, 4, 5]))
    scores = ranker.score(state, tf.stack([vectors, vectors]))
    np.testing.assert_allclose(scores, state.numpy() @ vectors.numpy().T, atol=1e-5)


def test_sampled_loss_approximates_the_full_one() -> None:
    full = Ranker(CATALOGUE, CONFIG)
    sampled = Ranker(CATALOGUE, RankerConfig(dim=8, history_length=8, blocks=2, heads=2, full_softmax_limit=1))
    sampled.set_weights(full.get_weights())
    negatives = np.repeat(np.arange(2, CATALOGUE.size, dtype=np.int32), 2)
    inputs = {
        **make_batch([5, 7, 9, 3], [4, 6]),
        "targets": tf.constant([[0] * 5 + [7, 9, 3], [0] * 6 + [4, 6]]),
        "negative_rows": tf.constant(negatives),
        # Each product stands there twice.
        "negative_log_counts": tf.fill([len(negatives)], np.log(2).astype(np.float32)),
    }
    assert float(sampled.compute_loss(inputs)) == pytest.approx(float(full.compute_loss(inputs)), abs=1e-4)
