"""Resampled means: the binomial interval, pairs, shoppers with several queries, parts that share shoppers."""

import numpy as np
import pytest

from trainer.bootstrap import Part, bootstrap, intervals, resampled_means


def test_bootstrap_interval_of_a_share_is_the_binomial_one() -> None:
    # 400 shoppers, 30 % hits: standard error √(0.3 · 0.7 / 400) = 0.0229, ± 1.96 of it = 0.0449.
    values = {"hit": np.repeat([1.0, 0.0], [120, 280])}
    low, high = bootstrap(values, np.arange(400), samples=2_000, seed=3)["hit"]
    assert low == pytest.approx(0.3 - 0.0449, abs=0.006)
    assert high == pytest.approx(0.3 + 0.0449, abs=0.006)


def test_bootstrap_pairs_systems_so_that_a_constant_gain_is_certain() -> None:
    values = np.random.default_rng(0).random(50)
    low, high = bootstrap({"gain": (values + 0.1) - values}, np.arange(50), samples=100, seed=3)["gain"]
    assert (low, high) == pytest.approx((0.1, 0.1))


def test_bootstrap_draws_all_queries_of_a_shopper_together() -> None:
    # Ten shoppers with a hundred equal queries each know no more than ten.
    values = np.repeat(np.random.default_rng(0).random(10), 100)
    clustered = bootstrap({"x": values}, np.repeat(np.arange(10), 100), samples=500, seed=3)["x"]
    alone = bootstrap({"x": values[::100]}, np.arange(10), samples=500, seed=3)["x"]
    assert clustered == pytest.approx(alone)


def test_bootstrap_leaves_out_queries_for_which_a_metric_is_undefined() -> None:
    values = np.array([0.5, np.nan, 0.5, 0.5, np.nan, 0.5])
    assert bootstrap({"auc": values}, np.arange(6), samples=50, seed=3)["auc"] == pytest.approx((0.5, 0.5))


def test_bootstrap_is_the_same_for_the_same_seed() -> None:
    values = {"x": np.random.default_rng(0).random(30)}
    first, second, other = (bootstrap(values, np.arange(30), samples=60, seed=seed)["x"] for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_parts_that_share_shoppers_vary_together() -> None:
    values = np.random.default_rng(0).random(60)
    whole = Part(np.arange(60), values[:, None])
    shifted = Part(np.arange(60), values[:, None] + 0.1)
    first, second = resampled_means([whole, shifted], samples=50, seed=3)
    assert np.ptp(second - first) == pytest.approx(0)


def test_parts_of_different_shoppers_vary_independently() -> None:
    values = np.random.default_rng(0).random(200)
    parts = [Part(np.arange(200), values[:, None]), Part(np.arange(200, 400), values[:, None])]
    first, second = resampled_means(parts, samples=2_000, seed=3)
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.1
    # Each as if it were alone: standard error σ / √200.
    assert first.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.1)


def test_part_is_resampled_as_the_same_queries_marked_undefined_elsewhere() -> None:
    values = np.random.default_rng(0).random(30)
    inside = np.arange(30) < 12
    marked = np.where(inside, values, np.nan)
    everyone = Part(np.arange(30), np.stack([values, marked], axis=1))
    group = Part(np.flatnonzero(inside), values[inside, None])
    whole, part = resampled_means([everyone, group], samples=40, seed=3)
    np.testing.assert_allclose(part[:, 0], whole[:, 1])


def test_resample_without_a_query_of_the_part_has_no_mean() -> None:
    rare = Part(np.array([0]), np.array([[0.7]]))
    others = Part(np.arange(1, 4), np.zeros((3, 1)))
    means, _ = resampled_means([rare, others], samples=200, seed=3)
    # Nobody draws one shopper of four in (3/4)^4 = 32 % of the resamples.
    assert np.isnan(means).mean() == pytest.approx(0.32, abs=0.1)
    assert intervals(means).ravel().tolist() == pytest.approx([0.7, 0.7])


def test_interval_of_what_is_never_defined_is_undefined() -> None:
    assert np.isnan(intervals(np.full((5, 1), np.nan))).all()
