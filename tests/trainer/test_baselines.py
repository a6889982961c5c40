"""What baselines share: recent popularity, units of the training span, the choice of settings on validation."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from tests.trainer.small_shop import LEAVE_ONE_OUT, PURCHASE, TIME, VIEW, make_catalogue, make_sequences
from trainer import baselines
from trainer.baseline_selection import fit_baselines
from trainer.baselines import (
    RecentPopularity,
    Units,
    choose_recent_popularity,
    choose_variant,
    decayed_history,
    fitted_interactions,
    strongest,
    training_interactions,
)
from trainer.config import EvaluationConfig
from trainer.data import Sequences
from trainer.queries import Queries, Split, build_queries
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


def order(model: RecentPopularity, sequences: Sequences, size: int, split: Split) -> list[list[int]]:
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


def test_popularity_stands_behind_what_a_baseline_answers() -> None:
    popularity = RecentPopularity(None, np.array([-2, -1, 0], np.float32))
    scores = np.array([[-0.5, 7.0, 0.1], [3.0, 0.0, 0.0]], np.float32)
    answered = np.array([[True, False, False], [True, True, False]])
    # Behind −0.5 begin whole numbers below −1; behind 0 those below 0.
    assert popularity.behind(scores, answered).tolist() == [[-0.5, -3, -2], [3, 0, -1]]


# Sessions {2, 3}, {2, 3} and {2, 4}; what follows is validation.
PAIRS = {
    "ann": [(2, 10, VIEW), (3, 10, VIEW), (5, 150, VIEW)],
    "bob": [(2, 10, VIEW), (3, 10, VIEW), (2, 50, VIEW), (4, 50, VIEW), (5, 150, VIEW)],
}


def test_units_are_sessions_or_histories_of_the_training_span() -> None:
    sequences = make_sequences(PAIRS)
    sessions, histories = Units.of(sequences, "session"), Units.of(sequences, "history")
    assert sessions.membership(6).toarray()[:, 2:].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]]
    assert sessions.ends.tolist() == [10, 10, 50]
    assert histories.membership(6).toarray()[:, 2:].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert histories.ends.tolist() == [10, 50]


def test_a_unit_keeps_its_newest_interactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_LONGEST_UNIT", 2)
    units = Units.of(make_sequences({"ann": [(row, row, VIEW) for row in range(2, 7)]}), "history")
    assert units.rows.tolist() == [5, 6]


def test_a_large_shop_is_fitted_to_its_newest_interactions(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = make_sequences(PAIRS)
    assert fitted_interactions(sequences).tolist() == training_interactions(sequences).tolist()
    monkeypatch.setattr(baselines, "MOST_INTERACTIONS", 3)
    # Of five in the training span the two at time 50, and of those at time 10 the last.
    assert fitted_interactions(sequences).tolist() == [False, False, False, False, True, True, True, False]


def test_histories_decay_by_age_and_sum_what_was_met_again() -> None:
    sequences = make_sequences({"ann": [(2, 10, VIEW), (3, 20, VIEW), (2, 30, VIEW), (4, 150, VIEW)]})
    queries = build_queries(sequences, make_catalogue(5), TIME, "validation", CONFIG, 4)
    # Ages 2, 1 and 0.
    assert decayed_history(queries, 0, 1, 0.5).toarray().tolist() == [[0, 0, 1.25, 0.5, 0]]


def test_strongest_keeps_the_largest_and_among_equals_the_lower_columns() -> None:
    matrix = np.array([[1, 3, 2, 3], [0, 1, 1, 1], [0, 0, 0, 0]], np.float32)
    kept = strongest(sparse.csr_matrix(matrix), 2).toarray()
    assert kept.tolist() == [[0, 3, 0, 3], [0, 1, 1, 0], [0, 0, 0, 0]]


@dataclass(frozen=True)
class Guess:
    """Settings of a baseline that puts one product in front."""

    row: int = 2
    sign: int = -1


@dataclass(frozen=True)
class Favourite:
    variant: Guess

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        scores = np.zeros((stop - start, len(queries.known_from)), np.float32)
        scores[:, self.variant.row] = self.variant.sign
        return scores

    def settings(self) -> dict[str, Any]:
        return asdict(self.variant)


def test_settings_are_chosen_one_after_the_other_by_validation() -> None:
    sequences, catalogue = make_sequences(PAIRS), make_catalogue(7)
    queries = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4)
    # Both want 5. Under the first guess 3 4 5 6 come before 2; with the sign turned, any row but 5 leaves it behind.
    chosen = choose_variant(Guess(), {"sign": (-1, 1), "row": (2, 5, 6)}, Favourite, queries)
    assert chosen.baseline.variant == Guess(row=2, sign=-1)
    assert chosen.ndcg == pytest.approx(1 / np.log2(4))
    chosen = choose_variant(Guess(sign=1), {"row": (2, 5, 6)}, Favourite, queries)
    assert chosen.baseline.variant == Guess(row=5, sign=1)
    assert chosen.ndcg == 1


def test_configured_baselines_are_fitted_under_every_rule() -> None:
    sequences, catalogue = make_sequences(PAIRS), make_catalogue(6)
    either = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4)
    config = EvaluationConfig(baselines=("session_knn",))
    fitted = fit_baselines(sequences, catalogue, TIME, config, [either, either.excluding_seen()])
    for rule in fitted:
        assert set(rule.scorers) == set(rule.settings) == {"recent_popularity", "session_knn"}
        assert rule.settings["session_knn"]["validation_ndcg@10"] > 0


def test_every_baseline_runs_by_default() -> None:
    titles = np.array(["", "", "red pot", "blue pot", "red pan", ""], dtype=object)
    sequences, catalogue = make_sequences(PAIRS), replace(make_catalogue(6), titles=titles)
    queries = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4)
    (fitted,) = fit_baselines(sequences, catalogue, TIME, CONFIG, [queries])
    names = ["recent_popularity", "co_occurrence", "session_knn", "matrix_factorisation", "product2vec", "title_tfidf"]
    assert list(fitted.scorers) == names
    for scorer in fitted.scorers.values():
        scores = scorer.scores(queries, 0, len(queries))
        assert scores.shape == (2, 6)
        assert np.isfinite(scores).all()


def test_no_titles_no_title_baseline() -> None:
    sequences, catalogue = make_sequences(PAIRS), make_catalogue(6)
    queries = build_queries(sequences, catalogue, TIME, "validation", CONFIG, 4)
    (fitted,) = fit_baselines(sequences, catalogue, TIME, EvaluationConfig(baselines=("title_tfidf",)), [queries])
    assert list(fitted.scorers) == ["recent_popularity"]
