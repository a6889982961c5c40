"""The retrieval towers."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

from protos.feature_schema_pb2 import Clock
from tests.trainer.test_ranker import make_batch
from tests.trainer.worlds import START, checkerboard_catalogue
from trainer.config import RetrievalConfig
from trainer.negatives import log_expected_counts
from trainer.retrieval import RetrievalModel

CATALOGUE = checkerboard_catalogue()
CONFIG = RetrievalConfig(dim=8, history_length=8, heads=2, temperature=0.5)


def make_query(*histories: list[int], length: int = 8, **context: int) -> dict[str, tf.Tensor]:
    size = [len(histories)]
    return {
        **make_batch(*histories, length=length),
        "context_timestamp": tf.fill(size, tf.constant(context.get("timestamp", START), tf.int64)),
        "context_device": tf.fill(size, context.get("device", 2)),
        "context_region": tf.fill(size, context.get("region", 2)),
    }


@pytest.fixture(scope="module")
def model() -> RetrievalModel:
    return RetrievalModel(CATALOGUE, CONFIG)


def test_it_is_a_recommenders_model(model: RetrievalModel) -> None:
    assert isinstance(model, tfrs.models.Model)
    assert isinstance(model.retrieval_task, tfrs.tasks.Retrieval)


def test_both_towers_end_on_the_sphere(model: RetrievalModel) -> None:
    queries = model.query_embeddings(make_query([5, 7], [], [1])).numpy()
    products = model.candidate_embeddings(tf.range(2, CATALOGUE.size)).numpy()
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(products, axis=1), 1, atol=1e-5)


def test_padding_changes_nothing(model: RetrievalModel) -> None:
    short = model.query_embeddings(make_query([5, 7, 9], length=3))
    np.testing.assert_allclose(model.query_embeddings(make_query([5, 7, 9])), short, atol=1e-5)


def test_query_depends_on_history_and_context(model: RetrievalModel) -> None:
    base = model.query_embeddings(make_query([5, 7, 9]))
    for other in (
        make_query([7, 5, 9]),
        make_query([5, 7, 8]),
        make_query([5, 7, 9], device=3),
        make_query([5, 7, 9], region=3),
        make_query([5, 7, 9], timestamp=START + 3_600),
    ):
        assert not np.allclose(model.query_embeddings(other), base)


@pytest.mark.parametrize("read", [(), ("hour",), ("weekday",), ("hour", "weekday")])
def test_query_reads_of_the_time_what_the_schema_says(read: tuple[str, ...]) -> None:
    shop = checkerboard_catalogue()
    shop.schema.clock.CopyFrom(Clock(features=read))
    model = RetrievalModel(shop, CONFIG)
    silent = {"history_timestamps": tf.zeros([1, 8], tf.int64)}
    base, later, next_day = (
        model.query_embeddings(make_query([5, 7, 9], timestamp=START + seconds) | silent).numpy()
        for seconds in (0, 3_600, 86_400)
    )
    assert np.allclose(base, later) == ("hour" not in read)
    assert np.allclose(base, next_day) == ("weekday" not in read)


def test_a_given_table_gives_the_same_query(model: RetrievalModel) -> None:
    batch = make_query([5, 7, 9])
    np.testing.assert_allclose(
        model.query_embeddings(batch, model.item_table()), model.query_embeddings(batch), atol=1e-6
    )


def training_inputs(positives: list[int], negatives: np.ndarray, log_counts: np.ndarray) -> dict[str, tf.Tensor]:
    """Two shoppers; positives belong to their newest slots and are far from their histories."""
    size = len(positives)
    return {
        **make_batch([5, 7], [4, 6]),
        "positive_slots": tf.constant(([7, 15] * size)[:size]),
        "positive_rows": tf.constant(positives, tf.int32),
        "positive_weights": tf.constant(np.array(positives) > 0, tf.float32),
        "negative_rows": tf.constant(negatives, tf.int32),
        "negative_log_counts": tf.constant(log_counts, tf.float32),
        "context_timestamp": tf.fill([size], tf.constant(START, tf.int64)),
        "context_device": tf.fill([size], 2),
        "context_region": tf.fill([size], 2),
    }


def full_loss(model: RetrievalModel, positives: list[int]) -> float:
    queries = model.query_embeddings(make_query([5, 7], [4, 6])).numpy()
    logits = queries @ model.candidate_embeddings(tf.range(2, CATALOGUE.size)).numpy().T / CONFIG.temperature
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(2), np.array(positives) - 2]))


def test_loss_approximates_the_full_softmax_under_the_mixture(model: RetrievalModel) -> None:
    positives, size = [9, 8], CATALOGUE.size
    negatives = np.random.default_rng(1).integers(2, size, 20_000)
    # The two positives are the in-batch negatives; as draws from the targets, one of two is not the row's own.
    share = np.bincount(positives, minlength=size) / 2
    log_counts = log_expected_counts(np.concatenate([positives, negatives]), share, size - 2, 1, 20_000)
    loss = model.compute_loss(training_inputs(positives, negatives, log_counts))
    assert float(loss) == pytest.approx(full_loss(model, positives), abs=0.02)


def test_filling_has_no_weight(model: RetrievalModel) -> None:
    negatives, counts = np.arange(2, 26), np.zeros(26)
    loss = model.compute_loss(training_inputs([9, 8], negatives, counts))
    filled = model.compute_loss(training_inputs([9, 8, 0, 0], negatives, np.zeros(28)))
    assert float(filled) == pytest.approx(float(loss), abs=1e-5)


def test_rare_negatives_are_not_clipped(model: RetrievalModel) -> None:
    # TFRS clips sampling probabilities at 1e-6, which here would add log 1e3 less.
    negatives = np.array([20])
    seldom = model.compute_loss(training_inputs([9, 8], negatives, np.log([1e9, 1e9, 1e-9])))
    rarer = model.compute_loss(training_inputs([9, 8], negatives, np.log([1e9, 1e9, 1e-12])))
    assert float(rarer - seldom) == pytest.approx(np.log(1e3), abs=1e-3)


def test_negatives_that_are_drawn_often_count_less_each(model: RetrievalModel) -> None:
    negatives = np.array([20, 21])
    once = float(model.compute_loss(training_inputs([9, 8], negatives, np.zeros(4))))
    often = float(model.compute_loss(training_inputs([9, 8], negatives, np.log([1, 1, 10, 10]))))
    assert often < once
    # Ten copies that count a tenth each are the one.
    copies = np.log(np.concatenate([[1, 1], np.full(20, 10)]))
    repeated = model.compute_loss(training_inputs([9, 8], np.repeat(negatives, 10), copies))
    assert float(repeated) == pytest.approx(once, abs=1e-5)


def test_a_batch_of_one_product_has_no_negatives(model: RetrievalModel) -> None:
    # Every candidate is the row's own positive once more.
    inputs = training_inputs([9, 9, 9], np.array([9, 9]), np.zeros(5))
    assert float(model.compute_loss(inputs)) == pytest.approx(0, abs=1e-6)


def test_a_product_twice_in_the_batch_is_no_negative_of_itself(model: RetrievalModel) -> None:
    nothing = np.empty(0, np.int32)
    twice = training_inputs([9, 8, 9], nothing, np.zeros(3))
    # The shoppers take turns: rows 0 and 2 are the same shopper with the same positive, against product 8 alone.
    pair = training_inputs([9, 8], nothing, np.zeros(2))
    apart = [
        float(model.compute_loss({**pair, "positive_weights": tf.constant(weights)}))
        for weights in ([1.0, 0.0], [0.0, 1.0])
    ]
    # Product 8 meets 9 twice among its negatives.
    loss = float(model.compute_loss({**twice, "positive_weights": tf.constant([1.0, 0.0, 1.0])}))
    assert loss == pytest.approx(apart[0], abs=1e-5)
    second = float(model.compute_loss({**twice, "positive_weights": tf.constant([0.0, 1.0, 0.0])}))
    assert np.expm1(second) == pytest.approx(2 * np.expm1(apart[1]), rel=1e-4)
