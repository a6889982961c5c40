"""What an interaction is worth to the shop, by request: products that lead to what counts more rank higher."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainer.baselines import training_interactions
from trainer.data import Sequences

# Interactions of the whole shop that every product is credited with, so that one purchase makes no bestseller.
_PRIOR_INTERACTIONS = 20.0
_SMALLEST = 1e-6


def type_shares(sequences: Sequences, size: int, types: Sequence[int]) -> np.ndarray:
    """How the training span's interactions with each product ended, as shares of the event types.

        share[v, t] = (n[v, t] + α p[t]) / (n[v] + α)

    with n the interactions whose strongest event is t, p their shares in the whole shop (Dirichlet smoothing).

    Args:
        sequences: all interactions.
        size: V, rows of the catalogue.
        types: numbers of T event types.

    Returns:
        float32 [V, T]; line 0, padding, holds p.
    """
    trained = training_interactions(sequences)
    counts = np.zeros([size, len(types)])
    for column, number in enumerate(types):
        counts[:, column] = np.bincount(sequences.rows[trained & (sequences.types == number)], minlength=size)
    overall = counts.sum(axis=0) / max(counts.sum(), 1.0)
    shares = (counts + _PRIOR_INTERACTIONS * overall) / (counts.sum(axis=1, keepdims=True) + _PRIOR_INTERACTIONS)
    return shares.astype(np.float32)


class TargetValue(tf.Module):
    """log( Σₜ wₜ share[v, t] / Σₜ wₜ p[t] ): what is added to the score of product v where types weigh wₜ.

    A score is the logarithm of how likely the product is the next; with this it is that of the expected worth, as the
    product of click and conversion rates in ESMM (Ma et al. 2018). It is 0 for a product that leads to sales as the
    shop on the whole does, and for requests that give no weights.
    """

    def __init__(self, shares: np.ndarray) -> None:
        """Args:
        shares: of `type_shares`, float32 [V, T].
        """
        super().__init__(name="target_value")
        self.shares = tf.Variable(shares, trainable=False, name="shares")

    def __call__(self, rows: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Rows int32 [B, C], weights float32 [B, T] (zeros = none are given, below 0 counts as 0) → float32 [B, C]."""
        weights = tf.maximum(weights, 0.0)
        worth = tf.einsum("bct,bt->bc", tf.gather(self.shares, rows), weights)
        usual = tf.linalg.matvec(weights, tf.gather(self.shares, 0))[:, tf.newaxis]
        gain = tf.math.log(tf.maximum(worth, _SMALLEST) / tf.maximum(usual, _SMALLEST))
        return tf.where(tf.reduce_any(weights > 0, axis=1, keepdims=True), gain, 0.0)
