"""Baseline: matrix factorisation of implicit feedback, ALS or BPR, as the library `implicit` fits them."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from scipy import sparse
from threadpoolctl import threadpool_limits

from trainer.baselines import (
    Chosen,
    RecentPopularity,
    Seen,
    choose_variant,
    decayed_history,
    fitted_interactions,
    leave_out_seen,
)
from trainer.data import Catalogue, Sequences
from trainer.queries import Queries

_LOG = logging.getLogger(__name__)
_ALS_SWEEPS = 10
_BPR_EPOCHS = 30
# Larger seeds are refused by numpy's older generator, which the library uses.
_SEEDS = 1 << 32


@dataclass(frozen=True)
class AlsVariant:
    """One way to factorise by alternating least squares.

    confidence: α, what one interaction of a shopper with a product counts, beside 1 for a product never met. decay:
    weight of an interaction of the query's history per step of age.
    """

    factors: int = 32
    regularisation: float = 0.1
    confidence: float = 1.0
    decay: float = 1.0
    seen: Seen = "left_out"


@dataclass(frozen=True)
class BprVariant:
    """One way to factorise by Bayesian personalised ranking."""

    factors: int = 64
    regularisation: float = 0.01
    learning_rate: float = 0.05
    seen: Seen = "left_out"


@dataclass(frozen=True)
class Als:
    """score(u, j) = x_u · y_j of Hu, Koren & Volinsky 2008, "Collaborative filtering for implicit feedback datasets".

    x_u is solved for the query's history with the products' factors as they are (fold-in), so that what came after
    training, and shoppers who did, count. Products without training interactions follow by popularity; an empty history
    is answered by popularity alone.
    """

    variant: AlsVariant
    model: AlternatingLeastSquares
    trained: np.ndarray  # bool [V], products with training interactions
    popularity: RecentPopularity

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]."""
        history = decayed_history(queries, start, stop, self.variant.decay)
        with threadpool_limits(1, "blas"):
            shoppers = self.model.recalculate_user(np.arange(stop - start), history)
        answered = (history.getnnz(axis=1) > 0)[:, None] & self.trained
        scores = self.popularity.behind(shoppers @ self.model.item_factors.T, answered)
        if self.variant.seen == "left_out":
            leave_out_seen(scores, queries, start, stop)
        return scores

    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return {"model": "als", **asdict(self.variant)}


@dataclass(frozen=True)
class Bpr:
    """score(u, j) = x_u · y_j + b_j of Rendle et al. 2009, "BPR: Bayesian personalized ranking from implicit feedback".

    x_u is the factor that training gave the shopper: it knows nothing later, and shoppers who came after training are
    answered by popularity alone. Products without training interactions follow by popularity.
    """

    variant: BprVariant
    shoppers: np.ndarray  # float32 [U, factors + 1]
    products: np.ndarray  # float32 [V, factors + 1]
    trained_shoppers: np.ndarray  # bool [U]
    trained: np.ndarray  # bool [V]
    popularity: RecentPopularity

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]."""
        users = queries.users[start:stop]
        answered = self.trained_shoppers[users][:, None] & self.trained
        scores = self.popularity.behind(self.shoppers[users] @ self.products.T, answered)
        if self.variant.seen == "left_out":
            leave_out_seen(scores, queries, start, stop)
        return scores

    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return {"model": "bpr", **asdict(self.variant)}


def choose_matrix_factorisation(
    sequences: Sequences,
    catalogue: Catalogue,
    popularity: RecentPopularity,
    validations: Sequence[Queries],
    seed: int,
) -> list[Chosen[Als | Bpr]]:
    """For each validation the variant of ALS or BPR with the best NDCG@10.

    Args:
        sequences: interactions of all shoppers.
        catalogue: all products.
        popularity: what orders products that no factor tells of.
        validations: queries under each rule for seen products.
        seed: of the first factors and of BPR's draws.
    """
    counts = interaction_counts(sequences, catalogue.size)
    best: list[Chosen[Als | Bpr]] = []
    squares = choose_als(counts, popularity, validations, seed)
    pairs = choose_bpr(counts, popularity, validations, seed)
    for als, bpr in zip(squares, pairs, strict=True):
        _LOG.info("evaluate: matrix factorisation on validation: ALS %.4f, BPR %.4f", als.ndcg, bpr.ndcg)
        best.append(Chosen(*als) if als.ndcg >= bpr.ndcg else Chosen(*bpr))
    return best


def choose_als(
    counts: sparse.csr_matrix, popularity: RecentPopularity, validations: Sequence[Queries], seed: int
) -> list[Chosen[Als]]:
    """For each validation the variant of ALS with the best NDCG@10; see `choose_matrix_factorisation`."""
    trained = counts.getnnz(axis=0) > 0

    @cache
    def fitted(factors: int, regularisation: float, confidence: float) -> AlternatingLeastSquares:
        # The rows of a sweep are independent, so that the number of threads changes nothing.
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                factors, regularisation, confidence, iterations=_ALS_SWEEPS, random_state=seed % _SEEDS
            )
            model.fit(counts, show_progress=False)
        return model

    def build(variant: AlsVariant) -> Als:
        model = fitted(variant.factors, variant.regularisation, variant.confidence)
        return Als(variant, model, trained, popularity)

    options = {
        "seen": ("left_out", "recommended"),
        "decay": (1.0, 0.98, 0.9, 0.7),
        "confidence": (1.0, 10.0),
        "factors": (32, 128),
        "regularisation": (0.1, 10.0),
    }
    return [choose_variant(AlsVariant(), options, build, validation) for validation in validations]


def choose_bpr(
    counts: sparse.csr_matrix, popularity: RecentPopularity, validations: Sequence[Queries], seed: int
) -> list[Chosen[Bpr]]:
    """For each validation the variant of BPR with the best NDCG@10; see `choose_matrix_factorisation`."""
    trained, trained_shoppers = counts.getnnz(axis=0) > 0, counts.getnnz(axis=1) > 0

    @cache
    def fitted(factors: int, regularisation: float, learning_rate: float) -> BayesianPersonalizedRanking:
        # Several threads would write to the same factors without locks (Hogwild), in an order of their own.
        model = BayesianPersonalizedRanking(
            factors,
            learning_rate,
            regularisation,
            iterations=_BPR_EPOCHS,
            num_threads=1,
            random_state=seed % _SEEDS,
        )
        model.fit(counts, show_progress=False)
        return model

    def build(variant: BprVariant) -> Bpr:
        model = fitted(variant.factors, variant.regularisation, variant.learning_rate)
        return Bpr(variant, model.user_factors, model.item_factors, trained_shoppers, trained, popularity)

    options = {
        "seen": ("left_out", "recommended"),
        "regularisation": (0.01, 0.001),
    }
    return [choose_variant(BprVariant(), options, build, validation) for validation in validations]


def interaction_counts(sequences: Sequences, size: int) -> sparse.csr_matrix:
    """How often a shopper met a product in the interactions that baselines are fitted to: float32 [U, V]."""
    chosen = fitted_interactions(sequences)
    shoppers = np.repeat(np.arange(len(sequences.offsets) - 1), sequences.lengths)[chosen]
    shape = (len(sequences.offsets) - 1, size)
    counts = sparse.csr_matrix((np.ones(len(shoppers), np.float32), (shoppers, sequences.rows[chosen])), shape)
    counts.sum_duplicates()
    return counts
