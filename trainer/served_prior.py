"""The newcomers' prior in a graph: scores of products for requests, and the list that they make."""

import numpy as np
import tensorflow as tf

from trainer.newcomer_prior import BUCKETS_PER_DAY, HOUR, SECONDS_PER_BUCKET, Factor, NewcomerPrior
from trainer.signatures import Tensors


class ServedPrior(tf.Module):
    """scores[v], plus what the request's device, region and hour change for the products of a pool.

    Memory: 4 bytes for each catalogue row, and if anything is told apart another 4, and 4 for each value and product
    of the pool (with 70 values and 5,000 products 1.4 MB).
    """

    def __init__(self, prior: NewcomerPrior, recommendable: np.ndarray, enough: int) -> None:
        """Args:
        prior: of V catalogue rows.
        recommendable: bool [V].
        enough: products of a list.
        """
        super().__init__(name="prior")
        self.scores = tf.Variable(prior.scores, trainable=False, name="prior")
        order = np.argsort(-prior.scores, kind="stable")
        order = order[recommendable[order]].astype(np.int32)
        # The most popular recommendable rows, best first.
        self.popular = order[:enough]
        self.enough = len(self.popular)
        self._order = order
        self._factors = prior.factors
        if prior.factors:
            pool = np.isin(order, prior.pool)
            pool[:enough] = True
            self.pool = tf.Variable(order[pool], trainable=False, name="prior_pool")
            places = np.full(len(prior.scores), len(prior.pool), np.int32)
            places[prior.pool] = np.arange(len(prior.pool))
            self.places = tf.Variable(places, trainable=False, name="prior_places")
            self.log_odds = [
                tf.Variable(factor.log_odds, trainable=False, name=f"prior_{factor.name}") for factor in prior.factors
            ]

    def most_popular(self, count: int) -> np.ndarray:
        """The first `count` recommendable rows by the overall prior, int32."""
        return self._order[:count]

    def of(self, batch: Tensors, rows: tf.Tensor) -> tf.Tensor:
        """Scores of rows int32 [B, N] for the requests of a history batch of B: float32 [B, N]."""
        scores = tf.gather(self.scores, rows)
        if not self._factors:
            return scores
        places = tf.gather(self.places, rows)
        for factor, log_odds in zip(self._factors, self.log_odds, strict=True):
            scores += tf.gather(tf.gather(log_odds, _values(factor, batch)), places, batch_dims=1)
        return scores

    def lists(self, batch: Tensors) -> tuple[tf.Tensor, tf.Tensor]:
        """The `enough` likeliest recommendable products of each request: rows int32, scores float32, both [B, enough].

        In the order of the scores; equals in that of the overall prior.
        """
        size = tf.shape(batch["context_timestamp"])[0]
        if not self._factors:
            rows = tf.broadcast_to(tf.constant(self.popular), [size, self.enough])
            return rows, self.of(batch, rows)
        pool = tf.broadcast_to(self.pool, [size, self.pool.shape[0]])
        scores, places = tf.math.top_k(self.of(batch, pool), self.enough)
        return tf.gather(pool, places, batch_dims=1), scores


def _values(factor: Factor, batch: Tensors) -> tf.Tensor:
    """Value of each request, int32 [B]; 0 for an id that was not counted."""
    if factor.name == HOUR:
        times = batch["context_timestamp"]
        bucket = 1 + times // SECONDS_PER_BUCKET % BUCKETS_PER_DAY
        ids = tf.cast(tf.where(times > 0, bucket, tf.zeros_like(times)), tf.int32)
    else:
        ids = batch[f"context_{factor.name}"]
    last = len(factor.value_of) - 1
    return tf.where(ids <= last, tf.gather(tf.constant(factor.value_of), tf.minimum(ids, last)), 0)
