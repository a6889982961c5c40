"""Multi-head attention among the slots of a history, biased by how far apart they stand in order and in time."""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf
import tf_keras

from trainer.history import GAP_BUCKETS, distance_buckets

# What the layers compute in; see `trainer.devices.precision_policy`.
Policy: TypeAlias = tf_keras.mixed_precision.Policy | None


class TimeBias(tf_keras.layers.Layer):
    """One learned number per head and bucket of the time between two slots (the idea of TiSASRec, Li et al. 2020, and
    of HSTU's relative bias, Zhai et al. 2024); read by `SlotPairs`."""

    def __init__(self, heads: int, dtype: Policy = None, name: str = "time_bias") -> None:
        super().__init__(name=name, dtype=dtype)
        self.heads = heads
        self.bias = self.add_weight("bias", (GAP_BUCKETS, heads), initializer="zeros")


class SlotPairs:
    """What holds for the pairs of slots of a batch.

    Attributes:
        allowed: bool [B, 1, L, L]; slot i may look at slot j.
    """

    def __init__(
        self, valid: tf.Tensor, timestamps: tf.Tensor | None, causal: bool, time_biases: Sequence[TimeBias] = ()
    ) -> None:
        """Args:
        valid: bool [B, L], slots that hold something.
        timestamps: int64 [B, L] seconds, 0 = unknown; None = no clock.
        causal: a slot looks at none that comes after it.
        time_biases: of all blocks: looked up together, since the look-up is what costs.
        """
        length = valid.shape[1]
        places = tf.range(length)
        itself = places[:, tf.newaxis] == places
        seen = valid[:, tf.newaxis, tf.newaxis, :]
        if causal:
            seen &= places[:, tf.newaxis] > places
        # Every slot sees itself, padding too: a softmax over nothing is not a number.
        self.allowed = seen | itself
        self._time_biases: dict[int, tf.Tensor] = {}
        if timestamps is not None and time_biases:
            table = tf.concat([layer.bias for layer in time_biases], axis=1)
            found = tf.transpose(tf.gather(table, distance_buckets(timestamps)), [0, 3, 1, 2])
            parts = tf.split(found, [layer.heads for layer in time_biases], axis=1)
            self._time_biases = dict(zip(map(id, time_biases), parts, strict=True))

    def time_bias(self, layer: TimeBias | None) -> tf.Tensor | None:
        """What the time between slots adds to the scores of a block, [B, heads, L, L]; None without a clock."""
        return self._time_biases.get(id(layer))


class PositionBias(tf_keras.layers.Layer):
    """One learned number per head and distance, added to the scores (Shaw et al. 2018; Raffel et al. 2020).

    A slot is scored by how far away it is and not by where it stands, so that every slot of a training window trains
    the answer that the newest slot gives in service.
    """

    def __init__(self, heads: int, max_length: int, dtype: Policy = None, name: str = "position_bias") -> None:
        super().__init__(name=name, dtype=dtype)
        self.heads = heads
        self.max_length = max_length
        # Place max_length − 1 + (j − i) holds the bias of slot j as slot i sees it.
        self.bias = self.add_weight("bias", (heads, 2 * max_length - 1), initializer="zeros")

    def call(self, length: int) -> tf.Tensor:
        """[heads, L, L] for slots i (looking) and j (looked at), L ≤ max_length."""
        middle = self.max_length - 1
        near = self.bias[:, middle - (length - 1) : middle + length]
        # A Toeplitz matrix by reshaping: rows of 2L − 1 cut from a period of 2L start one place further left each.
        period = tf.tile(tf.pad(near, [[0, 0], [0, 1]]), [1, length])
        rows = tf.reshape(period[:, : length * (2 * length - 1)], [self.heads, length, 2 * length - 1])
        return rows[:, :, length - 1 :]


class Attention(tf_keras.layers.Layer):
    """Multi-head attention (Vaswani et al. 2017) of each slot to itself and to the slots that it may see."""

    def __init__(
        self,
        dim: int,
        heads: int,
        max_length: int,
        positions: bool,
        times: bool,
        dtype: Policy = None,
        name: str = "attention",
    ) -> None:
        """Args:
        dim: of the slots, divisible by `heads`.
        heads: number of heads.
        max_length: longest history.
        positions: scores are biased by distance.
        times: scores are biased by the time between.
        dtype: precision.
        name: of the layer.
        """
        super().__init__(name=name, dtype=dtype)
        self.dim = dim
        self.heads = heads
        self.projection = tf_keras.layers.Dense(3 * dim, dtype=dtype, name="projection")
        self.output_projection = tf_keras.layers.Dense(dim, dtype=dtype, name="output_projection")
        self.position_bias = PositionBias(heads, max_length, dtype) if positions else None
        self.time_bias = TimeBias(heads, dtype) if times else None

    def build(self, input_shape: tf.TensorShape) -> None:
        self.projection.build((None, self.dim))
        self.output_projection.build((None, self.dim))
        super().build(input_shape)

    def call(self, slots: tf.Tensor, pairs: SlotPairs) -> tf.Tensor:
        """[B, L, dim] → [B, L, dim]."""
        length = slots.shape[1]
        query, key, value = self._projected(slots)
        mixed = tf.matmul(self._weights(query, key, pairs), value)
        return self.output_projection(tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, length, self.dim]))

    def weights(self, slots: tf.Tensor, pairs: SlotPairs) -> tf.Tensor:
        """How much slot i takes from slot j, [B, heads, L, L]; each line sums to 1."""
        query, key, _ = self._projected(slots)
        return self._weights(query, key, pairs)

    def _projected(self, slots: tf.Tensor) -> list[tf.Tensor]:
        """Queries, keys and values, each [B, heads, L, dim / heads]."""
        shape = [-1, slots.shape[1], 3, self.heads, self.dim // self.heads]
        return tf.unstack(tf.transpose(tf.reshape(self.projection(slots), shape), [2, 0, 3, 1, 4]))

    def _weights(self, query: tf.Tensor, key: tf.Tensor, pairs: SlotPairs) -> tf.Tensor:
        scores = tf.matmul(query * (self.dim // self.heads) ** -0.5, key, transpose_b=True)
        if self.position_bias is not None:
            scores += self.position_bias(query.shape[2])
        time_bias = pairs.time_bias(self.time_bias)
        if time_bias is not None:
            scores += tf.cast(time_bias, scores.dtype)
        # The lowest number of the precision: what may not be attended to gets nothing.
        return tf.nn.softmax(tf.where(pairs.allowed, scores, scores.dtype.min))
