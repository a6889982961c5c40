"""Fairness: figures by group and gaps that are, or are not, more than chance."""

import numpy as np
import pytest

from tests.trainer.small_shop import TIME, VIEW, make_catalogue, make_sequences
from trainer.bootstrap import Part, resampled_means
from trainer.config import EvaluationConfig
from trainer.fairness import MINIMUM_QUERIES, fairness_report, gap
from trainer.queries import build_queries
from trainer.rank_systems import Protocol, Ranked
from trainer.segments import OTHERS, Grouping

CONFIG = EvaluationConfig(bootstrap_samples=200)


def protocol_of(ranks: np.ndarray) -> Protocol:
    """One query per rank, with one product of truth."""
    shoppers = {f"u{n}": [(2, 10, VIEW), (3, 210, VIEW)] for n in range(len(ranks))}
    queries = build_queries(make_sequences(shoppers), make_catalogue(), TIME, "test", EvaluationConfig(), 4)
    lists = np.zeros((len(ranks), 100), np.int32)
    return Protocol(queries, np.full(len(ranks), 8), np.ones(10, bool), {"ranker": Ranked(ranks, lists)})


def draws_of(groups: list[np.ndarray], seed: int, samples: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Means and resampled means of groups of different shoppers."""
    ends = np.cumsum([0, *map(len, groups)])
    parts = [Part(start + np.arange(len(own)), own[:, None]) for start, own in zip(ends[:-1], groups, strict=True)]
    drawn = np.concatenate(resampled_means(parts, samples, seed), axis=1)
    return np.array([own.mean() for own in groups]), drawn


def test_groups_have_their_own_figures_and_intervals() -> None:
    # Group a: rank 1 for all 120; group b: rank 3, NDCG 1 / log2(4), for half of 120, else far behind.
    ranks = np.concatenate([np.ones(120, int), np.tile([3, 11], 60)])
    attribute = Grouping(("a", "b"), np.repeat([0, 1], 120))
    report = fairness_report(protocol_of(ranks), {"region": attribute}, CONFIG)["ranker"]["region"]
    assert report["groups"]["a"] == {
        "queries": 120,
        "judged": True,
        "ndcg@10": 1.0,
        "recall@10": 1.0,
        "intervals": {"ndcg@10": [1.0, 1.0], "recall@10": [1.0, 1.0]},
    }
    assert report["groups"]["b"]["ndcg@10"] == pytest.approx(0.25)
    assert report["groups"]["b"]["recall@10"] == pytest.approx(0.5)
    # Standard error of a share of one half among 120: √(0.25 / 120) = 0.0456, ± 1.96 of it = 0.0895.
    low, high = report["groups"]["b"]["intervals"]["recall@10"]
    assert (low, high) == pytest.approx((0.5 - 0.0895, 0.5 + 0.0895), abs=0.025)
    found = report["gaps"]["recall@10"]
    assert (found["best"], found["worst"], found["outside_chance"]) == ("a", "b", True)
    assert found["gap"] == pytest.approx(0.5)
    # Of two groups the interval is the ordinary one of a difference.
    assert found["interval"] == pytest.approx([0.5 - 0.0895, 0.5 + 0.0895], abs=0.025)


def test_small_and_pooled_groups_are_shown_and_not_judged() -> None:
    sizes = [MINIMUM_QUERIES, MINIMUM_QUERIES - 1, MINIMUM_QUERIES + 50]
    attribute = Grouping(("a", "small", OTHERS), np.repeat([0, 1, 2], sizes))
    report = fairness_report(protocol_of(np.ones(sum(sizes), int)), {"region": attribute}, CONFIG)["ranker"]["region"]
    assert {name: group["judged"] for name, group in report["groups"].items()} == {
        "a": True,
        "small": False,
        OTHERS: False,
    }
    assert report["groups"]["small"] == {"queries": 99, "judged": False, "ndcg@10": 1.0, "recall@10": 1.0}
    assert report["gaps"] == {}


def test_groups_without_queries_are_left_out() -> None:
    attribute = Grouping(("a", "nobody"), np.zeros(3, int))
    report = fairness_report(protocol_of(np.ones(3, int)), {"region": attribute}, CONFIG)
    assert list(report["ranker"]["region"]["groups"]) == ["a"]


def test_groups_served_alike_are_rarely_told_apart() -> None:
    # Six groups of one shop: a rule that looked at the best and the worst alone would cry in a third of all cases.
    rng = np.random.default_rng(5)
    errors = np.sqrt(0.3 * 0.7 / np.array([400, 300, 200, 150, 120, 100]))
    found = []
    for _ in range(400):
        means = 0.3 + rng.standard_normal(6) * errors
        draws = means + rng.standard_normal((300, 6)) * errors
        found.append(gap(means, draws)["pairs_outside_chance"] > 0)
    assert np.mean(found) == pytest.approx(0.05, abs=0.03)


def test_group_served_worse_is_told_apart() -> None:
    rng = np.random.default_rng(5)
    groups = [(rng.random(size) < share).astype(float) for size, share in ((800, 0.4), (800, 0.25), (100, 0.32))]
    found = gap(*draws_of(groups, seed=1))
    assert (found["best"], found["worst"], found["outside_chance"]) == (0, 1, True)
    assert found["interval"][0] < 0.15 < found["interval"][1]
    # The small group between them is apart from neither.
    assert (found["pairs"], found["pairs_outside_chance"]) == (3, 1)


def test_small_group_at_the_end_does_not_hide_that_others_lie_apart() -> None:
    means = np.array([0.30, 0.20, 0.19])
    rng = np.random.default_rng(0)
    # Standard errors 0.01, 0.01 and 0.2.
    found = gap(means, means + rng.standard_normal((500, 3)) * np.array([0.01, 0.01, 0.2]))
    assert (found["worst"], found["outside_chance"], found["pairs_outside_chance"]) == (2, False, 1)


def test_groups_of_the_same_shoppers_are_compared_paired() -> None:
    values = np.random.default_rng(0).random(150)
    parts = [Part(np.arange(150), values[:, None] + shift) for shift in (0.0, 0.01)]
    drawn = np.concatenate(resampled_means(parts, 200, seed=3), axis=1)
    found = gap(np.array([values.mean(), values.mean() + 0.01]), drawn)
    # A hundredth is far within either's interval, yet certain.
    assert found["outside_chance"] is True
    assert found["interval"] == pytest.approx([0.01, 0.01])


def test_equal_groups_have_no_gap() -> None:
    found = gap(np.array([0.5, 0.5]), np.full((10, 2), 0.5))
    assert (found["gap"], found["outside_chance"], found["interval"]) == (0.0, False, [0.0, 0.0])
