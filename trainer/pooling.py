"""Cheap causal attention over a history: one score a slot, no product of slots with slots."""

import numpy as np
import tensorflow as tf
import tf_keras

# Bound of the content scores, so that their exponentials need no maximum over a history (which would look ahead).
_SCORE_BOUND = 8.0


class CausalPooling(tf_keras.layers.Layer):
    """Weighted means of a history up to each slot, one per head.

    For head h and slot t, over the valid slots j ≤ t:

        pooled[t] = Σⱼ exp(s[j] + r[t − j]) v[j] / Σⱼ exp(s[j] + r[t − j])

    with content score s and value v linear in the slot, and a learned bias r of the distance. Vectors that are given
    beside the slots are averaged with the same weights, by every head. Since the weight is a
    product of a factor of j and a factor of t − j, all slots at once are one matrix product with a Toeplitz matrix.
    """

    def __init__(self, dim: int, heads: int, max_length: int, name: str = "pooling") -> None:
        super().__init__(name=name)
        self.dim = dim
        self.heads = heads
        self.scores = tf_keras.layers.Dense(heads, name="scores")
        self.values = tf_keras.layers.Dense(dim, name="values")
        # Heads start with memories of different length, as in ALiBi (Press et al. 2022); the last one forgets nothing.
        slopes = np.array([2.0**-head for head in range(heads - 1)] + [0.0], np.float32)
        start = -slopes[:, np.newaxis] * np.log1p(np.arange(max_length, dtype=np.float32))
        self.distance_bias = self.add_weight(
            "distance_bias", (heads, max_length), initializer=tf_keras.initializers.Constant(start)
        )

    def build(self, input_shape: tf.TensorShape) -> None:
        self.scores.build((None, self.dim))
        self.values.build((None, self.dim))
        super().build(input_shape)

    def call(
        self, slots: tf.Tensor, beside: tf.Tensor, valid: tf.Tensor, newest_only: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Pooled histories; zero where no slot is valid yet.

        Args:
            slots: [B, L, dim].
            beside: [B, L, width].
            valid: bool [B, L].
            newest_only: pools the whole history only.

        Returns:
            The heads' means of their values side by side, [B, T, dim], and of `beside`, [B, T, heads, width]; T = L,
            or 1 where `newest_only`.
        """
        length = slots.shape[1]
        bounded = _SCORE_BOUND * tf.tanh(self.scores(slots) / _SCORE_BOUND)
        weights = tf.exp(bounded) * tf.cast(valid, tf.float32)[..., tf.newaxis]
        values = tf.reshape(self.values(slots), [-1, length, self.heads, self.dim // self.heads])
        if newest_only:
            return self._newest(weights, values, beside)
        shared = tf.repeat(beside[:, :, tf.newaxis], self.heads, axis=2)
        summed = tf.concat([values, shared, tf.ones_like(weights)[..., tf.newaxis]], axis=-1)
        distance_weights = self._distance_weights(length)
        pooled = tf.einsum("htj,bjhd->bthd", distance_weights, summed * weights[..., tf.newaxis])
        mean = pooled[..., :-1] / tf.maximum(pooled[..., -1:], 1e-9)
        width = self.dim // self.heads
        return tf.reshape(mean[..., :width], [-1, length, self.dim]), mean[..., width:]

    def _newest(self, weights: tf.Tensor, values: tf.Tensor, beside: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The answer of the newest slot alone: content weights [B, L, heads], values [B, L, heads, dim / heads]."""
        near = tf.transpose(tf.exp(self.distance_bias[:, : weights.shape[1]]))[::-1]
        weights = tf.transpose(weights * near, [0, 2, 1])
        weights /= tf.maximum(tf.reduce_sum(weights, axis=2, keepdims=True), 1e-9)
        pooled = tf.matmul(weights[:, :, tf.newaxis], tf.transpose(values, [0, 2, 1, 3]))
        return tf.reshape(pooled, [-1, 1, self.dim]), tf.matmul(weights, beside)[:, tf.newaxis]

    def _distance_weights(self, length: int) -> tf.Tensor:
        """exp(r[t − j]) for j ≤ t, else 0: [heads, L, L]."""
        distance = np.arange(length)[:, np.newaxis] - np.arange(length)
        weights = tf.gather(tf.exp(self.distance_bias), np.maximum(distance, 0), axis=1)
        return weights * (distance >= 0).astype(np.float32)
