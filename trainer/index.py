"""The retrieval index: products with the largest dot product, behind TFRS's TopK. Here what all kinds share, and the
one that scores every product; ScaNN's and the portable one have files of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import tensorflow as tf
from tensorflow_recommenders.layers.factorized_top_k import TopK

from trainer.query_space import QuerySpace
from transform.tables import FIRST, PADDING

# (rows int32 [...]) → float32 [..., D]
Vectors = Callable[[tf.Tensor], tf.Tensor]
# Score of an empty place in an answer: finite, so that it survives JSON, and below any score of a model.
ABSENT_SCORE = -1e9


@dataclass(frozen=True)
class SearchEffort:
    """How hard an approximate index looks. −1 where its layout has no such step."""

    # Partitions that are searched.
    leaves: int = -1
    # Products whose exact score is computed after an approximate one has chosen them.
    reordered: int = -1


class Index(TopK):
    """Search among products. The answer always has k columns, best first; where fewer are found, the identifier is 0
    (padding) and the score ABSENT_SCORE.

    Attributes:
        kind: name in the configuration and in reports.
        effort: how hard a search looks; the greatest until `trainer.index_quality.tune` finds that less will do.
        thorough_effort: the same for queries unlike those of most requests, which partitions serve worse.
        exact: the indexed vectors by their identifiers, for an index that stores them rounded; else None.
    """

    kind: ClassVar[str]

    def __init__(self, k: int, name: str) -> None:
        """Args:
        k: neighbours of a search that does not say how many.
        name: of the layer.
        """
        super().__init__(k=k, name=name)
        self.effort = self.thorough_effort = SearchEffort()
        self.exact: Vectors | None = None
        self.size = 0

    def index(
        self, candidates: tf.Tensor, identifiers: tf.Tensor | None = None, queries: np.ndarray | None = None
    ) -> Self:
        """Takes the products to search.

        Args:
            candidates: float32 [N, D] vectors.
            identifiers: int32 [N] catalogue rows, distinct and at least 2.
            queries: float32 [Q, D] such as will be asked, for which an approximate index is then built
                (trainer/query_space.py).

        Raises:
            ValueError: the shapes do not fit, a vector is not finite or an identifier is reserved.
        """
        vectors, rows = _checked(candidates, identifiers)
        self.size = len(rows)
        self.space = QuerySpace.plain(vectors.shape[1]) if queries is None else QuerySpace.of(queries)
        self._build_index(vectors, rows)
        self.effort = self.thorough_effort = self.efforts()[-1]
        return self

    def call(self, queries: tf.Tensor, k: int | None = None, thorough: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """float32 [B, D] → scores float32 [B, k], identifiers int32 [B, k]; with the thorough effort, if asked.

        Raises:
            ValueError: there is no index yet.
        """
        if not self.size:
            raise ValueError("the index is empty: call index(vectors, rows) first.")
        width = self._k if k is None else k
        effort = self.thorough_effort if thorough else self.effort
        return _of_width(*self._search(queries, width, effort), width)

    def efforts(self) -> list[SearchEffort]:
        """The efforts to choose from, in the order of their cost."""
        return [SearchEffort()]

    def settings(self) -> dict[str, int | str]:
        """What was built and chosen, for reports."""
        return {}

    @property
    def neighbours(self) -> int:
        """k of a search that does not say how many."""
        return self._k

    def is_exact(self) -> bool:
        """Whether every product is scored exactly by construction, whatever the size."""
        return False

    def _build_index(self, vectors: np.ndarray, rows: np.ndarray) -> None:
        """Takes float32 [N, D] and int32 [N], which have been checked."""
        raise NotImplementedError

    def _search(self, queries: tf.Tensor, width: int, effort: SearchEffort) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores float32 and identifiers int32 of at most `width` products, [B, found] each, best first."""
        raise NotImplementedError


class BruteForceIndex(Index):
    """Exact search: scores every product. Of equal scores the product indexed first comes first."""

    kind = "brute_force"

    def __init__(self, k: int, name: str = "brute_force_index") -> None:
        super().__init__(k, name)

    def is_exact(self) -> bool:
        """True."""
        return True

    def _build_index(self, vectors: np.ndarray, rows: np.ndarray) -> None:
        self._vectors = tf.Variable(vectors, trainable=False, name="vectors")
        self._identifiers = tf.Variable(rows, trainable=False, name="identifiers")

    def _search(self, queries: tf.Tensor, width: int, effort: SearchEffort) -> tuple[tf.Tensor, tf.Tensor]:
        scores = tf.matmul(queries, self._vectors, transpose_b=True)
        scores, places = tf.math.top_k(scores, min(width, self.size))
        return scores, tf.gather(self._identifiers, places)


def _of_width(scores: tf.Tensor, rows: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """[B, found] → [B, width], with empty places at the end."""
    missing = [[0, 0], [0, width - tf.shape(scores)[1]]]
    scores = tf.pad(scores, missing, constant_values=ABSENT_SCORE)
    rows = tf.pad(rows, missing, constant_values=PADDING)
    return tf.ensure_shape(scores, [None, width]), tf.ensure_shape(rows, [None, width])


def _checked(candidates: tf.Tensor, identifiers: tf.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Candidates as float32 [N, D], identifiers as int32 [N]."""
    vectors = np.ascontiguousarray(candidates, np.float32)
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"candidates must be a matrix [products, dimensions] that is not empty, got {vectors.shape}.")
    rows = FIRST + np.arange(len(vectors), dtype=np.int32) if identifiers is None else np.asarray(identifiers, np.int32)
    if rows.shape != (len(vectors),):
        raise ValueError(f"identifiers must be one per candidate, [{len(vectors)}], got {rows.shape}.")
    if rows.min() < FIRST:
        raise ValueError(f"identifiers below {FIRST} are reserved for padding and unknown, got {rows.min()}.")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ValueError(
            f"the vector of catalogue row {rows[broken[0]]} is not finite ({len(broken)} of {len(vectors)} are not): "
            "train the retrieval model again with a lower learning rate."
        )
    return vectors, rows
