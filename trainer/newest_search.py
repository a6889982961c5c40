"""The best of the products that training never met, in a graph: they are few enough to look at each."""

import numpy as np
import tensorflow as tf

from trainer.index import ABSENT_SCORE
from trainer.row_lists import is_in
from transform.tables import PADDING


class NewestSearch(tf.Module):
    """Exact search among rows of their own, see `trainer.shortlist`."""

    def __init__(self, rows: np.ndarray, vectors: tf.Tensor, places: int) -> None:
        """Args:
        rows: int32 [U] catalogue rows.
        vectors: float32 [U, D], as the index holds them.
        places: of an answer.
        """
        super().__init__(name="newest_search")
        self.rows = tf.Variable(rows, trainable=False, name="rows")
        self.vectors = tf.Variable(vectors, trainable=False, name="vectors")
        self.places = places

    def __call__(self, query: tf.Tensor, excluded: tf.Tensor, newcomer: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The nearest rows, best first.

        Args:
            query: float32 [B, D].
            excluded: int32 [B, E] rows to leave out.
            newcomer: bool [B], of whom nothing is known; they get none.

        Returns:
            Rows int32 and scores float32 [B, places + E], at most `places` in each line; row 0 and ABSENT_SCORE = none.
        """
        width = min(self.places + excluded.shape[1], self.rows.shape[0])
        scores, found = tf.math.top_k(tf.matmul(query, self.vectors, transpose_b=True), width)
        rows = tf.gather(self.rows, found)
        usable = ~is_in(rows, excluded) & ~newcomer[:, tf.newaxis]
        usable &= tf.cumsum(tf.cast(usable, tf.int32), axis=1) <= self.places
        return tf.where(usable, rows, PADDING), tf.where(usable, scores, ABSENT_SCORE)
