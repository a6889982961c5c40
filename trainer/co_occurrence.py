"""Baseline: item-to-item co-occurrence, products that share sessions or histories with those of the query."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy import sparse

from trainer.baselines import (
    Chosen,
    RecentPopularity,
    Seen,
    Unit,
    Units,
    choose_variant,
    decayed_history,
    leave_out_seen,
    strongest,
)
from trainer.data import Catalogue, Sequences
from trainer.queries import Queries

# Neighbours kept per product; more hardly change a list of a hundred, and the scores stay sparse.
_NEIGHBOURS = 200
_ITEMS_AT_ONCE = 4_096

Normalisation = Literal["cosine", "conditional"]


@dataclass(frozen=True)
class CoOccurrenceVariant:
    """One way to count. With C[i, j] = sessions (histories) that hold both products:

    normalisation "cosine": C[i, j] / √(C[i, i] · C[j, j]); "conditional": C[i, j] / C[i, i], the share of i's sessions
    that hold j. decay: weight of an interaction of the query's history per step of age. seen "recommended": the
    diagonal counts too.
    """

    unit: Unit = "session"
    normalisation: Normalisation = "cosine"
    decay: float = 1.0
    seen: Seen = "left_out"


@dataclass(frozen=True)
class CoOccurrence:
    """Products that go along with those of the history: score(j) = Σ_{i in history} decay^age(i) · similarity[i, j].

    Products that go along with none of them follow by popularity; an empty history is answered by popularity alone.
    """

    variant: CoOccurrenceVariant
    similarity: sparse.csr_matrix  # float32 [V, V], at most _NEIGHBOURS a row
    popularity: RecentPopularity

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]."""
        history = decayed_history(queries, start, stop, self.variant.decay)
        scores = (history @ self.similarity).toarray()
        scores = self.popularity.behind(scores, scores > 0)
        if self.variant.seen == "left_out":
            leave_out_seen(scores, queries, start, stop)
        return scores

    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return asdict(self.variant)


def choose_co_occurrence(
    sequences: Sequences, catalogue: Catalogue, popularity: RecentPopularity, validations: Sequence[Queries]
) -> list[Chosen[CoOccurrence]]:
    """For each validation the variant with the best NDCG@10.

    Args:
        sequences: interactions of all shoppers.
        catalogue: all products.
        popularity: what orders products that go along with none of the history.
        validations: queries under each rule for seen products.
    """

    @cache
    def similarity(unit: Unit, normalisation: Normalisation) -> sparse.csr_matrix:
        return similarities(sequences, catalogue.size, unit, normalisation)

    def build(variant: CoOccurrenceVariant) -> CoOccurrence:
        matrix = similarity(variant.unit, variant.normalisation)
        return CoOccurrence(variant, matrix if variant.seen == "recommended" else _without_diagonal(matrix), popularity)

    # Without a clock a history is one session.
    units: tuple[Unit, ...] = ("session", "history") if catalogue.schema.has_timestamps else ("history",)
    options = {
        "seen": ("left_out", "as_others", "recommended"),
        "unit": units,
        "normalisation": ("cosine", "conditional"),
        "decay": (1.0, 0.98, 0.95, 0.8, 0.5),
    }
    start = CoOccurrenceVariant(unit=units[0])
    return [choose_variant(start, options, build, validation) for validation in validations]


def similarities(sequences: Sequences, size: int, unit: Unit, normalisation: Normalisation) -> sparse.csr_matrix:
    """Similarity of products by what shares a session (or a history) of the training span, the diagonal included.

    Args:
        sequences: interactions of all shoppers.
        size: V.
        unit: what holds two products that go together; its newest 500 interactions count.
        normalisation: see `CoOccurrenceVariant`.

    Returns:
        float32 [V, V], the strongest 200 neighbours of each row only.
    """
    members = Units.of(sequences, unit).membership(size)
    counts = np.maximum(np.asarray(members.sum(axis=0)).ravel(), 1.0)
    parts = []
    columns = members.tocsc()
    for start in range(0, size, _ITEMS_AT_ONCE):
        block = (columns[:, start : start + _ITEMS_AT_ONCE].T @ members).tocsr()
        own = np.repeat(counts[start : start + _ITEMS_AT_ONCE], np.diff(block.indptr))
        divisor = np.sqrt(own * counts[block.indices]) if normalisation == "cosine" else own
        block.data = (block.data / divisor).astype(np.float32)
        parts.append(strongest(block, _NEIGHBOURS))
    return sparse.vstack(parts).tocsr()


def _without_diagonal(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    rest = matrix - sparse.diags(matrix.diagonal(), format="csr", dtype=np.float32)
    rest.eliminate_zeros()
    return rest.tocsr()
