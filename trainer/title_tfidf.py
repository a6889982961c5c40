"""Baseline: products whose titles resemble those of the shopper's history; the only one that knows new products."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from trainer.baselines import Chosen, RecentPopularity, Seen, choose_variant, decayed_history, leave_out_seen
from trainer.data import Catalogue
from trainer.queries import Queries
from transform.feature_schema import tokenize


@dataclass(frozen=True)
class TitleTfidfVariant:
    """How a history becomes a profile.

    decay: weight of an interaction per step of age. seen "as_others": without the product's likeness to itself.
    """

    decay: float = 0.9
    seen: Seen = "left_out"


@dataclass(frozen=True)
class TitleTfidf:
    """score(j) = cos(Σ_{i in history} decay^age(i) · t_i, t_j), t the title's TF-IDF vector of unit length.

    Products without a title follow by popularity; so do all where no product of the history has one.
    """

    variant: TitleTfidfVariant
    titles: sparse.csr_matrix  # float32 [V, words], rows of unit length or empty
    popularity: RecentPopularity

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]."""
        history = decayed_history(queries, start, stop, self.variant.decay)
        titled = np.diff(self.titles.indptr) > 0
        profiles = history @ self.titles
        cosines = (profiles @ self.titles.T).toarray()
        if self.variant.seen == "as_others":
            cosines -= history.toarray() * titled
        lengths = np.sqrt(np.asarray(profiles.multiply(profiles).sum(axis=1)))
        scores = self.popularity.behind(cosines / np.where(lengths > 0, lengths, 1), titled & (lengths > 0))
        if self.variant.seen == "left_out":
            leave_out_seen(scores, queries, start, stop)
        return scores

    def settings(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return asdict(self.variant)


def choose_title_tfidf(
    catalogue: Catalogue, popularity: RecentPopularity, validations: Sequence[Queries]
) -> list[Chosen[TitleTfidf]]:
    """For each validation the variant with the best NDCG@10.

    Args:
        catalogue: all products.
        popularity: what orders products without a title.
        validations: queries under each rule for seen products.
    """
    titles = title_vectors(catalogue.titles)

    def build(variant: TitleTfidfVariant) -> TitleTfidf:
        return TitleTfidf(variant, titles, popularity)

    options = {"seen": ("left_out", "as_others", "recommended"), "decay": (1.0, 0.98, 0.9, 0.7, 0.5)}
    return [choose_variant(TitleTfidfVariant(), options, build, validation) for validation in validations]


def title_vectors(titles: np.ndarray) -> sparse.csr_matrix:
    """TF-IDF of titles, words being those of the transform: term count · (ln((1 + n) / (1 + titles with it)) + 1).

    Args:
        titles: object [V], the reserved rows first; "" = none.

    Returns:
        float32 [V, words], rows of length 1; empty ones where there is no title.
    """
    words = tokenize(pa.array(titles.tolist(), pa.string())).to_pylist()
    titled = np.flatnonzero([len(of_title) > 0 for of_title in words])
    if not len(titled):
        return sparse.csr_matrix((len(titles), 1), dtype=np.float32)
    vectorizer = TfidfVectorizer(analyzer=list, dtype=np.float32)
    vectors = vectorizer.fit_transform([words[row] for row in titled])
    places = sparse.csr_matrix(
        (np.ones(len(titled), np.float32), (titled, np.arange(len(titled)))), (len(titles), len(titled))
    )
    return sparse.csr_matrix(places @ vectors)
