"""Session kNN."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from tests.trainer.small_shop import TIME, VIEW, make_catalogue, make_sequences
from trainer.baselines import RecentPopularity, Units
from trainer.config import EvaluationConfig
from trainer.data import Sequences
from trainer.queries import Queries, build_queries
from trainer.session_knn import SessionKnn, SessionKnnVariant, UnitIndex, choose_session_knn

CONFIG = EvaluationConfig()
# Histories {2, 3}, {2, 3, 4, 5} and {4, 6}, all of the training span; dan asks.
SHOPPERS = {
    "ann": [(2, 10, VIEW), (3, 11, VIEW)],
    "bob": [(2, 20, VIEW), (3, 21, VIEW), (4, 22, VIEW), (5, 23, VIEW)],
    "cy": [(4, 30, VIEW), (6, 31, VIEW)],
}


def make_knn(sequences: Sequences, size: int, variant: SessionKnnVariant) -> SessionKnn:
    index = UnitIndex.fit(Units.of(sequences, variant.unit), size, variant.sample)
    return SessionKnn(variant, index, RecentPopularity(None, np.zeros(size, np.float32)))


def asked_after(history: list[int], size: int) -> Queries:
    """One query with that history, of a shopper who is not among those of `SHOPPERS`."""
    interactions = [(row, 50 + age, VIEW) for age, row in enumerate(history)]
    sequences = make_sequences({"dan": [*interactions, (2, 150, VIEW)]})
    return build_queries(sequences, make_catalogue(size), TIME, "validation", CONFIG, 4)


def test_neighbours_vote_with_their_cosine() -> None:
    queries = asked_after([4, 2], 8)
    model = make_knn(make_sequences(SHOPPERS), 8, SessionKnnVariant("history", decay=0.5, seen="as_others"))
    # Weights: 2 has 1, 4 has 1/2. Times the neighbour's 1 ÷ √length: ann 1/√2, bob 1.5/2, cy 0.5/√2; as shares.
    ann, bob, cy = np.array([1 / np.sqrt(2), 0.75, 0.5 / np.sqrt(2)]) / (1.5 / np.sqrt(2) + 0.75)
    expected = [ann + bob, ann + bob, bob + cy, bob, cy]
    assert model.scores(queries, 0, 1)[0, 2:7] == pytest.approx(expected)


def test_only_the_nearest_neighbours_vote() -> None:
    variant = SessionKnnVariant("history", decay=0.5, neighbours=1, seen="as_others")
    model = make_knn(make_sequences(SHOPPERS), 8, variant)
    scores = model.scores(asked_after([4, 2], 8), 0, 1)[0]
    # Bob alone; what he does not hold follows by popularity, here a tie.
    assert scores[2:] == pytest.approx([1, 1, 1, 1, -1, -1])


def test_only_the_newest_units_of_a_product_are_looked_up() -> None:
    variant = SessionKnnVariant("history", sample=1, seen="as_others")
    model = make_knn(make_sequences(SHOPPERS), 8, variant)
    # Of 4 the newest holder is cy, so that bob is not found by it.
    assert model.scores(asked_after([4], 8), 0, 1)[0, 2:7] == pytest.approx([-1, -1, 1, -1, 1])


def test_rare_products_weigh_more_with_idf() -> None:
    # 2 is everywhere, 3 is rare: the neighbour that shares 3 wins only with idf, being longer.
    shoppers = {f"often{n}": [(2, 10, VIEW), (5, 11, VIEW)] for n in range(6)}
    shoppers["rare"] = [(3, 10, VIEW), (6, 11, VIEW), (7, 12, VIEW)]
    queries, sequences = asked_after([3, 2], 8), make_sequences(shoppers)
    variants = [SessionKnnVariant("history", neighbours=1, idf=idf, seen="as_others") for idf in (False, True)]
    plain, weighted = (make_knn(sequences, 8, variant).scores(queries, 0, 1)[0] for variant in variants)
    assert plain[5] > plain[6]
    assert weighted[6] > weighted[5]


def test_own_history_votes_with_half_of_the_weight_where_seen_products_are_recommended() -> None:
    variant = SessionKnnVariant("history", decay=0.5, neighbours=1, seen="recommended")
    model = make_knn(make_sequences(SHOPPERS), 8, variant)
    scores = model.scores(asked_after([4, 2], 8), 0, 1)[0]
    # Bob gives 1/2 to each of his; the own history 1/2 to 2, its largest, and half of that to 4.
    assert scores[2:6] == pytest.approx([1.0, 0.5, 0.75, 0.5])


def test_seen_products_stand_behind_everything_where_they_are_left_out() -> None:
    model = make_knn(make_sequences(SHOPPERS), 8, SessionKnnVariant("history"))
    scores = model.scores(asked_after([4, 2], 8), 0, 1)[0]
    assert max(scores[[2, 4]]) < min(np.delete(scores, [2, 4]))


def test_unknown_history_is_answered_by_popularity() -> None:
    sequences = make_sequences(SHOPPERS)
    index = UnitIndex.fit(Units.of(sequences, "history"), 8, 10)
    popularity = RecentPopularity(None, -np.arange(8, dtype=np.float32))
    model = SessionKnn(SessionKnnVariant("history", seen="as_others"), index, popularity)
    assert np.argsort(-model.scores(asked_after([7], 8), 0, 1)[0]).tolist() == list(range(8))


@settings(max_examples=20)
@given(st.lists(st.sets(st.integers(2, 9), min_size=1), min_size=3, max_size=40), st.integers(1, 5))
def test_scores_are_those_of_a_dense_search(histories: list[set[int]], neighbours: int) -> None:
    shoppers = {f"u{n}": [(row, 1 + n, VIEW) for row in sorted(held)] for n, held in enumerate(histories)}
    sequences, queries = make_sequences(shoppers), asked_after([2, 5, 7], 10)
    variant = SessionKnnVariant("history", neighbours=neighbours, sample=1_000, seen="as_others")
    members = np.array([[row in held for row in range(10)] for held in histories], float)
    asked = np.isin(np.arange(10), [2, 5, 7]).astype(float)
    similarity = cosine_similarity(asked[None], members)[0]
    nearest = np.lexsort((-np.arange(len(histories)), -similarity.round(6)))[:neighbours]
    votes = similarity[nearest] @ members[nearest]
    scores = make_knn(sequences, 10, variant).scores(queries, 0, 1)[0]
    if votes.any():
        assert np.maximum(scores, 0) * similarity[nearest].sum() == pytest.approx(votes, abs=1e-5)
    else:
        assert (scores < 0).all()


def test_blocks_do_not_change_the_answer() -> None:
    shoppers = {f"u{n}": [(2 + n % 5, 10, VIEW), (7 - n % 3, 20, VIEW), (3, 150, VIEW)] for n in range(80)}
    sequences = make_sequences(shoppers)
    queries = build_queries(sequences, make_catalogue(8), TIME, "validation", CONFIG, 4)
    model = make_knn(sequences, 8, SessionKnnVariant("history", seen="as_others"))
    whole = model.scores(queries, 0, len(queries))
    single = np.concatenate([model.scores(queries, n, n + 1) for n in range(len(queries))])
    assert whole == pytest.approx(single)


def test_validation_chooses_what_people_do() -> None:
    # Everybody buys again what nobody else buys.
    shoppers = {f"u{n}": [(3 + n, 10, VIEW), (2, 20, VIEW), (3 + n, 150, VIEW)] for n in range(8)}
    sequences, catalogue = make_sequences(shoppers), make_catalogue(11)
    either = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4)
    popularity = RecentPopularity.fit(sequences, catalogue, TIME, CONFIG, days=None)
    ((model, found),) = choose_session_knn(sequences, catalogue, popularity, [either])
    assert model.settings()["seen"] != "left_out"
    assert found >= 1 / np.log2(3)
