"""Baselines: recent popularity and item-to-item co-occurrence."""

import numpy as np
import pytest
from scipy import sparse

from tests.trainer.small_shop import LEAVE_ONE_OUT, PURCHASE, TIME, VIEW, make_catalogue, make_sequences
from trainer.baselines import (
    CoOccurrence,
    CoOccurrenceVariant,
    RecentPopularity,
    choose_co_occurrence,
    choose_recent_popularity,
    similarities,
    training_interactions,
)
from trainer.config import EvaluationConfig
from trainer.data import Sequences
from trainer.queries import Split, build_queries
from trainer.ranking import order_keys, top_rows

DAY = 86_400
CONFIG = EvaluationConfig(popularity_days=(1, 3))
LATE = Split("time", 100 * DAY, 200 * DAY)
# Long ago everybody wanted 2; on the last day before the cut-off 4 and 5 became the fashion, which lasts.
FASHION = {
    **{f"old{n}": [(2, 10 * DAY, VIEW), (3, 11 * DAY, VIEW)] for n in range(5)},
    **{f"new{n}": [(4, 99 * DAY + 60, VIEW), (5, 150 * DAY, VIEW)] for n in range(3)},
    "first": [(5, 99 * DAY + 60, VIEW), (4, 150 * DAY, VIEW)],
}


def order(model: RecentPopularity | CoOccurrence, sequences: Sequences, size: int, split: Split) -> list[list[int]]:
    """The whole ranking of the validation queries, exclusions aside."""
    queries = build_queries(sequences, make_catalogue(size), split, "validation", CONFIG, 4)
    keys = order_keys(model.scores(queries, 0, len(queries)), np.zeros((len(queries), size), bool))
    return [[row for row in rows if row > 1] for rows in top_rows(keys, size).tolist()]


def test_only_the_training_span_is_counted() -> None:
    sequences = make_sequences({"ann": [(2, 10, VIEW), (1, 20, VIEW), (3, 150, VIEW)]})
    assert training_interactions(sequences).tolist() == [True, False, False]


def test_popularity_counts_the_last_days_and_breaks_ties_by_the_whole_span() -> None:
    sequences = make_sequences(FASHION, LATE)
    recent = RecentPopularity.fit(sequences, make_catalogue(7), LATE, CONFIG, days=1)
    # Last day: 4 three times, 5 once. Before: 2 and 3 five times (a tie, lower row first), 6 never.
    assert order(recent, sequences, 7, LATE)[0] == [4, 5, 2, 3, 6]
    always = RecentPopularity.fit(sequences, make_catalogue(7), LATE, CONFIG, days=None)
    assert order(always, sequences, 7, LATE)[0] == [2, 3, 4, 5, 6]


def test_popularity_counts_target_types_only() -> None:
    shoppers = {"ann": [(2, 10, VIEW), (2, 11, VIEW), (3, 12, PURCHASE), (4, 150, PURCHASE)]}
    config = EvaluationConfig(target_types=("purchase",))
    sequences = make_sequences(shoppers)
    model = RecentPopularity.fit(sequences, make_catalogue(5), TIME, config, days=None)
    assert order(model, sequences, 5, TIME)[0] == [3, 2, 4]


def test_validation_chooses_the_window() -> None:
    sequences, catalogue = make_sequences(FASHION, LATE), make_catalogue(7)
    queries = build_queries(sequences, catalogue, LATE, "validation", CONFIG, 4)
    ((chosen, found),) = choose_recent_popularity(sequences, catalogue, LATE, CONFIG, [queries])
    assert chosen.settings() == {"days": 1}
    # Three shoppers want 5, at rank 2; one wants 4, at rank 1.
    assert found == pytest.approx((3 / np.log2(3) + 1) / 4)


def test_without_a_clock_popularity_counts_everything() -> None:
    shoppers = {"ann": [(row, moment, VIEW) for moment, row in enumerate([2, 3, 4], 1)]}
    sequences, catalogue = make_sequences(shoppers, LEAVE_ONE_OUT), make_catalogue(5, clock=False)
    queries = build_queries(sequences, catalogue, LEAVE_ONE_OUT, "validation", CONFIG, 4)
    ((chosen, _),) = choose_recent_popularity(sequences, catalogue, LEAVE_ONE_OUT, CONFIG, [queries])
    assert chosen.days is None


# Sessions {2, 3}, {2, 3}, {2, 4}; histories {2, 3}, {2, 3, 4}.
PAIRS = {
    "ann": [(2, 10, VIEW), (3, 10, VIEW), (5, 150, VIEW)],
    "bob": [(2, 10, VIEW), (3, 10, VIEW), (2, 50, VIEW), (4, 50, VIEW), (5, 150, VIEW)],
}


def test_similarity_by_session_is_a_hand_worked_cosine() -> None:
    cosine, conditional = similarities(make_sequences(PAIRS), 6, "session", ("cosine", "conditional"))
    # C[2, 2] = 3, C[3, 3] = 2, C[2, 3] = 2, C[2, 4] = 1.
    assert cosine[2, 3] == pytest.approx(2 / np.sqrt(6))
    assert cosine[2, 4] == pytest.approx(1 / np.sqrt(3))
    assert cosine[3, 4] == 0
    assert conditional[2, 3] == pytest.approx(2 / 3)
    assert conditional[3, 2] == pytest.approx(1.0)


def test_similarity_by_history_joins_sessions() -> None:
    (cosine,) = similarities(make_sequences(PAIRS), 6, "history", ("cosine",))
    assert cosine[3, 4] == pytest.approx(1 / np.sqrt(2))


def test_similarity_keeps_the_strongest_neighbours() -> None:
    # Product 2 meets 250 others once, and each of the last 50 a second time.
    once = [(2, 1, VIEW)] + [(row, 1, VIEW) for row in range(3, 253)]
    twice = [(2, 2, VIEW)] + [(row, 2, VIEW) for row in range(203, 253)]
    sequences = make_sequences({"ann": once, "bob": twice})
    (conditional,) = similarities(sequences, 253, "history", ("conditional",))
    kept = conditional[2].indices
    # Of 200: itself, the fifty, and the lower rows of the rest.
    assert sorted(kept) == [2, *range(3, 152), *range(203, 253)]


def test_co_occurrence_sums_over_the_history_with_decay_by_age() -> None:
    sequences = make_sequences({"ann": [(2, 10, VIEW), (3, 20, VIEW), (4, 150, VIEW)]})
    queries = build_queries(sequences, make_catalogue(7), TIME, "validation", CONFIG, 1)
    similarity = np.zeros((7, 7), np.float32)
    similarity[2, 5] = similarity[3, 6] = 1
    similarity[2, 6] = 0.5
    fallback = np.array([-7, -7, -3, -2, -1, -4, -5], np.float32)
    model = CoOccurrence(
        CoOccurrenceVariant("session", "cosine", 0.5, "as_others"), sparse.csr_matrix(similarity), fallback
    )
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
