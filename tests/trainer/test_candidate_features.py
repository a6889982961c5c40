"""What the candidate head reads: numbers worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from protos.feature_schema_pb2 import Feature
from tests.trainer.small_shop import PURCHASE, VIEW, make_catalogue
from trainer.candidate_features import (
    CANDIDATE_GROUPS,
    SHOPPER_GROUPS,
    Candidates,
    FeatureGroup,
    groups_of,
    product_facts,
)
from trainer.config import HeadConfig
from trainer.data import Catalogue

DAY = 86_400
NOW = 100 * DAY
SIZE = 8
ALL = HeadConfig().parts


def make_shop() -> Catalogue:
    """Six products; 3 costs 1, 4 costs 3, the others have no price; 3 is known for a day, the others from the start."""
    prices = np.full(SIZE, np.nan, np.float32)
    prices[3], prices[4] = 1, 3
    counts = np.arange(SIZE, dtype=np.int64)
    shop = replace(make_catalogue(SIZE, {3: NOW - DAY, 4: 1}), prices=prices, train_counts=counts)
    shop.schema.item.add(name="price", kind=Feature.NUMERIC)
    return shop


def make_candidates(
    history: list[tuple[int, int, int]], rows: list[int], table: np.ndarray | None = None
) -> Candidates:
    """One shopper, whose history (row, seconds, type) is padded to five slots."""
    padded = [(0, 0, 0)] * (5 - len(history)) + history
    columns = np.array(padded).T[:, None]
    batch = {
        "history_rows": tf.constant(columns[0], tf.int32),
        "history_timestamps": tf.constant(columns[1], tf.int64),
        "history_types": tf.constant(columns[2], tf.int32),
        "context_timestamp": tf.constant([NOW], tf.int64),
    }
    table = np.eye(SIZE, dtype=np.float32) if table is None else table
    facts = type(product_facts(make_shop()))(*(tf.constant(values) for values in product_facts(make_shop())))
    return Candidates(tf.constant([rows], tf.int32), batch, tf.constant(table), facts)


def values(groups: tuple[FeatureGroup, ...], candidates: Candidates) -> dict[str, list[float]]:
    """Name → numbers of the one shopper."""
    return {
        name: tensor.numpy()[0].tolist()
        for group in groups
        for name, tensor in zip(group.names, group.compute(candidates), strict=True)
    }


# 3 is viewed, 4 bought, 3 bought, all at different times.
HISTORY = [(3, NOW - 9 * DAY, VIEW), (4, NOW - 7 * DAY, PURCHASE), (3, NOW - 3 * DAY, PURCHASE)]


def test_history_tells_how_often_and_how_lately_a_candidate_was_met() -> None:
    found = values(CANDIDATE_GROUPS, make_candidates(HISTORY, [3, 4, 5]))
    assert found["met"] == [1, 1, 0]
    assert found["log_times_met"] == pytest.approx([math.log(3), math.log(2), 0])
    assert found["log_times_bought"] == pytest.approx([math.log(2), math.log(2), 0])
    # 3 is the newest interaction, 4 the one before it.
    assert found["nearness"] == pytest.approx([1, 1 / 2, 0])
    assert found["log_days_since_met"] == pytest.approx([math.log(4), math.log(8), math.nan], nan_ok=True)


def test_padding_is_never_met() -> None:
    found = values(CANDIDATE_GROUPS, make_candidates(HISTORY, [0, 5]))
    assert found["met"] == [0, 0]


def test_attention_leaves_the_candidate_itself_out() -> None:
    # 5 is like 3 (cosine 0.6) and not like 4; the length of a vector says nothing.
    table = np.eye(SIZE, dtype=np.float32)
    table[5] = 2 * (0.6 * table[3] + 0.8 * table[6])
    found = values(CANDIDATE_GROUPS, make_candidates(HISTORY, [5, 3], table))
    assert found["alike"] == pytest.approx([(0.6 + 0 + 0.6) / 3, 0])
    weight = math.exp(16 * 0.6)
    assert found["alike_attended"] == pytest.approx([2 * 0.6 * weight / (2 * weight + 1), 0])
    assert found["alike_lately"] == pytest.approx([(0.64 * 0.6 + 0.6) / (0.64 + 0.8 + 1), 0])
    # The newest interaction is 3 itself.
    assert found["alike_newest"] == pytest.approx([0.6, math.nan], nan_ok=True)


def test_popularity_age_and_price_are_those_of_the_moment() -> None:
    found = values(CANDIDATE_GROUPS, make_candidates(HISTORY, [3, 4, 5]))
    assert found["log_train_count"] == pytest.approx([math.log(4), math.log(5), math.log(6)])
    # Known for a day, for a hundred days less a second, and from an unknown moment.
    assert found["log_days_known"] == pytest.approx([math.log(2), math.log(101), math.nan], rel=1e-5, nan_ok=True)
    # The history cost 1, 3 and 1: its mean log price is (2 log 2 + log 4) / 3 = 4/3 log 2.
    usual = 4 / 3 * math.log(2)
    assert found["log_price"] == pytest.approx([math.log(2), math.log(4), math.nan], nan_ok=True)
    ratio = [math.log(2) - usual, math.log(4) - usual, math.nan]
    assert found["log_price_ratio"] == pytest.approx(ratio, nan_ok=True)
    assert found["log_price_distance"] == pytest.approx([abs(value) for value in ratio], nan_ok=True)


def test_shopper_is_known_by_length_recency_and_spend() -> None:
    found = values(SHOPPER_GROUPS, make_candidates(HISTORY, [3]))
    assert found["log_history_length"] == pytest.approx(math.log(4))
    assert found["log_days_idle"] == pytest.approx(math.log(4))
    assert found["log_days_since_purchase"] == pytest.approx(math.log(4))
    # Bought: 4 for 3 and 3 for 1.
    assert found["log_spend"] == pytest.approx(math.log(5))


def test_nothing_is_known_of_an_empty_history() -> None:
    candidates = make_candidates([], [3, 4])
    found = values(CANDIDATE_GROUPS, candidates) | values(SHOPPER_GROUPS, candidates)
    for name in ("alike", "alike_attended", "alike_lately", "alike_newest", "log_price_ratio", "log_days_since_met"):
        assert np.isnan(found[name]).all(), name
    assert np.isnan(found["log_days_idle"])
    assert found["log_spend"] == found["log_history_length"] == 0


def test_names_are_distinct() -> None:
    names = [name for group in (*CANDIDATE_GROUPS, *SHOPPER_GROUPS) for name in group.names]
    assert len(set(names)) == len(names)


def test_data_without_clock_and_prices_have_no_feature_that_needs_them() -> None:
    bare = make_catalogue(SIZE, clock=False)
    assert [group.part for group in groups_of(CANDIDATE_GROUPS, bare, ALL)] == ["history", "attention", "popularity"]
    assert [group.names for group in groups_of(SHOPPER_GROUPS, bare, ALL)] == [("log_history_length",)]


def test_whether_prices_are_read_does_not_depend_on_the_products_of_the_day() -> None:
    shop = make_shop()
    shop.prices[:] = np.nan
    assert "price" in [group.part for group in groups_of(CANDIDATE_GROUPS, shop, ALL)]


def test_parts_that_are_off_are_left_out() -> None:
    assert [group.part for group in groups_of(CANDIDATE_GROUPS, make_shop(), ["price", "age"])] == ["age", "price"]
