"""An embedding table divided among devices, where one is too small for it."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf
import tf_keras


class ShardedEmbedding(tf_keras.layers.Layer):
    """Rows of a table dealt out to devices in turn: row r is row r // S of shard r % S, of S shards.

    Frequent products have low rows, so dealing gives every device as much to do. Each shard looks up its own rows where
    it lies, and only the looked-up vectors travel. The moments of the optimizer and the averages lie beside the shards.

    Attributes:
        shards: one variable on each device, [rows of the shard, dim].
        shape: [rows, dim] of the whole table.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        devices: Sequence[str],
        initializer: Callable[[], tf_keras.initializers.Initializer],
        name: str = "sharded_embedding",
    ) -> None:
        """Args:
        rows: of the whole table.
        dim: length of a row.
        devices: names as TensorFlow's, such as "GPU:0".
        initializer: makes that of each shard; one of several shards would draw the same for all.
        """
        super().__init__(name=name)
        self.shape = tf.TensorShape([rows, dim])
        self.shards = []
        for number, device in enumerate(devices):
            size = len(range(number, rows, len(devices)))
            with tf.device(device):
                self.shards.append(self.add_weight(f"shard_{number}", (size, dim), initializer=initializer()))

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Vectors of rows, as `tf.gather` of the whole table gives them: int32 [...] → [..., dim]."""
        count = len(self.shards)
        owners, places = rows % count, rows // count
        total: tf.Tensor = 0.0
        for number, shard in enumerate(self.shards):
            own = owners == number
            total += tf.where(own[..., tf.newaxis], tf.gather(shard, tf.where(own, places, 0)), 0.0)
        return total

    def assign(self, table: np.ndarray) -> None:
        """Sets all rows from the whole table, [rows, dim]."""
        if table.shape != tuple(self.shape):
            raise ValueError(f"a table of shape {tuple(self.shape)} is expected, received {table.shape}.")
        for number, shard in enumerate(self.shards):
            shard.assign(table[number :: len(self.shards)])

    def numpy(self) -> np.ndarray:
        """The whole table, [rows, dim]."""
        return joined([shard.numpy() for shard in self.shards])


Table: TypeAlias = tf.Variable | ShardedEmbedding


def gather(table: Table, rows: tf.Tensor) -> tf.Tensor:
    """Vectors of rows of a table, divided or not: int32 [...] → [..., dim]."""
    return table.gather(rows) if isinstance(table, ShardedEmbedding) else tf.gather(table, rows)


def joined(shards: Sequence[np.ndarray]) -> np.ndarray:
    """The whole table of its shards: each [rows of the shard, dim] → [rows, dim]."""
    table = np.empty((sum(map(len, shards)), *shards[0].shape[1:]), shards[0].dtype)
    for number, shard in enumerate(shards):
        table[number :: len(shards)] = shard
    return table
