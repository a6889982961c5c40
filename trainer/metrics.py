"""What the ranks of the right answers say about a ranking."""

from collections.abc import Callable

import numpy as np

from trainer.queries import BLOCK, Batch, Lists, Queries
from trainer.ranking import order_keys, rank_truth

ScoreBlock = Callable[[Batch], np.ndarray]


def ndcg(ranks: np.ndarray, truth: Lists, cutoff: int) -> np.ndarray:
    """Normalised discounted cumulative gain with binary gain (Järvelin & Kekäläinen 2002), per query, float64 [Q].

    ndcg@k = Σ_{truth with rank ≤ k} 1 / log₂(1 + rank)  ÷  Σ_{j = 1 … min(k, |truth|)} 1 / log₂(1 + j)

    The ideal ranking has every product of the truth in front, so a perfect list scores 1 however long the truth is.
    A query without truth scores NaN.
    """
    gains = np.where(ranks <= cutoff, 1 / np.log2(1.0 + ranks), 0.0)
    ideal = np.concatenate([[np.nan], np.cumsum(1 / np.log2(np.arange(2.0, cutoff + 2)))])
    return per_query(gains, truth) / ideal[np.minimum(truth.lengths, cutoff)]


def per_query(values: np.ndarray, truth: Lists) -> np.ndarray:
    """Sum over the truth of each query: [T] → float64 [Q]."""
    return np.bincount(truth.owners, weights=values, minlength=len(truth.offsets) - 1)


def validation_ndcg(score_block: ScoreBlock, queries: Queries, cutoff: int = 10, block: int = BLOCK) -> float:
    """Mean NDCG@cutoff over the queries, each ranking all its candidates.

    Args:
        score_block: model batch of exactly `block` rows (the last one filled up with empty histories, so that a
            compiled function is traced once) → scores [block, V], aligned with the catalogue rows.
        queries: at least one.
        cutoff: length of the list that counts.
        block: queries at once.

    Raises:
        ValueError: there is no query, or a score is not finite.
    """
    if not len(queries):
        raise ValueError(f"NDCG@{cutoff} needs at least one query, received 0: {queries.counts}.")
    total = 0.0
    for start, stop in queries.blocks(block):
        scores = score_block(queries.batch(start, stop, size=block))[: stop - start]
        truth = queries.truth.take(np.arange(start, stop))
        keys = order_keys(scores, queries.excluded(start, stop))
        total += float(ndcg(rank_truth(keys, truth), truth, cutoff).sum())
    return total / len(queries)
