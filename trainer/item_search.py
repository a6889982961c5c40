"""Products near a vector in a graph: by an index, by the behaviour of shoppers, and full lists whatever is left out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.index import ABSENT_SCORE, Index
from trainer.neighbours import Neighbours
from trainer.row_lists import best, is_in
from trainer.served_prior import ServedPrior
from trainer.signatures import Tensors, Untracked
from transform.tables import FIRST, PADDING


@dataclass(frozen=True)
class Wanted:
    """What is asked of a search, for B shoppers."""

    query: tf.Tensor  # float32 [B, D]
    by_prior: tf.Tensor  # bool [B], those to answer by the newcomers' prior instead
    excluded: tf.Tensor  # int32 [B, E] rows to leave out
    batch: Tensors  # the history batch
    width: int  # of the answer
    item: tf.Tensor | None = None  # int32 [B]: the product whose neighbours are wanted, 0 and 1 = none
    thorough: tf.Tensor | bool = True  # the index is to look harder; a bool [] where that depends on the request


class ItemSearch(tf.Module):
    """One space of vectors with its index and, if given, what shoppers do with each product.

    score(v) = (1 − s) · query · vector(v) + s · strength(item, v), with s the share of behaviour where the asked item
    has neighbours by behaviour, else 0. The best of them are exact as far as the index is: of products that are no
    neighbours by behaviour the order is the index's, and all neighbours are looked at.
    """

    def __init__(
        self,
        index: Index,
        vectors: Callable[[tf.Tensor], tf.Tensor],
        prior: ServedPrior,
        popular: np.ndarray,
        neighbours: Neighbours | None = None,
        behaviour_share: float = 0.0,
        category: np.ndarray | None = None,
    ) -> None:
        """Args:
        index: over the recommendable rows.
        vectors: rows int32 [...] → vectors float32 [..., D] as the index holds them.
        prior: answers those of whom nothing is known.
        popular: int32 [n] recommendable rows that fill up, most popular first.
        neighbours: by behaviour, of recommendable rows.
        behaviour_share: s.
        category: int32 [V]; where given, products of the asked item's category are no answer.
        """
        super().__init__(name="item_search")
        self._index = Untracked(index)
        self._vectors = vectors
        self._prior = Untracked(prior)
        self.popular = tf.Variable(popular, trainable=False, name="popular")
        self._share = behaviour_share
        self.neighbour_rows = self.strengths = self.category = None
        if neighbours is not None and neighbours.rows.shape[1] and behaviour_share:
            self.neighbour_rows = tf.Variable(neighbours.rows, trainable=False, name="neighbours")
            self.strengths = tf.Variable(neighbours.strengths, trainable=False, name="strengths")
        if category is not None:
            self.category = tf.Variable(category, trainable=False, name="category")

    def likeness(self, query: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Dot products: queries [B, D], rows int32 [B, N] → [B, N]."""
        return tf.einsum("bd,bnd->bn", query, self._vectors(rows))

    def __call__(self, wanted: Wanted) -> tuple[tf.Tensor, tf.Tensor]:
        """Products for each query, best first, never a short list.

        Returns:
            Rows int32 and scores float32, [B, width] each; row 0 and ABSENT_SCORE where the catalogue has no more.
        """
        # So many more than `width` are fetched that it remains whatever is excluded. How many are of the item's own
        # category is not known: as many again, and what is missing then is filled up.
        more = wanted.excluded.shape[1] + (wanted.width if self.category is not None else 0)
        scores, rows = self._nearest(wanted, wanted.width + more)
        usable = self._usable(wanted, rows) & ~wanted.by_prior[:, tf.newaxis]
        rows = tf.where(usable, rows, PADDING)
        share = tf.zeros([1, 1])
        if self.neighbour_rows is not None and wanted.item is not None:
            share, rows, scores = self._with_behaviour(wanted, rows, scores)
        rows, scores = best(rows, tf.where(rows >= FIRST, scores, ABSENT_SCORE), wanted.width)
        return tf.cond(
            tf.reduce_any(rows == PADDING),
            lambda: self._filled(wanted, share, rows, scores),
            lambda: (rows, scores),
        )

    def _nearest(self, wanted: Wanted, count: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores and rows by the index, [B, count] each."""
        index, query = self._index.value, wanted.query
        if isinstance(wanted.thorough, bool):
            return index(query, k=count, thorough=wanted.thorough)
        if index.effort == index.thorough_effort:
            return index(query, k=count)
        return tf.cond(wanted.thorough, lambda: index(query, k=count, thorough=True), lambda: index(query, k=count))

    def _usable(self, wanted: Wanted, rows: tf.Tensor) -> tf.Tensor:
        """Which of rows int32 [B, N] may be answered: bool [B, N]."""
        usable = (rows >= FIRST) & ~is_in(rows, wanted.excluded)
        if self.category is not None and wanted.item is not None:
            usable &= tf.gather(self.category, rows) != tf.gather(self.category, wanted.item)[:, tf.newaxis]
        return usable

    def _with_behaviour(
        self, wanted: Wanted, rows: tf.Tensor, scores: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The share of behaviour [B, 1], and the rows and blended scores of what is near and what goes along."""
        beside, strengths = (tf.gather(table, wanted.item) for table in (self.neighbour_rows, self.strengths))
        share = tf.where(tf.reduce_any(strengths > 0, axis=1, keepdims=True), self._share, 0.0)
        same = tf.cast(rows[:, :, tf.newaxis] == beside[:, tf.newaxis, :], tf.float32)
        scores = (1.0 - share) * scores + share * tf.einsum("bfn,bn->bf", same, strengths)
        new = self._usable(wanted, beside) & ~is_in(beside, rows) & ~wanted.by_prior[:, tf.newaxis]
        blended = (1.0 - share) * self.likeness(wanted.query, beside) + share * strengths
        return (
            share,
            tf.concat([rows, tf.where(new, beside, PADDING)], axis=1),
            tf.concat([scores, blended], axis=1),
        )

    def _filled(
        self, wanted: Wanted, share: tf.Tensor, rows: tf.Tensor, scores: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As many popular products in the empty places as there are, in the order of their scores."""
        by_prior = wanted.by_prior[:, tf.newaxis]
        listed, listed_scores = self._prior.value.lists(wanted.batch)
        popular = tf.broadcast_to(self.popular, [tf.shape(rows)[0], self.popular.shape[0]])
        popular_scores = (1.0 - share) * tf.matmul(wanted.query, self._vectors(self.popular), transpose_b=True)
        filling = tf.concat([tf.where(by_prior, listed, PADDING), tf.where(by_prior, PADDING, popular)], axis=1)
        filling_scores = tf.concat([listed_scores, popular_scores], axis=1)
        usable = self._usable(wanted, filling) & ~is_in(filling, rows)
        # The first of the usable ones, no more of them than places are empty.
        empty = tf.reduce_sum(tf.cast(rows == PADDING, tf.int32), axis=1, keepdims=True)
        usable &= tf.cumsum(tf.cast(usable, tf.int32), axis=1) <= empty
        all_rows = tf.concat([rows, tf.where(usable, filling, PADDING)], axis=1)
        all_scores = tf.concat([scores, tf.where(usable, filling_scores, ABSENT_SCORE)], axis=1)
        return best(all_rows, all_scores, rows.shape[1])
