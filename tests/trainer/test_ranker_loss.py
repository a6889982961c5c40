"""The loss that a configuration names, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from trainer.config import LossConfig
from trainer.losses import bpr_loss, gbce_beta, gbce_loss, sampled_softmax_loss
from trainer.ranker_loss import CatalogueLoss, NegativesLoss, make_loss, make_sampler
from transform.tables import FIRST

# Two reserved rows, thirty products, the first the most popular.
CATALOGUE = 32
PRODUCTS = np.arange(FIRST, CATALOGUE, dtype=np.int32)
SHARE = np.concatenate([[0, 0], 1 / np.arange(1, 31) / np.sum(1 / np.arange(1, 31))])


@pytest.mark.parametrize("name", ["sampled_softmax", "gbce", "bce", "bpr"])
def test_a_loss_of_negatives_is_the_named_one_of_scores_over_temperature(name: str) -> None:
    rng = np.random.default_rng(1)
    positive, negative = (tf.constant(rng.normal(size=shape), tf.float32) for shape in [(6,), (6, 10)])
    targets, weights = tf.constant([2, 3, 4, 5, 6, 0]), tf.constant([1.0, 2.0, 3.0, 4.0, 0.0, 1.0])
    config = LossConfig(name=name, negatives=10, temperature=0.5)
    rows, log_counts = make_sampler(config, PRODUCTS, SHARE).draw(rng, targets.numpy())
    loss = make_loss(config, PRODUCTS)(positive, negative, targets, weights, rows, log_counts)
    pairs = (2 * positive, 2 * negative)
    beta = {"gbce": gbce_beta(10, 30, 0.75)}.get(name, 1.0)
    expected = {
        "sampled_softmax": lambda: sampled_softmax_loss(*pairs, log_counts, targets, rows, weights),
        "bpr": lambda: bpr_loss(*pairs, targets, rows, weights),
    }.get(name, lambda: gbce_loss(*pairs, targets, rows, weights, beta))
    assert float(loss) == pytest.approx(float(expected()), rel=1e-6)


@pytest.mark.parametrize("name", ["sampled_softmax", "gbce", "bce", "bpr"])
def test_compiles(name: str) -> None:
    config = LossConfig(name=name, negatives=8, popularity_penalty=0.1 if name == "sampled_softmax" else 0.0)
    loss = make_loss(config, PRODUCTS, SHARE)
    inputs = (tf.ones([3, 4]), tf.ones([3, 4, 8]), tf.fill([3, 4], 5), tf.ones([3, 4]), tf.range(8), tf.zeros([8]))
    compiled = tf.function(loss.__call__, jit_compile=True)(*inputs)
    assert float(compiled) == pytest.approx(float(loss(*inputs)), rel=1e-5)


@pytest.mark.parametrize(("sampling", "in_batch"), [("uniform", 0), ("in_batch", 9), ("mixed", 4)])
def test_sampling_divides_the_negatives(sampling: str, in_batch: int) -> None:
    sampler = make_sampler(LossConfig(name="bpr", negatives=9, negative_sampling=sampling), PRODUCTS, SHARE)
    assert sampler is not None
    assert (sampler.in_batch, sampler.uniform) == (in_batch, 9 - in_batch)


def test_full_softmax_draws_nothing() -> None:
    assert make_sampler(LossConfig(), PRODUCTS) is None


@pytest.mark.parametrize("name", ["softmax", "sampled_softmax"])
def test_a_higher_penalty_recommends_less_popular_products(name: str) -> None:
    configs = [LossConfig(name=name, negatives=64, popularity_penalty=penalty) for penalty in (0.0, 0.3, 1.0)]
    none, some, much = (_popularity_of_the_top(config) for config in configs)
    assert none > some > much


@pytest.mark.parametrize("name", ["gbce", "bce", "bpr"])
def test_a_penalty_without_softmax_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"popularity_penalty needs a softmax.*received '{name}'. Set loss.name"):
        make_loss(LossConfig(name=name, popularity_penalty=0.1), PRODUCTS, SHARE)


def test_a_penalty_without_frequencies_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs the frequencies of the targets, received no target_share\. Give"):
        make_loss(LossConfig(popularity_penalty=0.1), PRODUCTS)


def test_in_batch_negatives_without_frequencies_are_refused() -> None:
    with pytest.raises(ValueError, match="need the frequencies of the targets"):
        make_sampler(LossConfig(name="bce", negative_sampling="in_batch"), PRODUCTS)


@pytest.mark.parametrize("wrong", [{"name": "hinge"}, {"temperature": 0}, {"gbce_t": 1.5}, {"popularity_penalty": -1}])
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LossConfig(**wrong)


def _popularity_of_the_top(config: LossConfig) -> float:
    """Mean share of the top five of every state, after sixty steps towards targets drawn by the share."""
    rng = np.random.default_rng(3)
    states = tf.constant(rng.normal(size=(64, 8)), tf.float32)
    table = tf.Variable(0.1 * rng.normal(size=(CATALOGUE, 8)), dtype=tf.float32)
    targets = tf.constant(rng.choice(CATALOGUE, 64, p=SHARE), tf.int32)
    loss, sampler = make_loss(config, PRODUCTS, SHARE), make_sampler(config, PRODUCTS, SHARE)
    for _ in range(60):
        with tf.GradientTape() as tape:
            if isinstance(loss, CatalogueLoss):
                value = loss(states, table[FIRST:], targets - FIRST, tf.ones([64]))
            else:
                value = _of_negatives(loss, states, table, targets, *sampler.draw(rng, targets.numpy()))
        table.assign_sub(2.0 * tf.convert_to_tensor(tape.gradient(value, table)))
    scores = tf.matmul(states, table, transpose_b=True)[:, FIRST:]
    return float(np.mean(SHARE[tf.math.top_k(scores, 5).indices.numpy() + FIRST]))


def _of_negatives(
    loss: NegativesLoss,
    states: tf.Tensor,
    table: tf.Variable,
    targets: tf.Tensor,
    rows: np.ndarray,
    log_counts: np.ndarray,
) -> tf.Tensor:
    positive = tf.reduce_sum(states * tf.gather(table, targets), axis=1)
    negative = tf.matmul(states, tf.gather(table, rows), transpose_b=True)
    return loss(positive, negative, targets, tf.ones([len(targets)]), rows, log_counts)
