"""Guards the transform's output with TensorFlow Data Validation: statistics, one reviewed schema, anomalies, drift.

Severity. These stop a run: a feature that vanished, is of another type or is missing in far more rows than the schema
allows; values outside a closed domain or range; drift beyond `max_drift`. These warn: a feature that the schema does
not know yet, and drift beyond half of `max_drift`. Products, brands, categories and regions may be new at any time:
they are free strings, whose distribution is watched where it matters.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from transform.checks import DataError
from transform.config import ValidateConfig
from transform.interactions import SPANS
from transform.statistics_page import write_page
from transform.tables import EVENT_TYPES, IMPRESSION, SEARCH

logger = logging.getLogger(__name__)

EVENTS, ITEMS = "events", "items"
_TRAIN = SPANS[0]
_READ_BATCH = 1_024
# What is watched of a product; pictures by whether there is one.
_ITEM_COLUMNS = ("item_id", "title", "category", "brand", "price_raw", "available", "known_from", "train_count")
_DRIFTING = ("type", "device", "region", "category")
# Values that a closed list may hold without an anomaly if they are this rare, and the part of the rows in which an
# optional value may be missing beyond what was seen when the schema was made.
_TOLERATED = 0.1
# Features that the transform makes itself are in every row.
_ALWAYS = ("item_id", "type", "known_item", "hour", "weekday", "available", "known_from", "train_count", "has_image")
_OPEN_STRINGS = ("item_id", "title", "category", "brand", "region")
_NOT_NEGATIVE = ("price", "price_raw", "quantity")
_RANGES = {"hour": (0, 23), "weekday": (0, 6), "known_item": (0, 1), "available": (0, 1), "has_image": (0, 1)}

STOP, WARN = "stop", "warn"


@dataclass(frozen=True)
class Anomaly:
    """One finding."""

    dataset: str  # "train", "validation", "test" or "items"
    feature: str
    rule: str
    description: str
    severity: str


def run_validation(transform_dir: Path, schema_dir: Path, output: Path, config: ValidateConfig, log_dir: Path) -> None:
    """Checks the samples and the catalogue that the transform wrote against the schema in `schema_dir`.

    Where `schema_dir` has no schema yet, it is inferred from the training span and written there, to be reviewed by a
    person and kept. `output` gets statistics_<dataset>.pb, statistics.html, anomalies.json and summary.json, `log_dir`
    TensorBoard events.

    Raises:
        FileNotFoundError: the transform's output is not there.
        DataError: an anomaly that stops the run, or an unreadable schema.
    """
    output.mkdir(parents=True, exist_ok=True)
    statistics = {span: _span_statistics(transform_dir, span) for span in SPANS}
    statistics[ITEMS] = _item_statistics(transform_dir, config.sample_items)
    for name, found in statistics.items():
        (output / f"statistics_{name}.pb").write_bytes(found.SerializeToString())
    write_page(output / "statistics.html", statistics)
    schemas = {
        EVENTS: _kept_schema(schema_dir / "events.pbtxt", statistics[_TRAIN]),
        ITEMS: _kept_schema(schema_dir / "items.pbtxt", statistics[ITEMS]),
    }
    anomalies: list[Anomaly] = []
    drift: dict[str, dict[str, float]] = {}
    for name, found in statistics.items():
        schema = schemas[ITEMS if name == ITEMS else EVENTS]
        previous = statistics[_TRAIN] if name in SPANS and name != _TRAIN else None
        result = validate(found, schema, previous, config.max_drift)
        drift[name] = _distances(result)
        anomalies += _findings(name, result, config.max_drift)
    _write_results(output, statistics, anomalies, drift, schema_dir)
    _log(log_dir, statistics, anomalies, drift)
    _judge(anomalies, schema_dir)


def _span_statistics(transform_dir: Path, span: str) -> statistics_pb2.DatasetFeatureStatisticsList:
    file = transform_dir / "samples" / f"events-{span}.tfrecord"
    if not file.is_file():
        raise FileNotFoundError(f"{file} not found: run `tandem transform` first.")
    records = list(_records([file], 1))
    if not records:
        raise DataError(f"{file}: the sample of the {span} span is empty. Raise transform.sample_events.")
    return batch_statistics(_decode(records))


def _item_statistics(transform_dir: Path, sample_items: int) -> statistics_pb2.DatasetFeatureStatisticsList:
    files = sorted(transform_dir.glob("items-*.tfrecord"))
    if not files:
        raise FileNotFoundError(f"no items-*.tfrecord in {transform_dir}: run `tandem transform` first.")
    counts = json.loads((transform_dir / "statistics.json").read_text(encoding="utf-8"))
    size = counts["items_catalogue"] + counts["items_only_in_events"]
    batch = _decode(list(_records(files, -(-size // sample_items))))
    columns = {name: batch.column(name) for name in _ITEM_COLUMNS if name in batch.schema.names}
    pictures = pc.is_valid(batch.column("image")).cast(pa.int64())
    columns["has_image"] = pa.LargeListArray.from_arrays(pa.array(range(len(pictures) + 1), pa.int64()), pictures)
    return batch_statistics(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)))


def _records(files: Iterable[Path], stride: int) -> Iterator[bytes]:
    """Every `stride`-th record of TFRecord files."""
    records = tf.data.TFRecordDataset([str(file) for file in files]).shard(stride, 0)
    try:
        for batch in records.batch(_READ_BATCH).as_numpy_iterator():
            yield from batch.tolist()
    except tf.errors.DataLossError as error:
        names = ", ".join(str(file) for file in files)
        raise DataError(f"{names}: damaged TFRecord: {error.message}. Run `tandem transform` again.") from error


def _decode(records: list[bytes]) -> pa.RecordBatch:
    """Columns of Examples; a feature without values is missing, not an empty list."""
    batch = ExamplesToRecordBatchDecoder().DecodeBatch(records)
    columns = [
        column if pa.types.is_null(column.type) else pc.if_else(_filled(column), column, pa.scalar(None, column.type))
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _filled(column: pa.Array) -> pa.Array:
    return pc.fill_null(pc.greater(pc.list_value_length(column), 0), False)


def batch_statistics(batch: pa.RecordBatch) -> statistics_pb2.DatasetFeatureStatisticsList:
    """TFDV's statistics of one batch in memory: some twenty times faster here than the same through Beam."""
    return stats_impl.generate_statistics_in_memory(batch, tfdv.StatsOptions())


def _kept_schema(file: Path, statistics: statistics_pb2.DatasetFeatureStatisticsList) -> schema_pb2.Schema:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        schema = infer_schema(statistics)
        partial = file.with_suffix(".partial")
        partial.write_text(text_format.MessageToString(schema, as_utf8=True), encoding="utf-8")
        partial.replace(file)
        logger.info("Inferred the schema %s: review it, it is kept from now on.", file)
        return schema
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: not a TensorFlow Metadata schema in protobuf's text form: {error}. Correct it, or delete it to "
            "have it inferred again."
        ) from error


def infer_schema(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> schema_pb2.Schema:
    """TFDV's schema of `statistics`, with the tolerance that a living shop needs."""
    schema = tfdv.infer_schema(statistics, infer_feature_shape=False)
    rows = statistics.datasets[0].num_examples
    missing = {found.path.step[0]: _common(found).num_missing / rows for found in statistics.datasets[0].features}
    for feature in schema.feature:
        name = feature.name
        always = name in _ALWAYS
        feature.presence.min_fraction = 1.0 if always else max(0.0, round(1 - missing[name] - _TOLERATED, 3))
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


def _common(found: statistics_pb2.FeatureNameStatistics) -> statistics_pb2.CommonStatistics:
    kind = found.WhichOneof("stats")
    return getattr(found, kind).common_stats


def validate(
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    schema: schema_pb2.Schema,
    previous: statistics_pb2.DatasetFeatureStatisticsList | None,
    max_drift: float,
) -> anomalies_pb2.Anomalies:
    """TFDV's anomalies; drift from `previous` is measured by L-infinity, at a threshold the schema may set itself."""
    watched = schema_pb2.Schema()
    watched.CopyFrom(schema)
    for feature in watched.feature:
        if feature.name in _DRIFTING and not feature.HasField("drift_comparator"):
            feature.drift_comparator.infinity_norm.threshold = max_drift
    return tfdv.validate_statistics(statistics, watched, previous_statistics=previous)


def _distances(result: anomalies_pb2.Anomalies) -> dict[str, float]:
    """L-infinity distance from the training span by feature."""
    return {
        info.path.step[0]: measurement.value
        for info in result.drift_skew_info
        for measurement in info.drift_measurements
    }


def _findings(dataset: str, result: anomalies_pb2.Anomalies, max_drift: float) -> list[Anomaly]:
    kinds = anomalies_pb2.AnomalyInfo.Type
    findings = []
    stopped_drift = set()
    for feature, info in sorted(result.anomaly_info.items()):
        for why in info.reason:
            rule = kinds.Name(why.type)
            if why.type == kinds.COMPARATOR_L_INFTY_HIGH:
                stopped_drift.add(feature)
            severity = WARN if why.type == kinds.SCHEMA_NEW_COLUMN else STOP
            findings.append(Anomaly(dataset, feature, rule, why.description or why.short_description, severity))
    if result.HasField("dataset_anomaly_info"):
        for why in result.dataset_anomaly_info.reason:
            findings.append(Anomaly(dataset, "(whole dataset)", kinds.Name(why.type), why.description, STOP))
    for feature, distance in _distances(result).items():
        if feature not in stopped_drift and distance > max_drift / 2:
            text = f"The L-infinity distance to the training span is {distance:.3f}, more than half of {max_drift}."
            findings.append(Anomaly(dataset, feature, "DRIFT_NEAR_LIMIT", text, WARN))
    return findings


def _write_results(
    output: Path,
    statistics: dict[str, statistics_pb2.DatasetFeatureStatisticsList],
    anomalies: list[Anomaly],
    drift: dict[str, dict[str, float]],
    schema_dir: Path,
) -> None:
    found = [asdict(anomaly) for anomaly in anomalies]
    (output / "anomalies.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    summary = {
        "examples": {name: int(stats.datasets[0].num_examples) for name, stats in statistics.items()},
        "stop": sum(anomaly.severity == STOP for anomaly in anomalies),
        "warn": sum(anomaly.severity == WARN for anomaly in anomalies),
        "drift": {name: distances for name, distances in drift.items() if distances},
        "schema": str(schema_dir),
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _log(
    log_dir: Path,
    statistics: dict[str, statistics_pb2.DatasetFeatureStatisticsList],
    anomalies: list[Anomaly],
    drift: dict[str, dict[str, float]],
) -> None:
    """TensorBoard scalars: one run per dataset would hide the comparison, so the dataset is part of the tag."""
    writer = tf.summary.create_file_writer(str(log_dir))
    with writer.as_default(step=0):
        for name, found in statistics.items():
            rows = found.datasets[0].num_examples
            tf.summary.scalar(f"examples/{name}", rows)
            for feature in found.datasets[0].features:
                path = feature.path.step[0]
                tf.summary.scalar(f"missing_share/{path}/{name}", _common(feature).num_missing / rows)
                if feature.HasField("num_stats"):
                    tf.summary.scalar(f"mean/{path}/{name}", feature.num_stats.mean)
            for path, distance in drift[name].items():
                tf.summary.scalar(f"drift/{path}/{name}", distance)
        lines = [
            f"* **{found.severity}** {found.dataset}, `{found.feature}`: {found.description}" for found in anomalies
        ]
        tf.summary.text("anomalies", "\n".join(lines) or "none")
    writer.close()


def _judge(anomalies: list[Anomaly], schema_dir: Path) -> None:
    for found in anomalies:
        if found.severity == WARN:
            logger.warning("%s, feature %r: %s (%s)", found.dataset, found.feature, found.description, found.rule)
    stopping = [found for found in anomalies if found.severity == STOP]
    if not stopping:
        return
    sentences = [_sentence(found, schema_dir) for found in stopping]
    raise DataError(
        "the data does not fit its schema: " + " ".join(sentences) + " Correct the data; or accept the change by "
        "editing the feature in that schema file (drift: its drift_comparator, or validate.max_drift), or by deleting "
        "the file to have it inferred from the new data."
    )


def _sentence(found: Anomaly, schema_dir: Path) -> str:
    file = schema_dir / ("items.pbtxt" if found.dataset == ITEMS else "events.pbtxt")
    where = "products" if found.dataset == ITEMS else f"{found.dataset} span"
    return f"{where}, feature {found.feature!r}, rule {found.rule}: {found.description.rstrip('.')} (schema: {file})."
