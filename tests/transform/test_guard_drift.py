"""Distances of distributions against hand-worked ones and scipy's, and the limits they are held to."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.distance import jensenshannon

from transform.data_statistics import Statistics, as_lists, batch_statistics, event_statistics, sliced_statistics
from transform.findings import Anomaly
from transform.guard_drift import Limits, drift

LIMITS = Limits(categories=0.2, numbers=0.2, missing=0.1, new_values=0.1)


def statistics(**columns: Any) -> Statistics:
    arrays = {name: pa.array(values) for name, values in columns.items()}
    arrays = {
        name: as_lists(values.cast(pa.large_binary()) if pa.types.is_string(values.type) else values)
        for name, values in arrays.items()
    }
    return batch_statistics(pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays)))


def mixed(**counts: int) -> list[str]:
    return [value for value, count in counts.items() for _ in range(count)]


def rules(found: tuple[list[Anomaly], dict[str, float]]) -> list[tuple[str, str]]:
    return [(anomaly.feature, anomaly.rule) for anomaly in found[0]]


def test_categories_are_compared_by_l_infinity() -> None:
    before, now = statistics(device=mixed(a=700, b=300)), statistics(device=mixed(a=40, b=60) * 100)
    found = drift("day", now, before, LIMITS)
    # |0.4 − 0.7| = |0.6 − 0.3|
    assert found[1]["device"] == pytest.approx(0.3)
    assert rules(found) == [("device", "DRIFT_HIGH")]
    assert "has changed by 0.300 (L-infinity; limit 0.2, by chance up to 0.0" in found[0][0].description


def test_numbers_are_compared_by_jensen_shannon() -> None:
    # Both fill the same ten bins of one width, so that the histograms are exact.
    first, second = [50, 10, 10, 10, 10, 10, 10, 10, 10, 70], [70, 10, 10, 10, 10, 10, 10, 10, 10, 50]
    middles = np.arange(10) + 0.5
    ends = [0.0, 10.0]
    one, other = (statistics(price=np.concatenate([np.repeat(middles, part), ends]).astype(np.float32)) for part in
                  (first, second))  # fmt: skip
    distance = drift("day", other, one, LIMITS)[1]["price"]
    p, q = (np.array(part) + np.eye(10)[0] + np.eye(10)[9] for part in (first, second))
    assert distance == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=2e-3)


def test_few_rows_are_allowed_more_chance() -> None:
    before = statistics(device=mixed(a=500, b=500))
    assert rules(drift("day", statistics(device=mixed(a=15, b=5)), before, LIMITS)) == []
    assert rules(drift("day", statistics(device=mixed(a=1500, b=500)), before, LIMITS)) == [("device", "DRIFT_HIGH")]


def test_events_that_come_together_are_allowed_more_chance() -> None:
    before, now = statistics(device=mixed(a=500, b=500)), statistics(device=mixed(a=800, b=200))
    assert rules(drift("day", now, before, LIMITS)) == [("device", "DRIFT_HIGH")]
    assert rules(drift("day", now, before, Limits(0.2, 0.2, 0.1, 0.1, group=60))) == []


def test_missing_values_beyond_the_limit() -> None:
    before = statistics(title=["x"] * 90 + [None] * 10)
    assert rules(drift("items", statistics(title=["x"] * 85 + [None] * 15), before, LIMITS)) == []
    found = drift("items", statistics(title=["x"] * 50 + [None] * 50), before, LIMITS)
    assert rules(found) == [("title", "MISSING_HIGH")]
    assert "missing in 50.0% of the rows; 10.0% are usual (limit +10%)" in found[0][0].description


def test_a_feature_that_is_gone_is_missing_everywhere() -> None:
    found = drift("day", statistics(other=["x"] * 50), statistics(device=["a"] * 50, other=["x"] * 50), LIMITS)
    assert rules(found) == [("device", "MISSING_HIGH")]
    assert "missing in 100.0% of the rows; 0.0% are usual" in found[0][0].description


def test_listed_values_that_are_gone_and_new_ones() -> None:
    before = statistics(category=mixed(shirts=900, hats=100))
    found = drift("day", statistics(category=mixed(shirts=850, Hats=150)), before, LIMITS)
    assert rules(found) == [("category", "NEW_VALUES"), ("category", "VANISHED")]
    assert "15.0% have values never seen before: 'Hats'; 'Hats' is 'hats' but for case." in found[0][0].description
    assert "No row has the value 'hats'; 100 of these rows would be usual." in found[0][1].description


def sample(size: int, **more: Any) -> pa.Table:
    rows = {
        "day": [1] * size,
        "type": ["purchase"] * size,
        "region": ["north", "south"] * (size // 2),
        "position": pa.nulls(size, pa.int32()),
        "session_events": np.arange(size) % 4 + 1,
        "price": [9.0] * size,
        "quantity": pa.array([1.0, 3.0, None, 1_000.0] * (size // 4), pa.float32()),
        **more,
    }
    return pa.table(rows)


def test_events_are_watched_on_scales_that_can_be_compared() -> None:
    features = {found.path.step[0]: found for found in event_statistics(sample(8), 100).datasets[0].features}
    counts = {bucket.label: bucket.sample_count for bucket in features["quantity"].string_stats.rank_histogram.buckets}
    assert counts == {"1": 2, "2": 2, "512": 2}
    assert features["price"].num_stats.mean == pytest.approx(1.0)  # log10(1 + 9)
    lengths = features["session_events"].string_stats.rank_histogram.buckets
    assert {bucket.label: bucket.sample_count for bucket in lengths} == {"1": 2, "2": 4, "4": 2}
    assert "position" not in features


def test_slices_need_rows() -> None:
    regions = ["north"] * 600 + ["south"] * 100 + ["west"] * 300
    found = sliced_statistics(sample(1_000, region=regions), 400)
    assert set(found) == {"", "type=purchase", "region=north", "region=west"}
    assert found[""].datasets[0].num_examples == 400
    assert found["region=north"].datasets[0].num_examples == 100
