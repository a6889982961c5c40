"""Likeness of titles as a baseline."""

from dataclasses import replace

import numpy as np
import pytest

from tests.trainer.small_shop import TIME, VIEW, make_catalogue, make_sequences
from trainer.baselines import RecentPopularity
from trainer.config import EvaluationConfig
from trainer.data import Catalogue
from trainer.queries import Queries, build_queries
from trainer.title_tfidf import TitleTfidf, TitleTfidfVariant, choose_title_tfidf, title_vectors

CONFIG = EvaluationConfig()
POPULARITY = RecentPopularity(None, -np.arange(6, dtype=np.float32))
TITLES = np.array(["", "", "Red pot!", "blue POT", "red red pan", ""], dtype=object)


def catalogue() -> Catalogue:
    return replace(make_catalogue(6), titles=TITLES)


def query(history: list[int], truth: int = 2) -> Queries:
    interactions = [(row, 50 + age, VIEW) for age, row in enumerate(history)]
    sequences = make_sequences({"ann": [*interactions, (truth, 150, VIEW)]})
    return build_queries(sequences, catalogue(), TIME, "validation", CONFIG, 4)


def test_rare_words_weigh_more_and_rows_have_unit_length() -> None:
    vectors = title_vectors(TITLES)
    lengths = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel())
    assert lengths == pytest.approx([0, 0, 1, 1, 1, 0])
    # Three titles; "red" and "pot" stand in two, "blue" and "pan" in one.
    common, rare = np.log(4 / 3) + 1, np.log(4 / 2) + 1
    likeness = (vectors @ vectors.T).toarray()
    assert likeness[2, 3] == pytest.approx(common**2 / (np.sqrt(2) * common * np.hypot(common, rare)))
    assert likeness[2, 4] == pytest.approx(2 * common**2 / (np.sqrt(2) * common * np.hypot(2 * common, rare)))
    assert likeness[3, 4] == 0


def test_score_is_the_cosine_with_the_decayed_profile_and_what_has_no_title_follows_by_popularity() -> None:
    vectors = title_vectors(TITLES)
    model = TitleTfidf(TitleTfidfVariant(decay=0.5, seen="recommended"), vectors, POPULARITY)
    scores = model.scores(query([2, 3]), 0, 1)[0]
    likeness = (vectors @ vectors.T).toarray()
    length = np.sqrt(0.25 + 1 + 2 * 0.5 * likeness[2, 3])
    assert scores[2:5] * length == pytest.approx((0.5 * likeness[2] + likeness[3])[2:5], abs=1e-6)
    assert scores[[0, 1, 5]].tolist() == [-1, -2, -6]


def test_as_others_leaves_out_the_likeness_to_itself() -> None:
    vectors = title_vectors(TITLES)
    model = TitleTfidf(TitleTfidfVariant(decay=1.0, seen="as_others"), vectors, POPULARITY)
    scores = model.scores(query([2]), 0, 1)[0]
    assert scores[2:5] == pytest.approx([0, *(vectors @ vectors.T).toarray()[2, 3:5]], abs=1e-6)


def test_without_a_title_in_the_history_popularity_answers() -> None:
    model = TitleTfidf(TitleTfidfVariant(seen="recommended"), title_vectors(TITLES), POPULARITY)
    assert model.scores(query([5]), 0, 1)[0].argsort()[::-1].tolist() == [0, 1, 2, 3, 4, 5]


def test_validation_chooses_whether_seen_products_come_again() -> None:
    for truth, chosen in ((2, ("recommended",)), (4, ("left_out", "as_others"))):
        (found,) = choose_title_tfidf(catalogue(), POPULARITY, [query([2], truth)])
        assert found.baseline.variant.seen in chosen
        assert found.ndcg == 1


def test_a_catalogue_without_titles_has_no_vectors() -> None:
    assert title_vectors(np.full(4, "", dtype=object)).nnz == 0
