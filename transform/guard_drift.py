"""Guards the distribution of features against earlier ones: L-infinity of categories, Jensen-Shannon of numbers.

TensorFlow Data Validation measures; see Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on
Information Theory 37 (1991), for the divergence, which goes from 0 to 1 in base 2.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from transform.data_statistics import Statistics, features_of, missing_share, value_counts
from transform.findings import Anomaly, found
from transform.guard_volume import LEAST_GROUPS, SIGMAS, new_values_text

# Numbers are compared from so many values on.
_LEAST_VALUES = 20
# Values whose coming and going is watched: closed lists, or lists that change slowly.
_LISTED = ("category", "surface", "position")
# TFDV's histograms of numbers.
_BINS = 10
# Ids, texts and dates differ from row to row or from span to span: their shares say nothing. Of amounts, the classes
# and logarithms are compared: histograms with bins of one width depend on the single largest value.
_UNCOMPARED = ("item_id", "title", "known_from", "train_count", "weekday", "price_raw")
AMOUNTS = ("price", "quantity")

Kind = Literal["drift", "skew"]


@dataclass(frozen=True)
class Limits:
    """What may differ, and how many rows come together (events of one shopper)."""

    categories: float  # L-infinity
    numbers: float  # Jensen-Shannon
    missing: float
    new_values: float
    group: float = 1.0


def drift(
    dataset: str,
    now: Statistics,
    before: Statistics,
    limits: Limits,
    kind: Kind = "drift",
    uncompared: Sequence[str] = (),
) -> tuple[list[Anomaly], dict[str, float]]:
    """Findings, and the distance of each feature that both have.

    A finding is beyond its limit and beyond what chance alone gives for so few rows. With the kind "skew", `now` are
    requests and `before` training examples. Features that are `uncompared` may only not go missing.
    """
    ours, theirs = features_of(now), features_of(before)
    rows, rows_before = now.datasets[0].num_examples, before.datasets[0].num_examples
    schema, bounds = schema_pb2.Schema(), {}
    findings = []
    for name in theirs:
        usual = missing_share(theirs[name], rows_before)
        missing = missing_share(ours[name], rows) if name in ours else 1.0
        if missing > usual + limits.missing + SIGMAS * np.sqrt(usual * (1 - usual) * limits.group / rows):
            limit = f"limit +{limits.missing:.0%}"
            text = f"The value is missing in {missing:.1%} of the rows; {usual:.1%} are usual ({limit})."
            findings.append(found(dataset, name, "MISSING_HIGH", text))
        present = rows * (1 - missing)
        if name in (*_UNCOMPARED, *uncompared) or present < _LEAST_VALUES or theirs[name].type != ours[name].type:
            continue
        if name in _LISTED:
            findings += _listed(dataset, name, value_counts(ours[name]), value_counts(theirs[name]), limits, rows)
        feature = schema.feature.add(name=name, type=schema_pb2.BYTES)
        comparator = getattr(feature, f"{kind}_comparator")
        bounds[name] = _set_bounds(feature, comparator, ours[name].HasField("num_stats"), present, rows, limits)
    result, distances = _measured(now, before, schema, kind)
    for name, distance in sorted(distances.items()):
        if distance > max(bounds[name]):
            text = _text(result, name, distance, *bounds[name])
            findings.append(found(dataset, name, f"{kind.upper()}_HIGH", text))
    return findings, distances


def _measured(
    now: Statistics, before: Statistics, schema: schema_pb2.Schema, kind: Kind
) -> tuple[anomalies_pb2.Anomalies, dict[str, float]]:
    """What TFDV says, and its distances by feature."""
    if kind == "skew":
        result = tfdv.validate_statistics(before, schema, serving_statistics=now)
    else:
        result = tfdv.validate_statistics(now, schema, previous_statistics=before)
    measured = {info.path.step[0]: getattr(info, f"{kind}_measurements") for info in result.drift_skew_info}
    return result, {name: found[0].value for name, found in measured.items() if found}


def _set_bounds(
    feature: schema_pb2.Feature,
    comparator: schema_pb2.FeatureComparator,
    is_number: bool,
    present: float,
    rows: int,
    limits: Limits,
) -> tuple[float, float]:
    """Sets the feature's threshold; returns its limit and the distance that chance may give."""
    # Of values that are rare among the events, fewer come together.
    group = 1 + (limits.group - 1) * present / rows
    if is_number:
        feature.type = schema_pb2.FLOAT
        allowed = 3 * (_BINS - 1) * group / (8 * np.log(2) * present)
        comparator.jensen_shannon_divergence.threshold = max(limits.numbers, allowed)
        return limits.numbers, allowed
    allowed = SIGMAS * np.sqrt(group / (4 * present))
    comparator.infinity_norm.threshold = max(limits.categories, allowed)
    return limits.categories, allowed


def _text(result: anomalies_pb2.Anomalies, name: str, distance: float, limit: float, allowed: float) -> str:
    kinds = anomalies_pb2.AnomalyInfo
    reasons = result.anomaly_info[name].reason if name in result.anomaly_info else []
    for why in reasons:
        if why.type == kinds.COMPARATOR_L_INFTY_HIGH:
            value = why.description.rpartition(": ")[2]
            return (
                f"The share of one value, {value!r}, has changed by {distance:.3f} (L-infinity; limit {limit}, by "
                f"chance up to {allowed:.3f})."
            )
    return f"The Jensen-Shannon divergence is {distance:.3f} (limit {limit}, by chance up to {allowed:.3f})."


def _listed(
    dataset: str, name: str, now: dict[str, float], before: dict[str, float], limits: Limits, rows: int
) -> Iterator[Anomaly]:
    """Values that nobody has seen before, and values that are gone."""
    total, total_before = sum(now.values()), sum(before.values())
    new = pd.Series({value: count for value, count in now.items() if value not in before}, dtype=float)
    # A list of a thousand values is not whole: what is not in it may have been there.
    if new.sum() > limits.new_values * total and len(before) < 1000:
        yield found(dataset, name, "NEW_VALUES", new_values_text(new, set(before), new.sum() / total))
    group = 1 + (limits.group - 1) * total / rows
    for value, count in before.items():
        expected = count / total_before * total
        if value not in now and expected >= LEAST_GROUPS * group and len(now) < 1000:
            text = f"No row has the value {value!r}; {expected:,.0f} of these rows would be usual."
            yield found(dataset, name, "VANISHED", text)
