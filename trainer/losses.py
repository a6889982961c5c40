"""Losses of logits: softmax over the catalogue or over negatives, and losses of pairs."""

import numpy as np
import tensorflow as tf

from transform.tables import FIRST

# Logit of what must not be counted.
_MASKED = -1e9


def sampled_softmax_loss(
    positive: tf.Tensor,
    negative: tf.Tensor,
    negative_log_counts: tf.Tensor,
    targets: tf.Tensor,
    negative_rows: tf.Tensor,
    weights: tf.Tensor | None = None,
    costs: tf.Tensor | None = None,
) -> tf.Tensor:
    """Weighted mean cross-entropy, in nats, with the partition function estimated from negatives that slots share.

    loss = −s⁺ + log(exp s⁺ + Σ over negatives other than the target of exp(s − log expected count)), which estimates
    the full softmax without bias in the partition function (importance sampling, Bengio and Senécal 2008).

    Args:
        positive: [...] logits of the targets.
        negative: [..., M] logits.
        negative_log_counts: [M], see `negatives.log_expected_counts`.
        targets: int32 [...] catalogue rows; a reserved row = no target, not counted.
        negative_rows: int32 [M] catalogue rows; a reserved row is no negative.
        weights: float32 [...]; 0 = not counted. None: all targets count the same.
        costs: [V]: the mean cost of a product under the same estimate of the softmax is added; see `popularity_costs`.
    """
    corrected = tf.where(_are_negatives(targets, negative_rows), negative - negative_log_counts, _MASKED)
    logits = tf.concat([positive[..., tf.newaxis], corrected], axis=-1)
    losses = tf.reduce_logsumexp(logits, axis=-1) - positive
    if costs is not None:
        own, others = tf.gather(costs, targets)[..., tf.newaxis], tf.gather(costs, negative_rows)
        others = tf.broadcast_to(others, tf.shape(negative))
        losses += tf.reduce_sum(tf.nn.softmax(logits) * tf.concat([own, others], axis=-1), axis=-1)
    return _weighted_mean(losses, targets, weights)


def gbce_loss(
    positive: tf.Tensor,
    negative: tf.Tensor,
    targets: tf.Tensor,
    negative_rows: tf.Tensor,
    weights: tf.Tensor | None = None,
    beta: float = 1.0,
) -> tf.Tensor:
    """Weighted mean of generalised binary cross-entropy, in nats (gSASRec, Petrov and Macdonald 2023).

    loss = −(log σ(s⁺)^β + Σ over the k negatives other than the target of log(1 − σ(s))) / (k + 1). With β = 1 this is
    binary cross-entropy with k negatives.

    Args:
        positive: [...] logits of the targets.
        negative: [..., M] logits.
        targets: int32 [...] catalogue rows; a reserved row = no target, not counted.
        negative_rows: int32 [M] or [..., M] catalogue rows; a reserved row is no negative.
        weights: float32 [...]; 0 = not counted. None: all targets count the same.
        beta: power of the positive probability, see `gbce_beta`.
    """
    counted = tf.cast(_are_negatives(targets, negative_rows), negative.dtype)
    # log σ(s) = −softplus(−s) and log(1 − σ(s)) = −softplus(s), without overflow.
    losses = beta * tf.math.softplus(-positive) + tf.reduce_sum(tf.math.softplus(negative) * counted, axis=-1)
    return _weighted_mean(losses / (1.0 + tf.reduce_sum(counted, axis=-1)), targets, weights)


def gbce_beta(negatives: int, products: int, calibration: float) -> float:
    """β = α (t (1 − 1/α) + 1/α), with the sampling rate α = k / (V − 1) (gSASRec), which takes negatives to be
    drawn uniformly.

    Args:
        negatives: k, of a slot.
        products: V, of the catalogue.
        calibration: t in [0, 1]; 0 leaves binary cross-entropy (β = 1), 1 undoes the overconfidence that sampling
            brings (β = α).
    """
    rate = min(1.0, negatives / (products - 1))
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def bpr_loss(
    positive: tf.Tensor,
    negative: tf.Tensor,
    targets: tf.Tensor,
    negative_rows: tf.Tensor,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """Weighted mean of −log σ(s⁺ − s), in nats, itself the mean over a slot's negatives other than the target (Bayesian
    personalised ranking, Rendle et al. 2009).

    Args: as `gbce_loss`.
    """
    counted = tf.cast(_are_negatives(targets, negative_rows), negative.dtype)
    losses = tf.reduce_sum(tf.math.softplus(negative - positive[..., tf.newaxis]) * counted, axis=-1)
    return _weighted_mean(tf.math.divide_no_nan(losses, tf.reduce_sum(counted, axis=-1)), targets, weights)


def popularity_costs(target_share: np.ndarray, penalty: float) -> np.ndarray:
    """What each row costs in a loss that holds popular products back: penalty · log(popularity), float32 [V].

    Added to a loss, the mean cost of the recommended distribution is a regulariser in the manner of Abdollahpouri et
    al. (2017); with a minus, mean log popularity is the expected self-information of the list, by which novelty is
    measured (Vargas and Castells 2011). Popularity is 1 for a product as frequent as the average; a tenth of all
    targets is thought spread evenly, so that a product without targets has log 0.1 and not −∞.

    Args:
        target_share: float [V], share of each row among all targets, sums to 1.
        penalty: γ, 0 or above.
    """
    products = len(target_share) - FIRST
    popularity = 0.9 * target_share * products + 0.1
    return (penalty * np.log(popularity)).astype(np.float32)


def _are_negatives(targets: tf.Tensor, negative_rows: tf.Tensor) -> tf.Tensor:
    """Which negatives count for which target, bool [..., M]: not its own accidental hits, not reserved rows."""
    return (negative_rows != targets[..., tf.newaxis]) & (negative_rows >= FIRST)


def _weighted_mean(losses: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Mean over the slots that have a target; 0 where nothing counts."""
    counted = tf.cast(targets >= FIRST, losses.dtype)
    weights = counted if weights is None else counted * weights
    return tf.math.divide_no_nan(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))
