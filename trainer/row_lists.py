"""Lists of catalogue rows in a graph: row 0 with ABSENT_SCORE is an empty place."""

import numpy as np
import tensorflow as tf

from trainer.index import ABSENT_SCORE
from transform.tables import PADDING


def is_in(rows: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Whether each of rows [B, N] is one of others [B, E] of its line: bool [B, N]."""
    return tf.reduce_any(rows[:, :, tf.newaxis] == others[:, tf.newaxis, :], axis=2)


def repeated(rows: tf.Tensor) -> tf.Tensor:
    """Whether a row occurs again further right: bool [B, N] for [B, N]."""
    again = np.triu(np.ones((rows.shape[1], rows.shape[1]), bool), 1)
    return tf.reduce_any((rows[:, :, tf.newaxis] == rows[:, tf.newaxis, :]) & again, axis=2)


def best(rows: tf.Tensor, scores: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The `width` best of rows [B, N] by scores [B, N], equals in their order; filled up if N is less."""
    missing = [[0, 0], [0, max(0, width - rows.shape[1])]]
    rows = tf.pad(rows, missing, constant_values=PADDING)
    scores, places = tf.math.top_k(tf.pad(scores, missing, constant_values=ABSENT_SCORE), width)
    return tf.gather(rows, places, batch_dims=1), scores
