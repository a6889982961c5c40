"""Blocks of a pre-norm transformer, with dropout whose randomness is given from outside."""

import tensorflow as tf
import tf_keras

from trainer.attention import Attention, Policy, SlotPairs


def dropout(values: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Inverted dropout (Srivastava et al. 2014) drawn from `seed` int32 [2]; without a seed nothing is dropped.

    Sixteen random bits decide each value, which halves the cost of drawing them; the rate is rounded to 1/65,536.
    """
    if seed is None or rate == 0:
        return values
    size = values.shape.num_elements()
    bits = tf.random.stateless_uniform([(size + 1) // 2], seed, None, None, tf.uint32, alg="philox")
    halves = tf.reshape(tf.bitcast(bits, tf.uint16), [-1])[:size]
    threshold = round(rate * 65_536)
    keep = tf.reshape(tf.cast(halves, tf.int32) >= threshold, values.shape)
    return tf.where(keep, values * (65_536 / (65_536 - threshold)), 0.0)


def split_seed(seed: tf.Tensor | None, parts: int) -> list[tf.Tensor | None]:
    """Independent seeds for the parts of a model; all None where nothing is random."""
    if seed is None:
        return [None] * parts
    return tf.unstack(tf.random.split(seed, parts, alg="philox"))


class GatedFeedForward(tf_keras.layers.Layer):
    """SwiGLU (Shazeer 2020): W₃ (silu(W₁ x) · W₂ x), twice the width inside."""

    def __init__(self, dim: int, name: str, dtype: Policy = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.dim = dim
        self.hidden = tf_keras.layers.Dense(4 * dim, use_bias=False, dtype=dtype, name="hidden")
        self.output_projection = tf_keras.layers.Dense(dim, dtype=dtype, name="output_projection")

    def build(self, input_shape: tf.TensorShape) -> None:
        self.hidden.build((None, self.dim))
        self.output_projection.build((None, 2 * self.dim))
        super().build(input_shape)

    def call(self, slots: tf.Tensor) -> tf.Tensor:
        """[B, L, dim] → [B, L, dim]."""
        gate, value = tf.split(self.hidden(slots), 2, axis=-1)
        return self.output_projection(tf.nn.silu(gate) * value)


class Block(tf_keras.layers.Layer):
    """x += dropout(attention(norm(x))); x += dropout(feed-forward(norm(x)))."""

    def __init__(self, attention: Attention, rate: float, name: str, dtype: Policy = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.rate = rate
        self.dim = attention.dim
        self.attention_norm = tf_keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype, name="attention_norm")
        self.attention = attention
        self.feed_forward_norm = tf_keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype, name="feed_forward_norm")
        self.feed_forward = GatedFeedForward(self.dim, "feed_forward", dtype)

    def build(self, input_shape: tf.TensorShape) -> None:
        for layer in (self.attention_norm, self.attention, self.feed_forward_norm, self.feed_forward):
            layer.build((None, None, self.dim))
        super().build(input_shape)

    def call(self, slots: tf.Tensor, pairs: SlotPairs, seed: tf.Tensor | None = None) -> tf.Tensor:
        """[B, L, dim] → [B, L, dim]; dropout only with a seed."""
        attention_seed, feed_forward_seed = split_seed(seed, 2)
        slots += dropout(self.attention(self.attention_norm(slots), pairs), self.rate, attention_seed)
        return slots + dropout(self.feed_forward(self.feed_forward_norm(slots)), self.rate, feed_forward_seed)

    def attention_weights(self, slots: tf.Tensor, pairs: SlotPairs) -> tf.Tensor:
        """What the block attends to, given its input: [B, L, dim] → [B, heads, L, L]."""
        return self.attention.weights(self.attention_norm(slots), pairs)
