"""Baseline: the training span's sessions or histories that are nearest to the query's, and what they hold."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

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

# A query's similarities may be as many as its products times the sample; so many queries at once stay in memory.
_QUERIES_AT_ONCE = 32
# What the query's own history weighs against its neighbours where seen products are recommended.
_OWN_SHARE = 0.5


@dataclass(frozen=True)
class SessionKnnVariant:
    """One way to look for neighbours and to let them vote.

    unit: what a neighbour is. decay: weight of an interaction of the query's history per step of age. neighbours: k.
    sample: newest units that are looked up for each product of the history. idf: products weigh ln(1 + units ÷ units
    that hold it) in the similarity. seen "recommended": the query's own history votes too, with half of the weight.
    """

    unit: Unit = "session"
    decay: float = 1.0
    neighbours: int = 200
    sample: int = 200
    idf: bool = False
    seen: Seen = "left_out"


@dataclass(frozen=True)
class UnitIndex:
    """Which units hold a product, and which products a unit holds; units from the newest to the oldest."""

    members: sparse.csr_matrix  # float32 [units, V], 1 where the unit holds the product
    holders: sparse.csr_matrix  # float32 [V, units], 1 ÷ √|unit| for the newest units that hold the product
    idf: np.ndarray  # float32 [V]

    @classmethod
    def fit(cls, units: Units, size: int, sample: int) -> "UnitIndex":
        """Keeps the `sample` newest units of each product; among equally new ones, the later in the data."""
        members = units.membership(size)[np.argsort(units.ends, kind="stable")[::-1]]
        lengths, held = (np.asarray(members.sum(axis=axis)).ravel() for axis in (1, 0))
        columns = members.tocsc()
        columns.sort_indices()
        product = np.repeat(np.arange(size), np.diff(columns.indptr))
        kept = np.arange(columns.nnz) - columns.indptr[product] < sample
        unit = columns.indices[kept]
        weights = (1 / np.sqrt(lengths[unit])).astype(np.float32)
        holders = sparse.csr_matrix((weights, (product[kept], unit)), (size, len(lengths)))
        return cls(members, holders, np.log1p(len(lengths) / np.maximum(held, 1)).astype(np.float32))


@dataclass(frozen=True)
class SessionKnn:
    """Vector session kNN over an index of the newest sessions of each product.

    similarity(q, n) = Σ_{i in q and n} w_i ÷ (‖w‖ · √|n|), with w_i = Σ decay^age over the history's interactions with
    i, times idf; score(j) = Σ_{k nearest n that hold j} similarity(q, n). Among equally near ones the newest are taken.
    V-SKNN of Ludewig & Jannach 2018, "Evaluation of session-based recommendation algorithms", with the index of
    VMIS-kNN (Kersbergen et al. 2022, "Serenade"). The vote of the own history is TIFU-KNN's (Hu et al. 2020).

    Products that no neighbour holds follow by popularity; an empty history is answered by popularity alone.
    """

    variant: SessionKnnVariant
    index: UnitIndex
    popularity: RecentPopularity

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]."""
        votes = np.zeros((stop - start, self.index.members.shape[1]), np.float32)
        for at in range(start, stop, _QUERIES_AT_ONCE):
            end = min(at + _QUERIES_AT_ONCE, stop)
            votes[at - start : end - start] = self._votes(queries, at, end)
        scores = self.popularity.behind(votes, votes > 0)
        if self.variant.seen == "left_out":
            leave_out_seen(scores, queries, start, stop)
        return scores

    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return asdict(self.variant)

    def _votes(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """What neighbours say, and the own history where it is asked: float32 [B, V], 0 = nothing."""
        history = decayed_history(queries, start, stop, self.variant.decay)
        weights = history @ sparse.diags(self.index.idf, dtype=np.float32) if self.variant.idf else history
        nearest = strongest((weights @ self.index.holders).tocsr(), self.variant.neighbours)
        # Shares of the votes: the length of the history, by which a cosine divides, goes too.
        votes = (_shares(nearest) @ self.index.members).toarray()
        if self.variant.seen == "recommended":
            votes = (1 - _OWN_SHARE) * votes + _OWN_SHARE * _of_the_largest(history).toarray()
        return votes


def choose_session_knn(
    sequences: Sequences, catalogue: Catalogue, popularity: RecentPopularity, validations: Sequence[Queries]
) -> list[Chosen[SessionKnn]]:
    """For each validation the variant with the best NDCG@10.

    Args:
        sequences: interactions of all shoppers.
        catalogue: all products.
        popularity: what orders products that no neighbour holds.
        validations: queries under each rule for seen products.
    """

    @cache
    def index(unit: Unit, sample: int) -> UnitIndex:
        return UnitIndex.fit(Units.of(sequences, unit), catalogue.size, sample)

    def build(variant: SessionKnnVariant) -> SessionKnn:
        return SessionKnn(variant, index(variant.unit, variant.sample), popularity)

    # Without a clock a history is one session.
    units: tuple[Unit, ...] = ("session", "history") if catalogue.schema.has_timestamps else ("history",)
    options = {
        "seen": ("left_out", "as_others", "recommended"),
        "unit": units,
        "decay": (1.0, 0.98, 0.95, 0.8, 0.5),
        "sample": (50, 200, 5_000),
        "neighbours": (50, 200, 1_000),
        "idf": (False, True),
    }
    start = SessionKnnVariant(unit=units[0])
    return [choose_variant(start, options, build, validation) for validation in validations]


def _shares(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows scaled to sum to 1; an empty row stays empty."""
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    return sparse.diags(1 / np.where(sums > 0, sums, 1), dtype=np.float32) @ matrix


def _of_the_largest(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows scaled so that their largest entry is 1; an empty row stays empty."""
    largest = matrix.max(axis=1).toarray().ravel()
    return sparse.diags(1 / np.where(largest > 0, largest, 1), dtype=np.float32) @ matrix
