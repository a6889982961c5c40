"""Baseline: product vectors by skip-gram over sessions or histories (Prod2Vec)."""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from gensim.models import Word2Vec
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
)
from trainer.data import Catalogue, Sequences
from trainer.queries import Queries

_DIM = 32
_NEGATIVES = 5
# With few interactions the usual rate of 0.025 leaves the vectors near where they began.
_LEARNING_RATE = 0.1
# Pairs of products that are learned from, in all epochs together: seconds, not minutes. A small shop is read up to
# twenty times, a large one at least three.
_PAIRS = 6_000_000
_EPOCHS = (3, 20)


@dataclass(frozen=True)
class Product2VecVariant:
    """One way to learn vectors and to use them.

    unit: what stands for a sentence. window: products on each side that are predicted. decay: weight of an interaction
    of the query's history per step of age. seen "as_others": without the product's likeness to itself.
    """

    unit: Unit = "session"
    window: int = 5
    decay: float = 0.9
    seen: Seen = "left_out"


@dataclass(frozen=True)
class Product2Vec:
    """score(j) = cos(Σ_{i in history} decay^age(i) · v_i, v_j), v of unit length.

    Skip-gram with negative sampling (Mikolov et al. 2013) over what is bought together: Grbovic et al. 2015,
    "E-commerce in your inbox". Products without a vector follow by popularity; so do all where the history has none.
    """

    variant: Product2VecVariant
    vectors: np.ndarray  # float32 [V, dim], unit length; 0 = none
    popularity: RecentPopularity

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]."""
        known = self.vectors.any(axis=1)
        history = decayed_history(queries, start, stop, self.variant.decay) @ sparse.diags(known, dtype=np.float32)
        profiles = history @ self.vectors
        cosines = profiles @ self.vectors.T
        if self.variant.seen == "as_others":
            cosines -= history.toarray()
        # A profile of length 0 is no direction: nothing is known.
        lengths = np.linalg.norm(profiles, axis=1, keepdims=True)
        scores = self.popularity.behind(cosines / np.where(lengths > 0, lengths, 1), known & (lengths > 0))
        if self.variant.seen == "left_out":
            leave_out_seen(scores, queries, start, stop)
        return scores

    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return asdict(self.variant)


def choose_product2vec(
    sequences: Sequences,
    catalogue: Catalogue,
    popularity: RecentPopularity,
    validations: Sequence[Queries],
    seed: int,
) -> list[Chosen[Product2Vec]]:
    """For each validation the variant with the best NDCG@10.

    Args:
        sequences: interactions of all shoppers.
        catalogue: all products.
        popularity: what orders products without a vector.
        validations: queries under each rule for seen products.
        seed: of the first vectors and of the draws.
    """

    @cache
    def vectors(unit: Unit, window: int) -> np.ndarray:
        return fit_vectors(Units.of(sequences, unit), catalogue.size, window, seed)

    def build(variant: Product2VecVariant) -> Product2Vec:
        return Product2Vec(variant, vectors(variant.unit, variant.window), popularity)

    # Without a clock a history is one session.
    units: tuple[Unit, ...] = ("session", "history") if catalogue.schema.has_timestamps else ("history",)
    options = {
        "seen": ("left_out", "as_others", "recommended"),
        "decay": (0.98, 0.9, 0.7, 0.5),
        "unit": units,
        "window": (5, 10),
    }
    start = Product2VecVariant(unit=units[0])
    return [choose_variant(start, options, build, validation) for validation in validations]


def fit_vectors(units: Units, size: int, window: int, seed: int) -> np.ndarray:
    """Vectors of unit length of the products that stand beside another one in a unit: float32 [size, 32]; 0 = none.

    Args:
        units: sentences.
        size: V.
        window: products on each side that are predicted from one.
        seed: of the first vectors and of the draws.
    """
    lengths = np.bincount(units.owners, minlength=len(units.ends))
    several = lengths[units.owners] > 1
    words = units.rows[several].astype(str).tolist()
    stops = np.cumsum(lengths[lengths > 1])
    sentences = [words[stop - length : stop] for stop, length in zip(stops, lengths[lengths > 1], strict=True)]
    vectors = np.zeros((size, _DIM), np.float32)
    if not sentences:
        return vectors
    model = Word2Vec(
        sentences,
        vector_size=_DIM,
        window=window,
        sg=1,
        hs=0,
        negative=_NEGATIVES,
        epochs=_epochs(len(words) * (window + 1)),
        alpha=_LEARNING_RATE,
        # Every product has its vector and every interaction counts.
        min_count=1,
        sample=0,
        # One thread, and no hash that a process salts: the same vectors from the same seed.
        workers=1,
        seed=seed,
        hashfxn=_stable_hash,
    )
    vectors[np.array(model.wv.index_to_key, np.int64)] = model.wv.get_normed_vectors()
    return vectors


def _epochs(pairs: int) -> int:
    """How often data that gives so many pairs is read."""
    fewest, most = _EPOCHS
    return max(fewest, min(most, _PAIRS // pairs))


def _stable_hash(word: str) -> int:
    return zlib.crc32(word.encode())
