"""Guards what is asked for against what was trained on: logged requests and the training span's examples."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from transform.arrow_files import write_json
from transform.baseline import all_item_ids
from transform.checks import DataError
from transform.clock import hour_of_day, weekday
from transform.config import ValidateConfig
from transform.data_schema import SERVING, check_schema, kept_schema
from transform.data_statistics import Statistics, as_lists, batch_statistics, decode, records, span_statistics
from transform.findings import STOP, WARN, Anomaly, check_rule_names, found, judge, judged
from transform.guard_drift import Limits, drift
from transform.interactions import SPANS
from transform.logged_requests import read_requests

SKEW_FILE = "skew.json"
_REQUESTS = "requests"
_TRAIN = SPANS[0]
# A time in seconds beyond this (the year 5138) is in another unit.
_LARGEST_SECONDS = 10**11


def check_requests(
    transform_dir: Path, schema_dir: Path, requests: Path, output: Path, config: ValidateConfig, log_dir: Path
) -> None:
    """Compares logged requests with the training span and with the schema's environment SERVING.

    `output` gets skew.json, `log_dir` TensorBoard events. New visitors, who have no history yet, are counted and
    otherwise left aside: no training example is like them.

    Raises:
        FileNotFoundError: no log, or no transform.
        GuardError: a finding that stops.
        DataError: a damaged log, an unreadable schema, or no request with a history.
    """
    check_rule_names(dict(config.severity))
    read = read_requests(requests, config.sample_events)
    rows = read.rows.filter(pc.is_valid(read.rows["item_id"])).combine_chunks()
    if not rows.num_rows:
        raise DataError(f"{requests}: none of {read.read:,} requests has a history: there is nothing to compare.")
    known = pc.is_in(rows["item_id"], value_set=pa.array(all_item_ids(transform_dir), pa.string()))
    seconds = rows["timestamp"].combine_chunks()
    wrong_unit = pc.fill_null(pc.greater(seconds, _LARGEST_SECONDS), False)
    file = schema_dir / "events.pbtxt"
    schema = kept_schema(file, span_statistics(transform_dir, _TRAIN))
    anomalies, _ = check_schema(_REQUESTS, _schema_statistics(rows), schema, file, environment=SERVING)
    anomalies += _value_findings(known, wrong_unit, config)
    limits = Limits(config.max_skew, config.max_divergence, config.max_missing_change, config.max_new_values)
    findings, distances = drift(
        _REQUESTS, _statistics(rows, _hours(seconds)), _training(transform_dir, config.sample_events), limits, "skew"
    )
    anomalies = judged([*anomalies, *findings], dict(config.severity), blessed=True)
    summary = {
        "requests": read.read,
        "looked_at": rows.num_rows,
        "new_visitors": 1 - rows.num_rows / max(read.rows.num_rows, 1),
        "unknown_products": 1 - float(pc.mean(known).as_py()),
        "skew": distances,
        "stop": sum(anomaly.severity == STOP for anomaly in anomalies),
        "warn": sum(anomaly.severity == WARN for anomaly in anomalies),
        "findings": [asdict(anomaly) for anomaly in anomalies],
    }
    write_json(str(output / SKEW_FILE), summary, indent=2)
    _log(log_dir, summary)
    judge(anomalies)


def _value_findings(known: pa.ChunkedArray, wrong_unit: pa.Array, config: ValidateConfig) -> Iterator[Anomaly]:
    unknown = 1 - float(pc.mean(known).as_py())
    if unknown > config.max_unknown_products:
        text = (
            f"{unknown:.1%} of the newest products are not in the catalogue (limit {config.max_unknown_products:.0%})."
        )
        yield found(_REQUESTS, "history_item_ids", "UNKNOWN_PRODUCTS_HIGH", text)
    share = float(pc.mean(wrong_unit).as_py())
    if share > 0:
        text = f"{share:.1%} of the times lie beyond the year 5000: they are not in seconds."
        yield found(_REQUESTS, "context_timestamp", "NOT_SECONDS", text)


def _hours(seconds: pa.Array) -> pa.Array:
    return _parts(seconds)[0].cast(pa.string())


def _parts(seconds: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Hour and weekday of times, int64, null where those are."""
    absent = pc.is_null(seconds).to_numpy(zero_copy_only=False)
    values = pc.fill_null(seconds, 0).to_numpy()
    return pa.array(hour_of_day(values), mask=absent), pa.array(weekday(values), mask=absent)


def _schema_statistics(rows: pa.Table) -> Statistics:
    """Of the features that the schema has, as it has them; a column that no request has is absent."""
    columns = {name: rows[name].combine_chunks().cast(pa.large_binary()) for name in rows.column_names[:-1]}
    columns["hour"], columns["weekday"] = _parts(rows["timestamp"].combine_chunks())
    return _of_columns(columns)


def _statistics(rows: pa.Table, hours: pa.Array) -> Statistics:
    columns = {name: rows[name].combine_chunks().cast(pa.large_binary()) for name in ("type", "device", "region")}
    return _of_columns(columns | {"hour": hours.cast(pa.large_binary())})


def _training(transform_dir: Path, most: int) -> Statistics:
    """The same features of the training span's sampled examples."""
    drawn = list(records([transform_dir / "samples" / f"events-{_TRAIN}.tfrecord"], 1))
    batch = decode(drawn[:: -(-len(drawn) // most)])
    columns = {
        name: pc.list_element(batch.column(name), 0)
        for name in ("type", "device", "region", "hour")
        if name in batch.schema.names and not pa.types.is_null(batch.column(name).type)
    }
    if "hour" in columns:
        columns["hour"] = columns["hour"].cast(pa.string())
    return _of_columns({name: values.cast(pa.large_binary()) for name, values in columns.items()})


def _of_columns(columns: dict[str, pa.Array]) -> Statistics:
    lists = {name: as_lists(values) for name, values in columns.items() if values.null_count < len(values)}
    return batch_statistics(pa.RecordBatch.from_arrays(list(lists.values()), names=list(lists)))


def _log(log_dir: Path, summary: dict) -> None:
    writer = tf.summary.create_file_writer(str(log_dir))
    with writer.as_default(step=0):
        for name in ("requests", "new_visitors", "unknown_products"):
            tf.summary.scalar(name, summary[name])
        for name, distance in summary["skew"].items():
            tf.summary.scalar(f"skew/{name}", distance)
        for finding in summary["findings"]:
            tf.summary.scalar(f"findings/{finding['rule']}/{finding['feature']}", 1)
    writer.close()
