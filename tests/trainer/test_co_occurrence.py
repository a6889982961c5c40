"""Item-to-item co-occurrence."""

import numpy as np
import pytest
from scipy import sparse

from tests.trainer.small_shop import TIME, VIEW, make_catalogue, make_sequences
from trainer.baselines import RecentPopularity
from trainer.co_occurrence import CoOccurrence, CoOccurrenceVariant, choose_co_occurrence, similarities
from trainer.config import EvaluationConfig
from trainer.queries import build_queries
from trainer.ranking import order_keys, top_rows

CONFIG = EvaluationConfig()

# Sessions {2, 3}, {2, 3}, {2, 4}; histories {2, 3}, {2, 3, 4}.
PAIRS = {
    "ann": [(2, 10, VIEW), (3, 10, VIEW), (5, 150, VIEW)],
    "bob": [(2, 10, VIEW), (3, 10, VIEW), (2, 50, VIEW), (4, 50, VIEW), (5, 150, VIEW)],
}


def test_similarity_by_session_is_a_hand_worked_cosine() -> None:
    cosine = similarities(make_sequences(PAIRS), 6, "session", "cosine")
    conditional = similarities(make_sequences(PAIRS), 6, "session", "conditional")
    # C[2, 2] = 3, C[3, 3] = 2, C[2, 3] = 2, C[2, 4] = 1.
    assert cosine[2, 3] == pytest.approx(2 / np.sqrt(6))
    assert cosine[2, 4] == pytest.approx(1 / np.sqrt(3))
    assert cosine[3, 4] == 0
    assert conditional[2, 3] == pytest.approx(2 / 3)
    assert conditional[3, 2] == pytest.approx(1.0)


def test_similarity_by_history_joins_sessions() -> None:
    cosine = similarities(make_sequences(PAIRS), 6, "history", "cosine")
    assert cosine[3, 4] == pytest.approx(1 / np.sqrt(2))


def test_similarity_keeps_the_strongest_neighbours() -> None:
    # Product 2 meets 250 others once, and each of the last 50 a second time.
    once = [(2, 1, VIEW)] + [(row, 1, VIEW) for row in range(3, 253)]
    twice = [(2, 2, VIEW)] + [(row, 2, VIEW) for row in range(203, 253)]
    sequences = make_sequences({"ann": once, "bob": twice})
    conditional = similarities(sequences, 253, "history", "conditional")
    kept = conditional[2].indices
    # Of 200: itself, the fifty, and the lower rows of the rest.
    assert sorted(kept) == [2, *range(3, 152), *range(203, 253)]


def test_co_occurrence_sums_over_the_history_with_decay_by_age() -> None:
    sequences = make_sequences({"ann": [(2, 10, VIEW), (3, 20, VIEW), (4, 150, VIEW)]})
    queries = build_queries(sequences, make_catalogue(7), TIME, "validation", CONFIG, 1)
    similarity = np.zeros((7, 7), np.float32)
    similarity[2, 5] = similarity[3, 6] = 1
    similarity[2, 6] = 0.5
    popularity = RecentPopularity(None, np.array([-6, -6, -2, -1, 0, -3, -4], np.float32))
    variant = CoOccurrenceVariant("session", "cosine", 0.5, "as_others")
    model = CoOccurrence(variant, sparse.csr_matrix(similarity), popularity)
    # Product 2 has age 1: weight 0.5. Products without a neighbour in the history follow by popularity.
    assert model.scores(queries, 0, 1)[0].tolist() == [-7, -7, -3, -2, -1, 0.5, 1.25]


def test_empty_history_is_answered_by_popularity() -> None:
    sequences = make_sequences({"ann": [(2, 10, VIEW), (3, 20, VIEW), (4, 120, VIEW)], "cy": [(3, 150, VIEW)]})
    catalogue = make_catalogue(6)
    queries = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4)
    popularity = RecentPopularity.fit(sequences, catalogue, TIME, CONFIG, days=None)
    ((model, _),) = choose_co_occurrence(sequences, catalogue, popularity, [queries])
    visitors = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4, new_visitors=True)
    excluded = np.zeros((1, 6), bool)
    ours, theirs = (top_rows(order_keys(m.scores(visitors, 0, 1), excluded), 6) for m in (model, popularity))
    assert ours.tolist() == theirs.tolist()


def test_validation_chooses_products_that_recommend_themselves_where_people_buy_again() -> None:
    shoppers = {f"u{n}": [(2 + n, 10, VIEW), (12, 10, VIEW), (2 + n, 150, VIEW)] for n in range(10)}
    sequences, catalogue = make_sequences(shoppers), make_catalogue(13)
    queries = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4)
    popularity = RecentPopularity.fit(sequences, catalogue, TIME, CONFIG, days=None)
    ((model, found),) = choose_co_occurrence(sequences, catalogue, popularity, [queries])
    assert model.variant.seen == "recommended"
    assert found > 0.6


def test_validation_leaves_out_what_was_seen_where_nobody_comes_back() -> None:
    # Everybody goes on from a pair to the next one; pairs themselves co-occur most.
    shoppers = {f"u{n}": [(2, 10, VIEW), (3, 10, VIEW), (4, 50, VIEW)] for n in range(4)}
    shoppers |= {f"v{n}": [(2, 10, VIEW), (3, 10, VIEW), (4, 150, VIEW)] for n in range(4)}
    sequences, catalogue = make_sequences(shoppers), make_catalogue(6)
    queries = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4)
    popularity = RecentPopularity.fit(sequences, catalogue, TIME, CONFIG, days=None)
    ((model, found),) = choose_co_occurrence(sequences, catalogue, popularity, [queries])
    assert model.variant.seen == "left_out"
    assert found == pytest.approx(1.0)


def test_each_rule_for_seen_products_chooses_its_own_variant() -> None:
    # People buy again, and beside that go on from 12 to 3 or from 12 to 4.
    shoppers = {f"u{n}": [(5 + n, 10, VIEW), (12, 10, VIEW), (3, 10, VIEW), (5 + n, 150, VIEW)] for n in range(5)}
    shoppers["v"] = [(12, 10, VIEW), (3, 150, VIEW)]
    sequences, catalogue = make_sequences(shoppers), make_catalogue(13)
    either = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4)
    unseen = build_queries(sequences, catalogue, TIME, "validation", EvaluationConfig(exclude_seen=True), 4)
    popularity = RecentPopularity.fit(sequences, catalogue, TIME, CONFIG, days=None)
    first, second = choose_co_occurrence(sequences, catalogue, popularity, [either, unseen])
    assert first[0].variant.seen == "recommended"
    assert second[0].variant.seen == "left_out"
    assert second[1] == pytest.approx(1.0)
