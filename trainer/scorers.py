"""Scores for queries, from whatever can give them: models, baselines, a known truth."""

from typing import Protocol

import numpy as np
import tensorflow as tf

from trainer.candidate_features import Candidates, ProductFacts, product_facts
from trainer.candidate_head import CandidateHead
from trainer.data import Catalogue
from trainer.queries import BLOCK, Queries
from trainer.ranker import Ranker
from trainer.retrieval import RetrievalModel

# Scores of a block, at most: 256 MiB of float32.
_LARGEST_BLOCK = 1 << 26


class Scorer(Protocol):
    """Anything that orders the catalogue for a query."""

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): [B, V], aligned with the catalogue rows; higher is better."""


class Oracle(Protocol):
    """The truth of a simulated shop."""

    def scores(self, user_ids: np.ndarray, context_timestamps: np.ndarray) -> np.ndarray:
        """Expected next-choice probabilities of shoppers [B] at times [B] (seconds): [B, V]."""


class RetrievalScorer:
    """Stage one alone, exact: the dot product of query and product vectors."""

    def __init__(self, model: RetrievalModel, block: int) -> None:
        self._length, self._block = model.config.history_length, block
        table = model.item_table()
        products = model.project_items(table)

        # No Python control flow depends on a tensor, and converting it would take ten seconds.
        @tf.function(autograph=False)
        def score(batch: dict[str, tf.Tensor]) -> tf.Tensor:
            return tf.matmul(model.query_embeddings(batch, table), products, transpose_b=True)

        self._score = score

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]."""
        batch = queries.batch(start, stop, size=self._block, history_length=self._length)
        return self._score(batch).numpy()[: stop - start]


class RankerScorer:
    """Stage two over the whole catalogue."""

    def __init__(self, model: Ranker, block: int) -> None:
        self._length, self._block = model.config.history_length, block
        table = model.item_table()

        # No Python control flow depends on a tensor, and converting it would take ten seconds.
        @tf.function(autograph=False)
        def score(batch: dict[str, tf.Tensor]) -> tf.Tensor:
            return model.score_catalogue(model.encode(batch, table), table)

        self._score = score

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]."""
        batch = queries.batch(start, stop, size=self._block, history_length=self._length)
        return self._score(batch).numpy()[: stop - start]


class HeadScorer:
    """Stage two as it answers: the candidate head over the candidates of stage one."""

    def __init__(self, head: CandidateHead, ranker: Ranker, catalogue: Catalogue, block: int) -> None:
        self._length, self._block = ranker.config.history_length, block
        table = ranker.item_table()
        facts = ProductFacts(*(tf.constant(values) for values in product_facts(catalogue)))

        # No Python control flow depends on a tensor, and converting it would take ten seconds.
        @tf.function(autograph=False)
        def score(
            batch: dict[str, tf.Tensor], rows: tf.Tensor, ranker_scores: tf.Tensor, retrieval_scores: tf.Tensor
        ) -> tf.Tensor:
            return head(Candidates(rows, batch, table, facts), ranker_scores, retrieval_scores)

        self._score = score

    def scores(
        self, queries: Queries, start: int, rows: np.ndarray, ranker_scores: np.ndarray, retrieval_scores: np.ndarray
    ) -> np.ndarray:
        """Scores of candidates of consecutive queries.

        Args:
            queries: whose candidates they are.
            start: first query.
            rows: int32 [B, C] catalogue rows; 0 = none.
            ranker_scores: float32 [B, C].
            retrieval_scores: float32 [B, C].

        Returns:
            float32 [B, C].
        """
        batch = queries.batch(start, start + len(rows), size=self._block, history_length=self._length)
        fill = ((0, self._block - len(rows)), (0, 0))
        given = (np.pad(values, fill) for values in (rows, ranker_scores, retrieval_scores))
        return self._score(batch, *given).numpy()[: len(rows)]


class OracleScorer:
    """The best attainable ranking at a cut-off."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): [B, V]."""
        user_ids = queries.sequences.user_ids[queries.users[start:stop]]
        return self._oracle.scores(user_ids, queries.context_timestamps[start:stop])


def block_size(catalogue_size: int) -> int:
    """Queries to score at once, so that the scores of a block stay below 256 MiB."""
    return max(1, min(BLOCK, _LARGEST_BLOCK // catalogue_size))
