"""What must be beaten: recent popularity and item-to-item co-occurrence, fitted to the training span."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal, TypeVar

import numpy as np
from scipy import sparse

from trainer.config import EvaluationConfig
from trainer.data import Catalogue, Sequences
from trainer.metrics import mean_ndcg
from trainer.queries import Queries, Split, target_mask
from transform.tables import FIRST

_SECONDS_PER_DAY = 86_400
# Newest interactions of a session or history that are counted together: pairs grow with the square.
_LONGEST_UNIT = 500
# Neighbours kept per product; more hardly change a list of a hundred, and the scores stay sparse.
_NEIGHBOURS = 200
# Newest interactions whose neighbours are summed.
_LONGEST_HISTORY = 100
_ITEMS_AT_ONCE = 4_096

Unit = Literal["session", "history"]
Normalisation = Literal["cosine", "conditional"]
Seen = Literal["recommended", "as_others", "left_out"]
Baseline = TypeVar("Baseline", "RecentPopularity", "CoOccurrence")


@dataclass(frozen=True)
class RecentPopularity:
    """The same list for everybody: products by target events in the last days of the training span.

    Equal counts are ordered by the count of the whole span, then by row.
    """

    days: int | None  # None = the whole training span
    order_scores: np.ndarray  # float32 [V], a whole number per place in that order

    @classmethod
    def fit(
        cls, sequences: Sequences, catalogue: Catalogue, split: Split, config: EvaluationConfig, days: int | None
    ) -> "RecentPopularity":
        """Counts the interactions of the training span that carry a target type."""
        chosen = training_interactions(sequences) & (sequences.labels & target_mask(config.target_types) != 0)
        everything = np.bincount(sequences.rows[chosen], minlength=catalogue.size)
        recent = everything
        if days is not None and split.validation_start is not None:
            chosen &= sequences.timestamps >= split.validation_start - days * _SECONDS_PER_DAY
            recent = np.bincount(sequences.rows[chosen], minlength=catalogue.size)
        # Equal products share a place, so that the rule for ties is the one of every other ranking.
        pairs, places = np.unique(np.stack([recent, everything], axis=1), axis=0, return_inverse=True)
        return cls(days, (places.reshape(-1) + 1 - len(pairs)).astype(np.float32))

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V], at most 0."""
        return np.broadcast_to(self.order_scores, (stop - start, len(self.order_scores)))

    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return {"days": self.days}


@dataclass(frozen=True)
class CoOccurrenceVariant:
    """One way to count. With C[i, j] = sessions (histories) that hold both products:

    normalisation "cosine": C[i, j] / √(C[i, i] · C[j, j]); "conditional": C[i, j] / C[i, i], the share of i's sessions
    that hold j. decay: weight of an interaction of the query's history per step of age. seen, the products of the
    history: "recommended" by themselves (C[i, i]), as where people buy again; "as_others", through other products
    only; or "left_out", behind everything, as where nobody comes back to a product.
    """

    unit: Unit
    normalisation: Normalisation
    decay: float
    seen: Seen


@dataclass(frozen=True)
class CoOccurrence:
    """Products that go along with those of the history: score(j) = Σ_{i in history} decay^age(i) · similarity[i, j].

    Products that go along with none of them follow by popularity; an empty history is answered by popularity alone.
    """

    variant: CoOccurrenceVariant
    similarity: sparse.csr_matrix  # float32 [V, V], at most _NEIGHBOURS a row
    fallback: np.ndarray  # float32 [V], below 0

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]."""
        owners, rows, ages = queries.history(start, stop)
        newest = (ages < _LONGEST_HISTORY) & (rows >= FIRST)
        weights = np.float32(self.variant.decay) ** ages[newest].astype(np.float32)
        shape = (stop - start, self.similarity.shape[0])
        history = sparse.csr_matrix((weights, (owners[newest], rows[newest])), shape)
        scores = (history @ self.similarity).toarray()
        scores = np.where(scores > 0, scores, self.fallback)
        if self.variant.seen == "left_out":
            scores[owners, rows] = self.fallback.min() - 1
        return scores

    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return asdict(self.variant)


def training_interactions(sequences: Sequences) -> np.ndarray:
    """Which interactions lie in the training span and name a known product: bool [N]."""
    places = np.arange(len(sequences.rows)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    return (places < np.repeat(sequences.train_end, sequences.lengths)) & (sequences.rows >= FIRST)


def choose_recent_popularity(
    sequences: Sequences, catalogue: Catalogue, split: Split, config: EvaluationConfig, validations: Sequence[Queries]
) -> list[tuple[RecentPopularity, float]]:
    """For each validation the window of `popularity_days`, or the whole span, with the best NDCG@10; and that."""
    windows: list[int | None] = [None]
    if catalogue.schema.has_timestamps and split.validation_start is not None:
        windows += config.popularity_days
    fitted = (RecentPopularity.fit(sequences, catalogue, split, config, days) for days in windows)
    return _best(fitted, validations)


def choose_co_occurrence(
    sequences: Sequences, catalogue: Catalogue, popularity: RecentPopularity, validations: Sequence[Queries]
) -> list[tuple[CoOccurrence, float]]:
    """For each validation the variant with the best NDCG@10; and that.

    Args:
        sequences: interactions of all shoppers.
        catalogue: all products.
        popularity: what orders products that go along with none of the history.
        validations: queries under each rule for seen products.
    """
    return _best(_variants(sequences, catalogue, popularity), validations)


def similarities(
    sequences: Sequences,
    size: int,
    unit: Unit,
    normalisations: Sequence[Normalisation],
) -> list[sparse.csr_matrix]:
    """Similarity of products by what shares a session (or a history) of the training span, the diagonal included.

    Args:
        sequences: interactions of all shoppers.
        size: V.
        unit: what holds two products that go together; its newest 500 interactions count.
        normalisations: see `CoOccurrenceVariant`.

    Returns:
        float32 [V, V] for each normalisation, the strongest neighbours of each row only.
    """
    members = _membership(sequences, size, unit)
    counts = np.maximum(np.asarray(members.sum(axis=0)).ravel(), 1.0)
    parts: list[list[sparse.csr_matrix]] = [[] for _ in normalisations]
    columns = members.tocsc()
    for start in range(0, size, _ITEMS_AT_ONCE):
        block = (columns[:, start : start + _ITEMS_AT_ONCE].T @ members).tocsr()
        block.sort_indices()
        own = np.repeat(counts[start : start + _ITEMS_AT_ONCE], np.diff(block.indptr))
        for part, normalisation in zip(parts, normalisations, strict=True):
            scaled = block.copy()
            divisor = np.sqrt(own * counts[block.indices]) if normalisation == "cosine" else own
            scaled.data = (block.data / divisor).astype(np.float32)
            part.append(_strongest(scaled, _NEIGHBOURS))
    return [sparse.vstack(part).tocsr() for part in parts]


def _variants(sequences: Sequences, catalogue: Catalogue, popularity: RecentPopularity) -> Iterator[CoOccurrence]:
    scores = popularity.order_scores
    fallback = scores - scores.max() - 1
    # Without a clock a history is one session.
    units: tuple[Unit, ...] = ("session", "history")
    if not catalogue.schema.has_timestamps:
        units = ("history",)
    normalisations: tuple[Normalisation, ...] = ("cosine", "conditional")
    rules: tuple[Seen, ...] = ("left_out", "as_others", "recommended")
    for unit in units:
        matrices = similarities(sequences, catalogue.size, unit, normalisations)
        for normalisation, matrix in zip(normalisations, matrices, strict=True):
            others = _without_diagonal(matrix)
            for seen, decay in product(rules, (1.0, 0.8)):
                variant = CoOccurrenceVariant(unit, normalisation, decay, seen)
                yield CoOccurrence(variant, matrix if seen == "recommended" else others, fallback)


def _best(fitted: Iterator[Baseline], validations: Sequence[Queries]) -> list[tuple[Baseline, float]]:
    """For each validation the first of those with the highest NDCG@10, and that."""
    best: list[tuple[Baseline, float]] = []
    for model in fitted:
        found = [(model, mean_ndcg(_score(model, validation), validation)) for validation in validations]
        best = [max(pair, key=lambda one: one[1]) for pair in zip(best, found, strict=True)] if best else found
    return best


def _score(model: RecentPopularity | CoOccurrence, queries: Queries) -> Callable[[int, int], np.ndarray]:
    return lambda start, stop: model.scores(queries, start, stop)


def _membership(sequences: Sequences, size: int, unit: Unit) -> sparse.csr_matrix:
    """1 where a session (or a history) of the training span holds the product: float32 [units, V]."""
    chosen = training_interactions(sequences)
    owners = np.repeat(np.arange(len(sequences.offsets) - 1), sequences.lengths)[chosen]
    rows = sequences.rows[chosen]
    sessions = sequences.sessions[chosen] if unit == "session" else np.zeros(len(rows), np.int32)
    opens = np.ones(len(rows), bool)
    opens[1:] = (owners[1:] != owners[:-1]) | (sessions[1:] != sessions[:-1])
    units = np.cumsum(opens) - 1
    ends = np.append(np.flatnonzero(opens)[1:], len(rows))
    newest = ends[units] - np.arange(len(rows)) <= _LONGEST_UNIT
    shape = (len(ends), size)
    members = sparse.csr_matrix((np.ones(newest.sum(), np.float32), (units[newest], rows[newest])), shape)
    members.sum_duplicates()
    members.data[:] = 1
    return members


def _strongest(matrix: sparse.csr_matrix, number: int) -> sparse.csr_matrix:
    """The largest `number` of each row of a positive float32 matrix, among equals the lower columns."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    # One key per entry, row before value: the bits of a positive float32 ascend with it. Ten times as fast as lexsort.
    descending = np.uint64(0xFFFFFFFF) - matrix.data.view(np.uint32)
    order = np.argsort((rows.astype(np.uint64) << np.uint64(32)) | descending, kind="stable")
    order = order[np.arange(len(order)) - matrix.indptr[rows] < number]
    return sparse.csr_matrix((matrix.data[order], (rows[order], matrix.indices[order])), matrix.shape)


def _without_diagonal(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    rest = matrix - sparse.diags(matrix.diagonal(), format="csr", dtype=np.float32)
    rest.eliminate_zeros()
    return rest.tocsr()
