"""Buying again: what a candidate gains by being in the history, exactly, however narrow the vectors are.

A dot product of `dim` numbers cannot tell a hundred products of a history from all others; where people buy again, that
is half of what there is to know. The same gain, negative, keeps a model from recommending what nobody takes twice.
"""

import numpy as np
import tensorflow as tf
import tf_keras


class RepeatWeights(tf_keras.layers.Layer):
    """What a product gains at slot t for each time it was met, at slots j ≤ t:

        weight[t, j] = query(state t) · key(state j) / √dim + bias[t − j]

    A pointer into the history (Vinyals et al. 2015), added to the logits. It starts at zero everywhere.
    """

    def __init__(self, dim: int, max_length: int, name: str = "repeat_weights") -> None:
        super().__init__(name=name)
        self.dim = dim
        self.query = tf_keras.layers.Dense(dim, kernel_initializer="zeros", name="query")
        self.key = tf_keras.layers.Dense(dim, name="key")
        self.distance_bias = self.add_weight("distance_bias", (max_length,), initializer="zeros")

    def build(self, input_shape: tf.TensorShape) -> None:
        self.query.build((None, self.dim))
        self.key.build((None, self.dim))
        super().build(input_shape)

    def call(self, states: tf.Tensor, valid: tf.Tensor, newest_only: bool = False) -> tf.Tensor:
        """Weights of the slots j for the slots t; zero for padding and for j > t.

        Args:
            states: [B, L, dim].
            valid: bool [B, L].
            newest_only: only for the newest t.

        Returns:
            [B, L, L], or [B, 1, L] where `newest_only`.
        """
        length = states.shape[1]
        newer = np.arange(length)[-1:] if newest_only else np.arange(length)
        asking = states[:, -1:] if newest_only else states
        weights = tf.matmul(self.query(asking), self.key(states), transpose_b=True) * self.dim**-0.5
        distance = newer[:, np.newaxis] - np.arange(length)
        weights += tf.gather(self.distance_bias, np.maximum(distance, 0))
        return tf.where((distance >= 0) & valid[:, tf.newaxis, :], weights, 0.0)


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
