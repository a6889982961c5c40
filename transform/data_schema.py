"""The reviewed schema: inferred once from the training span, kept, obeyed; environments for training and serving."""

import logging
from collections.abc import Iterator
from pathlib import Path

import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from transform.checks import DataError
from transform.data_statistics import Statistics, features_of, missing_share
from transform.findings import Anomaly, found, shipped_severity
from transform.tables import EVENT_TYPES, IMPRESSION, SEARCH

logger = logging.getLogger(__name__)

# What is asked for at serving time has no outcome: nothing was paid, and no product of the catalogue was met.
TRAINING, SERVING = "TRAINING", "SERVING"
_NOT_SERVED = ("price", "quantity", "position", "known_item", "category")
_DRIFTING = ("type", "device", "region", "category")
# Values that a closed list may hold without an anomaly if they are this rare, and the part of the rows in which an
# optional value may be missing beyond what was seen when the schema was made.
_TOLERATED = 0.1
# Features that the transform makes itself are in every row.
_ALWAYS = ("item_id", "type", "known_item", "hour", "weekday", "available", "known_from", "train_count", "has_image")
_OPEN_STRINGS = ("item_id", "title", "category", "brand", "region")
_NOT_NEGATIVE = ("price", "price_raw", "quantity")
_RANGES = {"hour": (0, 23), "weekday": (0, 6), "known_item": (0, 1), "available": (0, 1), "has_image": (0, 1)}


def kept_schema(file: Path, statistics: Statistics) -> schema_pb2.Schema:
    """The schema in `file`; where there is none, one inferred from `statistics`, which is written there.

    Raises:
        DataError: the file is not a schema.
    """
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        schema = infer_schema(statistics)
        partial = file.with_suffix(".partial")
        partial.write_text(text_format.MessageToString(schema, as_utf8=True), encoding="utf-8")
        partial.replace(file)
        logger.info("Inferred the schema %s: review it, it is kept from now on.", file)
        return schema
    try:
        schema = text_format.Parse(file.read_text(encoding="utf-8"), schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: not a TensorFlow Metadata schema in protobuf's text form: {error}. Correct it, or delete it to "
            "have it inferred again."
        ) from error
    if not schema.default_environment:
        raise DataError(
            f"{file}: must name its environments, `default_environment: {TRAINING!r}` and `default_environment: "
            f"{SERVING!r}`, received none. Add them, or delete the file to have it inferred again."
        )
    return schema


def infer_schema(statistics: Statistics) -> schema_pb2.Schema:
    """TFDV's schema of `statistics`, with the tolerance that a living shop needs."""
    schema = tfdv.infer_schema(statistics, infer_feature_shape=False)
    schema.default_environment.extend([TRAINING, SERVING])
    rows = statistics.datasets[0].num_examples
    missing = {name: missing_share(found, rows) for name, found in features_of(statistics).items()}
    for feature in schema.feature:
        name = feature.name
        always = name in _ALWAYS
        feature.presence.min_fraction = 1.0 if always else max(0.0, round(1 - missing[name] - _TOLERATED, 3))
        if name in _NOT_SERVED:
            feature.not_in_environment.append(SERVING)
        if name in _OPEN_STRINGS:
            feature.ClearField("domain")
        if name in _NOT_NEGATIVE:
            feature.float_domain.min = 0.0
        if name in _RANGES:
            feature.int_domain.min, feature.int_domain.max = _RANGES[name]
        if name == "device" and feature.HasField("domain"):
            feature.distribution_constraints.min_domain_mass = 1 - _TOLERATED
        if name == "type":
            _close_types(schema, feature)
    used = {feature.domain for feature in schema.feature}
    kept = [domain for domain in schema.string_domain if domain.name in used]
    del schema.string_domain[:]
    schema.string_domain.extend(kept)
    return schema


def _close_types(schema: schema_pb2.Schema, feature: schema_pb2.Feature) -> None:
    """Every type that may enter a history is allowed, whether the sample has it or not."""
    types = sorted(name for name, number in EVENT_TYPES.items() if number not in (IMPRESSION, SEARCH))
    feature.domain = "type"
    domains = [domain for domain in schema.string_domain if domain.name == "type"]
    domain = domains[0] if domains else schema.string_domain.add(name="type")
    domain.value[:] = types


def check_schema(
    dataset: str,
    statistics: Statistics,
    schema: schema_pb2.Schema,
    file: Path,
    training: Statistics | None = None,
    max_drift: float = 0.0,
    environment: str = TRAINING,
) -> tuple[list[Anomaly], dict[str, float]]:
    """TFDV's anomalies, and the L-infinity distance of each watched feature from `training`, if that is given.

    `max_drift` stops; the schema may set a threshold of its own (`drift_comparator`).
    """
    watched = schema_pb2.Schema()
    watched.CopyFrom(schema)
    for feature in watched.feature:
        if feature.name in _DRIFTING and not feature.HasField("drift_comparator"):
            feature.drift_comparator.infinity_norm.threshold = max_drift
    result = tfdv.validate_statistics(statistics, watched, environment, previous_statistics=training)
    return list(_findings(dataset, result, max_drift, file)), _distances(result)


def _distances(result: anomalies_pb2.Anomalies) -> dict[str, float]:
    return {
        info.path.step[0]: measurement.value
        for info in result.drift_skew_info
        for measurement in info.drift_measurements
    }


def _findings(dataset: str, result: anomalies_pb2.Anomalies, max_drift: float, file: Path) -> Iterator[Anomaly]:
    kinds = anomalies_pb2.AnomalyInfo.Type
    stopped_drift = set()
    advice = f"(schema: {file})."
    for feature, info in sorted(result.anomaly_info.items()):
        for why in info.reason:
            rule = kinds.Name(why.type)
            if why.type == kinds.COMPARATOR_L_INFTY_HIGH:
                stopped_drift.add(feature)
            text = (why.description or why.short_description).rstrip(".")
            yield Anomaly(dataset, feature, rule, text, shipped_severity(rule), advice)
    if result.HasField("dataset_anomaly_info"):
        for why in result.dataset_anomaly_info.reason:
            rule = kinds.Name(why.type)
            yield Anomaly(dataset, "(whole dataset)", rule, why.description, shipped_severity(rule), advice)
    for feature, distance in _distances(result).items():
        if feature not in stopped_drift and distance > max_drift / 2:
            text = f"The L-infinity distance to the training span is {distance:.3f}, more than half of {max_drift}."
            yield found(dataset, feature, "DRIFT_NEAR_LIMIT", text)
