"""Buying again: what a candidate gains by being in the history, exactly, however narrow the vectors are.

A dot product of `dim` numbers cannot tell a hundred products of a history from all others; where people buy again, that
is half of what there is to know. The same gain, negative, keeps a model from recommending what nobody takes twice.
"""

import numpy as np
import tensorflow as tf
import tf_keras

from trainer.history import GAP_BUCKETS, HistoryBatch, gap_buckets
from transform.tables import FIRST


class RepeatWeights(tf_keras.layers.Layer):
    """What a product gains at slot t for each time it was met, at slots j ≤ t:

        weight[t, j] = query(state t) · key(state j) / √dim + bias[t − j] + bias[time between] + [j first] once(state t)

    A pointer into the history (Vinyals et al. 2015), added to the logits. What is gained by having been met at all is
    added at the first meeting, so that meeting a product ten times need not be worth ten times as much. It starts at
    zero everywhere.
    """

    def __init__(self, dim: int, max_length: int, times: bool, name: str = "repeat_weights") -> None:
        """Args:
        dim: of the states.
        max_length: longest history.
        times: weights are biased by the time between.
        name: of the layer.
        """
        super().__init__(name=name)
        self.dim = dim
        self.query = tf_keras.layers.Dense(dim, kernel_initializer="zeros", name="query")
        self.key = tf_keras.layers.Dense(dim, name="key")
        self.once = tf_keras.layers.Dense(1, kernel_initializer="zeros", name="once")
        self.distance_bias = self.add_weight("distance_bias", (max_length,), initializer="zeros")
        self.time_bias = self.add_weight("time_bias", (GAP_BUCKETS,), initializer="zeros") if times else None

    def build(self, input_shape: tf.TensorShape) -> None:
        for layer in (self.query, self.key, self.once):
            layer.build((None, self.dim))
        super().build(input_shape)

    def call(self, states: tf.Tensor, history: HistoryBatch, newest_only: bool = False) -> tf.Tensor:
        """Weights of the slots j for the slots t; zero for j > t and where j holds no product of the catalogue.

        Args:
            states: [B, L, dim].
            history: history_rows int32 [B, L]; with `times` history_timestamps int64 [B, L] seconds, 0 = unknown.
            newest_only: only for the newest t.

        Returns:
            [B, L, L], or [B, 1, L] where `newest_only`.
        """
        rows, length = history["history_rows"], states.shape[1]
        newer = np.arange(length)[-1:] if newest_only else np.arange(length)
        asking = states[:, -1:] if newest_only else states
        weights = tf.matmul(self.query(asking), self.key(states), transpose_b=True) * self.dim**-0.5
        distance = newer[:, np.newaxis] - np.arange(length)
        weights += tf.gather(self.distance_bias, np.maximum(distance, 0))
        weights += tf.where(first_meetings(rows)[:, tf.newaxis], self.once(asking), 0.0)
        if self.time_bias is not None:
            timestamps = history["history_timestamps"]
            buckets = gap_buckets(timestamps[:, tf.newaxis], tf.gather(timestamps, newer, axis=1)[:, :, tf.newaxis])
            weights += tf.gather(self.time_bias, buckets)
        return tf.where((distance >= 0) & (rows >= FIRST)[:, tf.newaxis], weights, 0.0)


def first_meetings(rows: tf.Tensor) -> tf.Tensor:
    """Whether a slot is the first of its history that holds its row: int32 [B, L] → bool [B, L]."""
    length = rows.shape[1]
    earlier = np.tri(length, k=-1, dtype=bool)
    return ~tf.reduce_any((rows[:, :, tf.newaxis] == rows[:, tf.newaxis, :]) & earlier, axis=2)


def repeat_gain(history_rows: tf.Tensor, weights: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """Gains of candidates, some for each history: [B, C].

    Args:
        history_rows: int32 [B, L].
        weights: [B, C, L], or [B, 1, L] where all candidates are asked at one slot.
        candidates: int32 [B, C] catalogue rows.
    """
    same = history_rows[:, tf.newaxis, :] == candidates[:, :, tf.newaxis]
    return tf.reduce_sum(tf.where(same, weights, 0.0), axis=2)


def shared_repeat_gain(history_rows: tf.Tensor, weights: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """Gains of candidates that all histories share: int32 [B, L], [B, T, L], int32 [C] → [B, T, C]."""
    same = history_rows[:, :, tf.newaxis] == candidates
    return tf.matmul(weights, tf.cast(same, weights.dtype))


def add_repeat_gain(scores: tf.Tensor, history_rows: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Scores of the whole catalogue with the gains added: [B · T, V], int32 [B, L], [B, T, L] → [B · T, V]."""
    columns = tf.repeat(history_rows, weights.shape[1], axis=0)
    lines = tf.broadcast_to(tf.range(tf.shape(scores)[0])[:, tf.newaxis], tf.shape(columns))
    places = tf.stack([tf.reshape(lines, [-1]), tf.reshape(columns, [-1])], axis=1)
    return tf.tensor_scatter_nd_add(scores, places, tf.reshape(weights, [-1]))
