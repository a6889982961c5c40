"""How many of the nearest products an index finds, how fast, and the least effort that finds enough."""

import logging
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import tensorflow as tf

from trainer.index import ABSENT_SCORE, BruteForceIndex, Index, SearchEffort
from transform.tables import FIRST

log = logging.getLogger(__name__)

# Neighbours that recall is measured at.
RECALL_AT = 100
# Scores this close count as a tie: float32 sums of products in another order differ by less.
_TIE = 1e-5
# Recall that no further effort is worth.
_AS_GOOD = 0.005
_QUERY_BLOCK = 64
_TIMED_RUNS = 3


def tune(index: Index, queries: np.ndarray, exact: BruteForceIndex, target_recall: float) -> float:
    """Sets both efforts of the index to the least with recall@100 of at least `target_recall` over `queries` [Q, D].

    Where none reaches that (rounded vectors may leave out what is near), the least that finds as much as any, but for
    half a percent.

    Returns:
        The recall reached.
    """
    recall = _raise_thorough(index, index.efforts(), queries, exact, target_recall)
    index.effort = index.thorough_effort
    return recall


def tune_thoroughly(index: Index, queries: np.ndarray, exact: BruteForceIndex, target_recall: float) -> float:
    """As `tune`, but raises the thorough effort alone, from where it is: call it after `tune`, for each further kind of
    queries."""
    efforts = index.efforts()
    remaining = efforts[efforts.index(index.thorough_effort) :]
    return _raise_thorough(index, remaining, queries, exact, target_recall)


def _raise_thorough(
    index: Index, efforts: Sequence[SearchEffort], queries: np.ndarray, exact: BruteForceIndex, target_recall: float
) -> float:
    """Tries efforts in their order until one is enough."""
    truth = kth_scores(exact, queries)
    tried: list[tuple[SearchEffort, float]] = []
    for effort in efforts:
        index.thorough_effort = effort
        recall = _recall(index, queries, truth, thorough=True)
        log.info("index: effort %s finds %.4f of the %d nearest", effort, recall, RECALL_AT)
        if recall >= target_recall:
            return recall
        tried.append((effort, recall))
    enough = max(recall for _, recall in tried) - _AS_GOOD
    index.thorough_effort, recall = next((effort, recall) for effort, recall in tried if recall >= enough)
    return recall


def kth_scores(exact: BruteForceIndex, queries: np.ndarray) -> np.ndarray:
    """Score of the 100th nearest product (or the last, if there are fewer) of each query: [Q, D] → [Q, 1]."""
    scores = _search(exact, queries)[0]
    return np.where(scores > ABSENT_SCORE, scores, np.inf).min(axis=1, keepdims=True)


def recall_at_100(index: Index, exact: BruteForceIndex, queries: np.ndarray, thorough: bool = False) -> float:
    """Share of the 100 nearest products that `index` finds, over queries [Q, D], with the thorough effort if asked.

    A product found counts if its score reaches that of the 100th nearest: products with one vector are as good as
    each other.
    """
    return _recall(index, queries, kth_scores(exact, queries), thorough)


def milliseconds_per_query(index: Index, queries: np.ndarray, k: int) -> float:
    """Wall-clock milliseconds of a search inside a graph, queries [Q, D] one by one; the best of three runs."""

    def search_each(queries: tf.Tensor) -> tf.Tensor:
        best = tf.TensorSpec([], tf.int32)
        one = partial(_best_row, index, k)
        return tf.map_fn(one, queries, parallel_iterations=1, fn_output_signature=best)

    spec = [tf.TensorSpec([None, queries.shape[1]])]
    search = tf.function(search_each, input_signature=spec, autograph=False)
    given = tf.constant(queries, tf.float32)
    search(given[:1])
    seconds = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        search(given)
        seconds.append(time.perf_counter() - start)
    return min(seconds) * 1e3 / len(queries)


def _best_row(index: Index, k: int, query: tf.Tensor) -> tf.Tensor:
    return index(query[tf.newaxis], k=k)[1][0, 0]


def _search(index: Index, queries: np.ndarray, thorough: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the 100 nearest, [Q, 100] each."""
    found = [
        index(
            tf.constant(queries[start : start + _QUERY_BLOCK], tf.float32),
            k=max(index.neighbours, RECALL_AT),
            thorough=thorough,
        )
        for start in range(0, len(queries), _QUERY_BLOCK)
    ]
    return (
        np.concatenate([scores[:, :RECALL_AT] for scores, _ in found]),
        np.concatenate([rows[:, :RECALL_AT] for _, rows in found]),
    )


def _recall(index: Index, queries: np.ndarray, kth: np.ndarray, thorough: bool = False) -> float:
    scores, rows = _search(index, queries, thorough)
    hits = (rows >= FIRST) & (scores >= kth - _TIE)
    return float(hits.sum() / (len(queries) * min(RECALL_AT, index.size)))
