"""What the ranks of the right answers, and the lists themselves, say about a ranking."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from protos.feature_schema_pb2 import Feature
from trainer.data import Catalogue
from trainer.queries import BLOCK, Batch, Lists, Queries
from trainer.ranking import order_keys, rank_truth
from transform.tables import FIRST

ScoreBlock = Callable[[Batch], np.ndarray]
COVERAGE_LENGTH = 100
LIST_LENGTH = 10


def per_query(values: np.ndarray, truth: Lists) -> np.ndarray:
    """Sum over the truth of each query: [T] → float64 [Q]."""
    return np.bincount(truth.owners, weights=values, minlength=len(truth.offsets) - 1)


def recall(ranks: np.ndarray, truth: Lists, cutoff: int) -> np.ndarray:
    """recall@k = truth with rank ≤ k ÷ |truth|; per query, float64 [Q]."""
    return per_query(ranks <= cutoff, truth) / truth.lengths


def hit_rate(ranks: np.ndarray, truth: Lists, cutoff: int) -> np.ndarray:
    """hit_rate@k = 1 if any of the truth has rank ≤ k, else 0; per query, float64 [Q]."""
    return (per_query(ranks <= cutoff, truth) > 0).astype(np.float64)


def ndcg(ranks: np.ndarray, truth: Lists, cutoff: int) -> np.ndarray:
    """Normalised discounted cumulative gain with binary gain (Järvelin & Kekäläinen 2002); per query, float64 [Q].

    ndcg@k = Σ_{truth with rank ≤ k} 1 / log₂(1 + rank)  ÷  Σ_{j = 1 … min(k, |truth|)} 1 / log₂(1 + j)

    The ideal ranking has the whole truth in front, so a perfect list scores 1 however long the truth is.
    """
    gains = np.where(ranks <= cutoff, 1 / np.log2(1.0 + ranks), 0.0)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2.0, cutoff + 2)))])
    return per_query(gains, truth) / ideal[np.minimum(truth.lengths, cutoff)]


def average_precision(ranks: np.ndarray, truth: Lists, cutoff: int) -> np.ndarray:
    """map@k = Σ_{truth with rank r ≤ k} (truth with rank ≤ r) / r  ÷  |truth|; per query, float64 [Q].

    As trec_eval's map_cut and RecTools' MAP: the divisor is |truth| even where k is smaller, so that a list of k
    cannot reach 1 for a longer truth.
    """
    places = _places(ranks, truth)
    return per_query(np.where(ranks <= cutoff, places / ranks, 0.0), truth) / truth.lengths


def reciprocal_rank(ranks: np.ndarray, truth: Lists) -> np.ndarray:
    """mrr = 1 ÷ the best rank of the truth, in the whole ranking; per query, float64 [Q]."""
    return per_query(np.where(_places(ranks, truth) == 1, 1 / ranks, 0.0), truth)


def auc(ranks: np.ndarray, truth: Lists, candidates: np.ndarray) -> np.ndarray:
    """Share of pairs (product of the truth, other candidate) that stand in the right order; per query, float64 [Q].

    The Mann–Whitney statistic of the ranking as it would be shown: a tie of scores counts by where its products stand
    (the lower row first), not as a half, since an order is all that two stages together have. NaN where every
    candidate is the truth.

    Args:
        ranks: int64 [T].
        truth: of Q queries.
        candidates: int64 [Q], products ranked.
    """
    size = truth.lengths
    # Behind the i-th of m right products at rank r stand N − r candidates, of which m − i are right.
    behind = per_query(candidates[truth.owners] - ranks - (size[truth.owners] - _places(ranks, truth)), truth)
    pairs = size * (candidates - size)
    return np.divide(behind, pairs, out=np.full(len(size), np.nan), where=pairs > 0)


def ranking_metrics(
    ranks: np.ndarray, truth: Lists, candidates: np.ndarray, cutoffs: Sequence[int]
) -> dict[str, np.ndarray]:
    """Every metric that ranks decide: name → float64 [Q]. Each query needs at least one product of truth."""
    values = {"mrr": reciprocal_rank(ranks, truth), "auc": auc(ranks, truth, candidates)}
    for cutoff in cutoffs:
        values[f"recall@{cutoff}"] = recall(ranks, truth, cutoff)
        values[f"ndcg@{cutoff}"] = ndcg(ranks, truth, cutoff)
        values[f"map@{cutoff}"] = average_precision(ranks, truth, cutoff)
        values[f"hit_rate@{cutoff}"] = hit_rate(ranks, truth, cutoff)
    return values


def coverage(lists: np.ndarray, candidates: int) -> float:
    """coverage@k = products in at least one list ÷ products that are a candidate of some query.

    Args:
        lists: int32 [Q, k] catalogue rows, 0 = none.
        candidates: that divisor.
    """
    return float((np.unique(lists) >= FIRST).sum() / max(1, candidates))


def novelty(lists: np.ndarray, train_counts: np.ndarray) -> np.ndarray:
    """Mean over the list of −log₂ of the product's share of the training interactions, in bits; float64 [Q].

    share = (count + 1) ÷ (Σ counts + products): one is added to every count so that products new since training are
    finite (Laplace). Zhou et al. 2010, "Solving the apparent diversity-accuracy dilemma of recommender systems".
    """
    bits = -np.log2((train_counts + 1) / (train_counts.sum() + len(train_counts) - FIRST))
    return _list_means(bits, lists)


def average_popularity(lists: np.ndarray, train_counts: np.ndarray) -> np.ndarray:
    """Mean over the list of the product's share of the training interactions; float64 [Q].

    The average recommendation popularity of Yin et al. 2012, "Challenging the long tail recommendation", in shares
    instead of counts, so that days with more data compare with days with less.
    """
    return _list_means(train_counts / max(1, train_counts.sum()), lists)


def class_shares(lists: np.ndarray, classes: np.ndarray, number: int) -> np.ndarray:
    """Share of each list that belongs to each class of products: float64 [Q, number]; an empty list has none of any.

    Args:
        lists: int32 [Q, k] catalogue rows, 0 = none.
        classes: int64 [V] in [0, number).
        number: of classes.
    """
    shares = [_list_means((classes == one).astype(np.float64), lists) for one in range(number)]
    return np.stack(shares, axis=1)


def exposures(lists: np.ndarray, size: int) -> np.ndarray:
    """How often each product stands in a list: int64 [size], the reserved rows with 0."""
    counts = np.bincount(lists.ravel(), minlength=size)
    counts[:FIRST] = 0
    return counts


def gini(counts: np.ndarray) -> float:
    """Gini index of how unequally `counts`, [n], are spread: 0 = all alike, (n − 1) / n = one has everything.

    Σ_i (2i − n − 1) · c_i  ÷  (n · Σ c) with c ascending and i from 1, as in Adomavicius & Kwon 2012, "Improving
    aggregate recommendation diversity using ranking-based techniques". 0 where there is nothing to spread.
    """
    ascending, number = np.sort(counts), len(counts)
    total = float(ascending.sum())
    if not total:
        return 0.0
    return float((2 * np.arange(1, number + 1) - number - 1) @ ascending) / (number * total)


def content_vectors(catalogue: Catalogue) -> sparse.csr_matrix | None:
    """Content of the products as unit vectors, float64 [V, F]: one dimension per category (every prefix of the path),
    brand, attribute value and title word. None for a catalogue of ids alone.
    """
    parts = []
    for feature in catalogue.schema.item:
        # A price bucket or a cross says again what others say.
        if feature.kind not in (Feature.NUMERIC, Feature.VECTOR) and not (feature.crossed or feature.boundaries):
            ids = catalogue.features[feature.name]
            # What shares a bucket is not the same.
            rows, columns = np.nonzero((ids >= FIRST) & (ids < feature.vocabulary_size))
            shape = (catalogue.size, int(ids.max(initial=0)) + 1)
            parts.append(sparse.csr_matrix((np.ones(len(rows)), (rows, ids[rows, columns])), shape))
    if not parts:
        return None
    content = sparse.hstack(parts).tocsr()
    content.data[:] = 1.0
    lengths = np.sqrt(np.asarray(content.sum(axis=1)).ravel())
    return sparse.diags(1 / np.maximum(lengths, 1)) @ content


def diversity(lists: np.ndarray, content: sparse.csr_matrix) -> np.ndarray:
    """1 − the mean cosine of the contents of two products of the list; float64 [Q].

    A product without content is like no other. Σ_{i≠j} cos = |Σ vectors|² − Σ |vector|². Ziegler et al. 2005,
    "Improving recommendation lists through topic diversification".

    Args:
        lists: int32 [Q, k], k ≥ 2; 0 = none.
        content: unit vectors of `content_vectors`, [V, F].
    """
    queries, width = lists.shape
    owners = np.repeat(np.arange(queries), width)
    valid = (lists >= FIRST).ravel().astype(np.float64)
    members = sparse.csr_matrix((valid, (owners, lists.ravel())), (queries, content.shape[0]))
    sums, squares = members @ content, members @ content.multiply(content).sum(axis=1)
    pairs = valid.reshape(queries, width).sum(axis=1)
    pairs *= pairs - 1
    similar = np.asarray(sums.multiply(sums).sum(axis=1)).ravel() - np.asarray(squares).ravel()
    return 1 - similar / np.maximum(pairs, 1)


def mean_ndcg(score: Callable[[int, int], np.ndarray], queries: Queries, cutoff: int = 10, block: int = BLOCK) -> float:
    """Mean NDCG@cutoff over the queries, each ranking all its candidates.

    Args:
        score: [start, stop) of a block of queries → scores [stop − start, V], aligned with the catalogue rows.
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
        truth = queries.truth.take(np.arange(start, stop))
        keys = order_keys(score(start, stop), queries.excluded(start, stop))
        total += float(ndcg(rank_truth(keys, truth, limit=cutoff), truth, cutoff).sum())
    return total / len(queries)


def validation_ndcg(score_block: ScoreBlock, queries: Queries, cutoff: int = 10, block: int = BLOCK) -> float:
    """`mean_ndcg` of a model.

    Args:
        score_block: model batch of exactly `block` rows (the last one is filled up with empty histories, so that a
            compiled function is traced once) → scores [block, V], aligned with the catalogue rows.
        queries: at least one.
        cutoff: length of the list that counts.
        block: queries at once.
    """

    def score(start: int, stop: int) -> np.ndarray:
        return score_block(queries.batch(start, stop, size=block))[: stop - start]

    return mean_ndcg(score, queries, cutoff, block)


def _list_means(values: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Mean of the products' values, [V], over each list, [Q, k] with 0 = none: float64 [Q]; 0 for an empty list."""
    valid = lists >= FIRST
    return (values[lists] * valid).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)


def _places(ranks: np.ndarray, truth: Lists) -> np.ndarray:
    """Place of each product among the truth of its query, by rank: int64 [T], 1 = best."""
    order = np.lexsort((ranks, truth.owners))
    places = np.empty(len(ranks), np.int64)
    places[order] = np.arange(len(ranks)) - truth.offsets[truth.owners] + 1
    return places
