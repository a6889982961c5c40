"""The retrieval index in stock TensorFlow ops: approximate, fast, and served by any TensorFlow Serving."""

from typing import Literal

import numpy as np
import tensorflow as tf

from trainer.index import ABSENT_SCORE, Index, SearchEffort, Vectors
from trainer.partitions import Partitions, partition
from trainer.query_space import QuerySpace
from transform.tables import FIRST, PADDING

Storage = Literal["float32", "bfloat16", "int8"]

# Shares of the partitions that are searched.
_LEAF_SHARES = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
# Products that are scored exactly where the stored vectors are rounded, as multiples of k.
_REORDERED = (1.5, 3.0)
# Standard deviations above the centroid's score by which partitions are compared (chosen on validation shoppers).
_SPREADS = 3.0
_INT8_LARGEST = 127
# Of vectors that are zero.
_SMALLEST_SCALE = 1e-30


class PortableIndex(Index):
    """Inverted file (Jégou et al. 2011) with balanced partitions, ScaNN's idea without its ops:

        scores of centroids → best partitions → their vectors → scores → the best

    In the space of the queries, if some are given (trainer/query_space.py).

    A partition's vectors lie side by side, and all partitions have the same number of places, so that a search copies
    a few contiguous blocks. Queries are searched one by one: what is copied for one fits the processor's cache,
    and a batch needs no more memory than a query. Small catalogues are one partition, which is exact search.

    Stored in bfloat16 or int8 (rounded to 1/127 of each product's largest number) the blocks are a half or a quarter as
    large; the best are then scored exactly from `exact`.
    """

    kind = "portable"

    def __init__(
        self,
        k: int,
        storage: Storage = "float32",
        exact: Vectors | None = None,
        partitions_from: int = 20_000,
        name: str = "portable_index",
    ) -> None:
        """Args:
        k: neighbours of a search that does not say how many.
        storage: of the partitions' vectors.
        exact: the vectors that were indexed, by their identifiers; needed where the storage is not float32.
        partitions_from: size from which products are partitioned.
        """
        super().__init__(k, name)
        if storage != "float32" and exact is None:
            raise ValueError(f"storage {storage!r} rounds vectors and needs `exact`, received none.")
        self.storage = storage
        self.exact = None if storage == "float32" else exact
        self.partitions_from = partitions_from
        self.leaves = 1
        self.places = 0

    def efforts(self) -> list[SearchEffort]:
        """Shares of the partitions and, where vectors are rounded, products to score exactly."""
        leaves = sorted({max(1, round(self.leaves * share)) for share in _LEAF_SHARES})
        if self.storage == "float32":
            return [SearchEffort(leaf) for leaf in leaves]
        return [SearchEffort(leaf, round(share * self._k)) for leaf in leaves for share in _REORDERED]

    def settings(self) -> dict[str, int | str]:
        """What was built and chosen, for reports; −1 where nothing is reordered."""
        return {
            "storage": self.storage,
            "leaves": self.leaves,
            "places_in_a_leaf": self.places,
            "leaves_to_search": self.effort.leaves,
            "reordered": self.effort.reordered,
            "thorough_leaves_to_search": self.thorough_effort.leaves,
            "thorough_reordered": self.thorough_effort.reordered,
        }

    def _build_index(self, vectors: np.ndarray, rows: np.ndarray) -> None:
        partitioned = len(rows) >= self.partitions_from
        if not partitioned and self.storage == "float32":
            # Every product is scored exactly: as it is.
            self.space = QuerySpace.plain(vectors.shape[1])
        vectors = self.space.products(vectors)
        found = partition(vectors, round(len(rows) ** 0.5) if partitioned else 1)
        self.leaves, self.places = found.members.shape
        self._spreads = tf.Variable(found.spreads(vectors) * _SPREADS, trainable=False, name="spreads")
        blocks = vectors[found.members]
        blocks[~found.taken] = 0.0
        self._centroids = tf.Variable(found.centroids, trainable=False, name="centroids")
        self._identifiers = tf.Variable(_rows_of(found, rows), trainable=False, name="identifiers")
        self._scales: tf.Variable | None = None
        if self.storage == "int8":
            scales = np.maximum(np.abs(blocks).max(axis=2) / _INT8_LARGEST, _SMALLEST_SCALE)
            self._scales = tf.Variable(scales, trainable=False, name="scales")
            blocks = np.rint(blocks / scales[..., np.newaxis]).astype(np.int8)
        dtype = tf.dtypes.as_dtype(self.storage)
        self._blocks = tf.Variable(tf.cast(blocks, dtype), trainable=False, name="blocks")

    def _search(self, queries: tf.Tensor, width: int, effort: SearchEffort) -> tuple[tf.Tensor, tf.Tensor]:
        found = min(width, effort.leaves * self.places)
        signature = (tf.TensorSpec([found], tf.float32), tf.TensorSpec([found], tf.int32))
        return tf.map_fn(lambda query: self._search_one(query, found, effort), queries, fn_output_signature=signature)

    def _search_one(self, query: tf.Tensor, width: int, effort: SearchEffort) -> tuple[tf.Tensor, tf.Tensor]:
        """float32 [D] → scores and identifiers [width]."""
        turned = self.space.queries(query[tf.newaxis])[0]
        leaves = self._leaves_near(turned, effort.leaves)
        rows = tf.reshape(tf.gather(self._identifiers, leaves), [-1])
        scores = tf.where(rows >= FIRST, self._scores(turned, leaves), ABSENT_SCORE)
        if self.exact is None:
            scores, places = tf.math.top_k(scores, width)
            return scores, tf.gather(rows, places)
        kept = min(max(effort.reordered, width), scores.shape[0])
        rough, places = tf.math.top_k(scores, kept, sorted=False)
        rows = tf.gather(rows, places)
        exact = tf.linalg.matvec(self.exact(rows), query)
        scores, places = tf.math.top_k(tf.where(rough > ABSENT_SCORE, exact, ABSENT_SCORE), width)
        return scores, tf.gather(rows, places)

    def _leaves_near(self, query: tf.Tensor, count: int) -> tf.Tensor:
        """Partitions to search, int32 [count]: those whose better members promise most.

        Scores of a partition's members lie about that of the centroid, by as much as its members do.
        """
        if count == self.leaves:
            return tf.range(self.leaves)
        promise = tf.linalg.matvec(self._centroids, query) + self._spreads * tf.norm(query)
        return tf.math.top_k(promise, count, sorted=False).indices

    def _scores(self, query: tf.Tensor, leaves: tf.Tensor) -> tf.Tensor:
        """Scores of all places of the partitions, float32 [leaves · places], rounded as they are stored."""
        blocks = tf.gather(self._blocks, leaves)
        # Whole numbers up to 127 are exact in bfloat16.
        dtype = tf.float32 if self.storage == "float32" else tf.bfloat16
        blocks = tf.reshape(tf.cast(blocks, dtype), [-1, blocks.shape[2]])
        scores = tf.matmul(tf.cast(query[tf.newaxis], dtype), blocks, transpose_b=True)[0]
        scores = tf.ensure_shape(tf.cast(scores, tf.float32), [leaves.shape[0] * self.places])
        return scores if self._scales is None else scores * tf.reshape(tf.gather(self._scales, leaves), [-1])


def _rows_of(found: Partitions, rows: np.ndarray) -> np.ndarray:
    """Identifiers of the places, int32 [partitions, places]; 0 = empty."""
    return np.where(found.taken, rows[found.members], PADDING).astype(np.int32)
