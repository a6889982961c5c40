"""What is said to have made a score adds up to it, slot by slot."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.test_ranker import make_batch
from tests.trainer.worlds import checkerboard_catalogue
from trainer.config import RankerConfig
from trainer.explanation import Explanation, attention_rollout, explain, integrated_gradients
from trainer.ranker import Ranker

CATALOGUE = checkerboard_catalogue()
LENGTH, STEPS = 8, 24
OBJECTIVES = ("next_item", "masked_item")
HISTORIES = ([5, 8, 5, 12], [9], [3, 4, 5, 6, 7, 8, 9, 10], [])
CANDIDATES = tf.constant([[5, 8, 21]] * len(HISTORIES))


def make_ranker(objective: str) -> Ranker:
    """Weights as they start are so small that attention is even: these are as large as learned ones."""
    tf.keras.utils.set_random_seed(5)
    config = RankerConfig(
        objective=objective, dim=8, history_length=LENGTH, blocks=2, heads=2, positions=("relative", "absolute")
    )
    ranker = Ranker(CATALOGUE, config)
    for weight in ranker.trainable_variables:
        weight.assign_add(tf.random.normal(weight.shape, stddev=0.3))
    return ranker


class Explained:
    """A ranker and its explanations, in one graph as a server runs them."""

    def __init__(self, objective: str, steps: int = STEPS) -> None:
        self.ranker = make_ranker(objective)
        self.appended = self.ranker.objective.appended

        @tf.function(autograph=False)
        def told(batch: dict[str, tf.Tensor], candidates: tf.Tensor) -> tuple[Explanation, tf.Tensor]:
            table = self.ranker.item_table()
            scores = self.ranker.score(self.ranker.encode(batch, table), tf.gather(table, candidates), candidates)
            return explain(self.ranker, batch, table, candidates, steps), scores

        self._told = told

    def __call__(self, *histories: list[int]) -> tuple[Explanation, np.ndarray]:
        """The explanation and the scores of the candidates; four histories at a time, so that there is one trace."""
        fill = [[]] * (len(HISTORIES) - len(histories))
        found, scores = self._told(make_batch(*histories, *fill), CANDIDATES)
        return Explanation(*(values[: len(histories)].numpy() for values in found)), scores[: len(histories)].numpy()


@pytest.fixture(scope="module", params=OBJECTIVES)
def explained(request: pytest.FixtureRequest) -> Explained:
    return Explained(request.param)


def test_rollout_multiplies_half_attention_and_half_residual() -> None:
    # One head takes all from itself, the other from slot 0: slot 1 takes ½ from each.
    first = tf.constant([[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]])
    second = tf.constant([[[[1.0, 0.0], [0.8, 0.2]]]])
    # First block: slot 1 has 0.25 and 0.75. Second: 0.4 and 0.6, so 0.4 + 0.6 · 0.25 and 0.6 · 0.75.
    np.testing.assert_allclose(attention_rollout([first])[0], [[1, 0], [0.25, 0.75]])
    np.testing.assert_allclose(attention_rollout([first, second])[0], [[1, 0], [0.55, 0.45]], rtol=1e-6)


def test_gradients_of_a_linear_score_are_its_terms() -> None:
    weights = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    inputs = tf.constant([[[1.0, 2.0], [3.0, 4.0], [-1.0, 0.5]]])
    found = integrated_gradients(lambda x: tf.reduce_sum(weights * x, [1, 2]), inputs, 1)
    # 0·1 + 1·2, 2·3 + 3·4, 4·(−1) + 5·0.5.
    np.testing.assert_allclose(found, [[2.0, 18.0, -1.5]])


def test_gradients_share_a_square_by_the_parts() -> None:
    # (a + b)² with a = 1, b = 3: the path's mean gradient is a + b = 4 for both, so 4 and 12 of 16.
    found = integrated_gradients(lambda x: tf.reduce_sum(x, [1, 2]) ** 2, tf.constant([[[1.0], [3.0]]]), 1)
    np.testing.assert_allclose(found, [[4.0, 12.0]], rtol=1e-6)


def test_polynomials_are_exact_up_to_twice_the_steps() -> None:
    inputs = tf.constant([[[0.5], [1.5]]])

    def power(degree: int, steps: int) -> float:
        found = integrated_gradients(lambda x: tf.reduce_sum(x, [1, 2]) ** degree, inputs, steps)
        return float(tf.reduce_sum(found)) - 2.0**degree

    # The gradient of the sixth power has degree 5 = 2 · 3 − 1, that of the eighth more.
    assert power(6, 3) == pytest.approx(0, abs=1e-4)
    assert abs(power(8, 3)) > 1e-2


def test_attributions_add_up_to_the_score_less_the_baseline(explained: Explained) -> None:
    # Not the full history, of which a masked question lacks the oldest slot.
    found, scores = explained([5, 8, 5, 12], [9], [4, 5, 6, 7, 8, 9, 10])
    differences = scores - found.baseline_scores
    assert np.abs(differences).max() > 1
    np.testing.assert_allclose(found.attributions.sum(axis=2), differences, atol=0.01 * np.abs(differences).max())


def test_more_steps_come_nearer() -> None:
    def gap(steps: int) -> float:
        found, scores = Explained("next_item", steps)([5, 8, 5, 12])
        return float(np.abs(scores - found.baseline_scores - found.attributions.sum(axis=2)).max())

    assert gap(32) < 0.2 * gap(4)


def test_only_slots_that_hold_something_are_explained(explained: Explained) -> None:
    found, _ = explained(*HISTORIES)
    for line, history in enumerate(HISTORIES):
        # A question behind a full history leaves no room for its oldest slot.
        there = min(len(history), LENGTH - explained.appended)
        expected = [False] * (LENGTH - there) + [True] * there
        assert (found.attention[line] > 0).tolist() == expected
        assert (found.attributions[line, 2] != 0).tolist() == expected


def test_attention_is_what_the_newest_slot_takes(explained: Explained) -> None:
    found, _ = explained(*HISTORIES)
    total = found.attention.sum(axis=1)
    if explained.appended:
        # Through two residual connections the mask keeps at least a quarter for itself.
        assert (total <= 0.75 + 1e-6).all()
    else:
        np.testing.assert_allclose(total, [1, 1, 1, 0], rtol=1e-5)
        assert found.attention[1, -1] == pytest.approx(1)


def test_the_only_product_of_a_history_has_the_whole_difference(explained: Explained) -> None:
    found, scores = explained([9])
    difference = scores - found.baseline_scores
    np.testing.assert_allclose(found.attributions[:, :, -1], difference, atol=0.01 * np.abs(difference).max())


def test_gain_of_buying_again_belongs_to_the_slots_of_the_product(explained: Explained) -> None:
    bias = explained.ranker.repeat_weights.distance_bias
    before, _ = explained([5, 8, 5, 12])
    bias.assign_add(tf.fill([LENGTH], 2.0))
    after, _ = explained([5, 8, 5, 12])
    bias.assign_add(tf.fill([LENGTH], -2.0))
    expected = np.zeros((3, LENGTH))
    expected[0, [4, 6]] = 2
    expected[1, 5] = 2
    np.testing.assert_allclose((after.attributions - before.attributions)[0], expected, atol=1e-4)


def test_a_line_does_not_see_the_others(explained: Explained) -> None:
    (together, _), (alone, _) = explained(*HISTORIES), explained(HISTORIES[0])
    np.testing.assert_allclose(together.attributions[:1], alone.attributions, atol=1e-4)
    np.testing.assert_allclose(together.attention[:1], alone.attention, atol=1e-6)
