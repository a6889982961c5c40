"""Hard negatives: which products they are, how they enter the loss, and that a training with them can be resumed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.trainer.test_retrieval import training_inputs
from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences, write_transform
from trainer.config import RetrievalConfig, TrainingConfig
from trainer.hard_negatives import HardNegatives, draw, ranked_negatives
from trainer.loop import Step, TrainingError
from trainer.negatives import log_expected_counts
from trainer.retrieval import RetrievalModel
from trainer.retrieval_training import RetrievalSteps, train_retrieval
from trainer.windows import TrainingWindows
from transform.tables import FIRST

CATALOGUE, SEQUENCES = checkerboard_catalogue(), checkerboard_sequences()
CONFIG = RetrievalConfig(
    training=TrainingConfig(epochs=2, batch_size=4, learning_rate=0.02, warmup_steps=5, ema_decay=0.9),
    dim=8,
    history_length=16,
    heads=2,
    temperature=0.2,
    positives=16,
    uniform_negatives=16,
    hard_negatives=2,
    hard_negative_ranks=(1, 6),
    hard_negative_margin=0.2,
)


def make_steps(config: RetrievalConfig = CONFIG) -> RetrievalSteps:
    tf_keras.utils.set_random_seed(3)
    training = config.training
    windows = TrainingWindows(SEQUENCES, config.history_length, training.batch_size, training.seed)
    model = RetrievalModel(CATALOGUE, config)
    return RetrievalSteps(windows, CATALOGUE, config, HardNegatives(model, SEQUENCES, config))


def mined(steps: Iterator[Step]) -> np.ndarray:
    return np.stack([step.inputs["hard_negative_rows"] for step in steps])


@pytest.fixture(scope="module")
def steps() -> RetrievalSteps:
    return make_steps()


# Products 2 … 8; the target is product 4, which scores 0.5.
SCORES = np.array([[9.0, 9.0, 0.4, 0.9, 0.5, 0.58, 0.3, 0.45, 0.1]], np.float32)
MET = np.isin(np.arange(9), [0, 1, 4, 7])[None]


@pytest.mark.parametrize(
    ("margin", "ranks", "expected"),
    [
        # 7 was met; 3 and 5 score above the target and are taken for favourites.
        (0.0, (0, 4), [2, 6, 8, 0]),
        # 5 is less than 0.1 above the target.
        (0.1, (0, 4), [5, 2, 6, 8]),
        # As NV-Retriever: 2 is less than 0.15 below the target.
        (-0.15, (0, 4), [6, 8, 0, 0]),
        # Ranks are counted after favourites are left out.
        (0.1, (1, 3), [2, 6]),
        (2.0, (0, 6), [3, 5, 2, 6, 8, 0]),
    ],
)
def test_favourites_and_what_was_met_are_left_out(margin: float, ranks: tuple[int, int], expected: list[int]) -> None:
    found = ranked_negatives(tf.constant(SCORES), tf.constant([0.5]), tf.constant(MET), ranks, margin)
    assert found.numpy().tolist() == [expected]


@settings(max_examples=50)
@given(arrays.arrays(np.int32, (3, 6), elements=st.integers(0, 4)), st.integers(1, 8), st.integers(0, 9))
def test_draws_are_places_of_the_list_each_at_most_once(ranked: np.ndarray, number: int, seed: int) -> None:
    drawn = draw(ranked, number, np.random.default_rng(seed))
    assert drawn.shape == (3, number)
    for line, own in zip(ranked, drawn, strict=True):
        there, chosen = np.bincount(line, minlength=5)[1:], np.bincount(own, minlength=5)[1:]
        assert (chosen <= there).all()
        assert chosen.sum() == min(number, there.sum())


def test_each_rank_is_drawn_as_often() -> None:
    ranked = np.repeat(np.array([[2, 3, 4, 5, 0]], np.int32), 20_000, axis=0)
    counts = np.bincount(draw(ranked, 2, np.random.default_rng(1)).ravel(), minlength=6)
    np.testing.assert_allclose(counts[2:], 10_000, rtol=0.03)


def test_mined_products_were_never_met_by_the_shopper_and_are_no_favourites(steps: RetrievalSteps) -> None:
    model = steps.hard_negatives.model
    vectors = model.candidate_embeddings(tf.range(CATALOGUE.size)).numpy()
    found = 0
    for (batch, _), step in zip(steps._batches(2), steps.epoch(2), strict=True):
        inputs = step.inputs
        queries = model.position_queries({k: tf.constant(v) for k, v in inputs.items()}, model.item_table()).numpy()
        for place in np.flatnonzero(inputs["positive_rows"]):
            user = batch.users[inputs["positive_slots"][place] // inputs["history_rows"].shape[1]]
            first = SEQUENCES.offsets[user]
            met = SEQUENCES.rows[first : first + SEQUENCES.train_end[user]]
            negatives = inputs["hard_negative_rows"][place]
            negatives = negatives[negatives > 0]
            found += len(negatives)
            assert inputs["positive_rows"][place] in met
            assert not np.isin(negatives, met).any()
            own = queries[place] @ vectors[inputs["positive_rows"][place]]
            assert (vectors[negatives] @ queries[place] <= own + CONFIG.hard_negative_margin + 1e-5).all()
    assert found > 100


def test_queries_of_positions_are_those_of_their_histories(steps: RetrievalSteps) -> None:
    model = steps.hard_negatives.model
    batch, inputs = next(steps._batches(0))
    tensors = {name: tf.constant(values) for name, values in inputs.items()}
    found = model.position_queries(tensors, model.item_table()).numpy()
    length = inputs["history_rows"].shape[1]
    for place in range(4):
        window, slot = divmod(int(inputs["positive_slots"][place]), length)
        names = ("history_rows", "history_types", "history_timestamps")
        alone = {name: inputs[name][window : window + 1, : slot + 1] for name in names}
        # Left-padded to a length that the model was made for.
        alone = {name: np.pad(values, [(0, 0), (length - slot - 1, 0)]) for name, values in alone.items()}
        alone |= {name: inputs[name][place : place + 1] for name in inputs if name.startswith("context")}
        query = model.query_embeddings({name: tf.constant(values) for name, values in alone.items()}).numpy()
        np.testing.assert_allclose(found[place], query[0], atol=1e-5)
    assert batch.windows > 0


def test_mining_depends_on_weights_and_seed_alone(steps: RetrievalSteps) -> None:
    first = mined(steps.epoch(2))
    np.testing.assert_array_equal(mined(steps.epoch(2)), first)
    np.testing.assert_array_equal(mined(make_steps().epoch(2)), first)
    assert (mined(steps.epoch(1)) != first).any()
    other = make_steps()
    other.hard_negatives.model.item_projection.kernel.assign(-other.hard_negatives.model.item_projection.kernel[::-1])
    assert (mined(other.epoch(2)) != first).any()


def test_weights_that_change_while_an_epoch_is_read_change_nothing() -> None:
    steps, same = make_steps(), make_steps()
    reading = steps.epoch(2)
    kernel = steps.hard_negatives.model.item_projection.kernel
    kernel.assign(tf.reverse(kernel, [0]))
    np.testing.assert_array_equal(mined(reading), mined(same.epoch(2)))


def test_epochs_before_the_first_have_none(steps: RetrievalSteps) -> None:
    late = replace(CONFIG, hard_negatives_from=3)
    assert (mined(make_steps(late).epoch(1)) == 0).all()
    assert (mined(make_steps(late).epoch(2)) != 0).any()
    assert (mined(steps.epoch(0)) == 0).all()


def test_without_hard_negatives_the_step_knows_none() -> None:
    windows = TrainingWindows(SEQUENCES, 16, 4, 1)
    step = next(RetrievalSteps(windows, CATALOGUE, replace(CONFIG, hard_negatives=0)).epoch(0))
    assert "hard_negative_rows" not in step.inputs


def test_no_more_positions_are_searched_than_asked_for(steps: RetrievalSteps) -> None:
    few = replace(CONFIG, mined_positions=4 * steps.windows.steps)
    found = mined(make_steps(few).epoch(2))
    assert (found[:, 4:] == 0).all()
    assert (found[:, :4] != 0).any()
    # Those that are searched are searched as they are without a bound.
    assert found.shape == mined(steps.epoch(2)).shape


def loss_by_hand(model: RetrievalModel, inputs: dict[str, tf.Tensor], hard: list[list[int]]) -> float:
    """−log of the positive's share, where hard negatives are plain terms beside the corrected ones."""
    vectors = model.candidate_embeddings(tf.range(CATALOGUE.size)).numpy()
    queries = model.position_queries(inputs, model.item_table()).numpy() / CONFIG.temperature
    positives, negatives = inputs["positive_rows"].numpy(), inputs["negative_rows"].numpy()
    sampled = np.concatenate([positives, negatives])
    total = 0.0
    for query, own, rows in zip(queries, positives, hard, strict=True):
        weights = np.exp(-inputs["negative_log_counts"].numpy()) * (sampled != own)
        terms = np.exp(vectors[own] @ query) + (weights * np.exp(vectors[sampled] @ query)).sum()
        terms += sum(np.exp(vectors[row] @ query) for row in rows if row)
        total += np.log(terms) - vectors[own] @ query
    return total / len(positives)


def test_hard_negatives_are_plain_terms_of_their_own_row() -> None:
    model = make_steps().hard_negatives.model
    negatives = np.arange(10, 26)
    inputs = training_inputs([9, 8], negatives, np.linspace(-1, 1, 18))
    hard = [[12, 14], [11, 0]]
    with_hard = {**inputs, "hard_negative_rows": tf.constant(hard)}
    assert float(model.compute_loss(with_hard)) == pytest.approx(loss_by_hand(model, inputs, hard), abs=1e-5)


def test_no_hard_negatives_are_as_none_at_all() -> None:
    model = make_steps().hard_negatives.model
    inputs = training_inputs([9, 8], np.arange(10, 26), np.zeros(18))
    none = {**inputs, "hard_negative_rows": tf.zeros([2, 3], tf.int32)}
    weights = model.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        plain, without = model.compute_loss(inputs), model.compute_loss(none)
    assert float(without) == pytest.approx(float(plain), abs=1e-6)
    for expected, found in zip(tape.gradient(plain, weights), tape.gradient(without, weights), strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(found), tf.convert_to_tensor(expected), atol=1e-6)


def test_frequencies_are_those_of_training_targets() -> None:
    # What happens after the training span changes no frequency.
    later = replace(SEQUENCES, rows=SEQUENCES.rows.copy())
    held_out = SEQUENCES.offsets[1:] - 1
    later.rows[held_out] = FIRST
    shares = []
    for sequences in (SEQUENCES, later):
        windows = TrainingWindows(sequences, 16, 4, 1)
        inputs = next(RetrievalSteps(windows, CATALOGUE, CONFIG).epoch(0)).inputs
        rows = np.concatenate([inputs["positive_rows"], inputs["negative_rows"]])
        there = int((inputs["positive_rows"] > 0).sum())
        share = windows.target_share(CATALOGUE.size)
        expected = log_expected_counts(
            rows, share, len(CATALOGUE.trained_rows) - FIRST, there - 1, CONFIG.uniform_negatives
        )
        np.testing.assert_allclose(inputs["negative_log_counts"], expected)
        shares.append(share)
    np.testing.assert_array_equal(*shares)
    # Without baskets every training interaction is a target once.
    owners = np.repeat(np.arange(len(SEQUENCES.lengths)), SEQUENCES.lengths)
    training = np.arange(len(owners)) - SEQUENCES.offsets[owners] < SEQUENCES.train_end[owners]
    counts = np.bincount(SEQUENCES.rows[training], minlength=CATALOGUE.size)
    np.testing.assert_allclose(shares[0], counts / counts.sum(), atol=1e-12)


@pytest.mark.parametrize("ranks", [(0, 1), (4, 3), (0, 25)])
def test_ranks_that_are_not_there_are_refused(ranks: tuple[int, int], tmp_path: Path) -> None:
    write_transform(tmp_path, CATALOGUE, SEQUENCES)
    config = replace(CONFIG, hard_negative_ranks=ranks)
    with pytest.raises(
        TrainingError, match=r"hard_negative_ranks must hold at least .* received \[\d, \d+\].* 24 prod"
    ):
        train_retrieval(tmp_path, tmp_path / "out", config, tmp_path / "logs")


# The quick tests of its parts: of any stage's loop in test_loop.py, of a stage's steps in test_training.py, and above
# that mining depends on weights and seed alone.
@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, whole, resumed = (tmp_path / name for name in ("world", "whole", "resumed"))
    write_transform(world, CATALOGUE, SEQUENCES)
    train_retrieval(world, whole, CONFIG, tmp_path / "logs")
    original = RetrievalSteps.epoch

    def killed(self: RetrievalSteps, number: int) -> Iterator[Step]:
        for index, step in enumerate(original(self, number)):
            if (number, index) == (1, 2):
                raise KeyboardInterrupt
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(RetrievalSteps, "epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train_retrieval(world, resumed, CONFIG, tmp_path / "logs")
    train_retrieval(world, resumed, CONFIG, tmp_path / "logs")
    # The state after the last epoch, not only the weights of the best: weights, averages, optimizer.
    last = [tf.train.load_checkpoint(str(directory / "checkpoints")) for directory in (whole, resumed)]
    names = [name for name in last[0].get_variable_to_shape_map() if "record" not in name and "GRAPH" not in name]
    assert any("average" in name for name in names)
    for name in names:
        np.testing.assert_array_equal(last[1].get_tensor(name), last[0].get_tensor(name), err_msg=name)
    losses = [[epoch["loss"] for epoch in json.loads((path / "history.json").read_text())] for path in (whole, resumed)]
    assert len(losses[0]) == CONFIG.training.epochs
    assert losses[0] == losses[1]
