"""Requests as servers log them, read back: what shoppers were asked about, in the words of the training examples.

Two forms, by the file's name:

* `*.tfrecord`, `*.tfrecord.gz`: TFRecords of `tensorflow.serving.PredictionLog`, as TensorFlow Serving logs requests
  (`logging_config` in models.config).
* `*.jsonl`: one JSON object a line, the body of a REST predict request in column form: {"inputs": {"history_item_ids":
  [["sku-1", "sku-2"]], "context_device": ["mobile"], …}}.

Of a request each row of its batch counts, with the newest product of its history.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from transform.checks import DataError
from transform.fingerprints import fingerprint, share

# Signatures that ask for a shopper; the others ask about products.
SHOPPER_SIGNATURES = frozenset(
    (
        "",  # the default one
        "serving_default",
        "recommend",
        "recommend_filtered",
        "recommend_lists",
        "retrieve",
        "retrieve_filtered",
        "rank",
        "embed_user",
        "explain",
    )
)
_COMPRESSED = {".gz": "GZIP"}
SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),  # newest of the history, null for a new visitor
        ("type", pa.string()),
        ("device", pa.string()),
        ("region", pa.string()),
        ("timestamp", pa.int64()),  # of the request, seconds if the client does as it should
    ]
)


@dataclass(frozen=True)
class Requests:
    """Drawn requests, and how many there were."""

    rows: pa.Table  # SCHEMA
    read: int


def read_requests(path: Path, most: int) -> Requests:
    """Requests in a log file or in all log files of a folder; of more than `most`, about so many drawn by a hash.

    Raises:
        FileNotFoundError: there is no log file.
        DataError: a file is damaged or not of its form; the message names file and record.
    """
    files = sorted(file for pattern in ("*.tfrecord", "*.tfrecord.gz", "*.jsonl") for file in path.rglob(pattern))
    files = [path] if path.is_file() else files
    if not files:
        raise FileNotFoundError(f"{path}: holds no *.tfrecord, *.tfrecord.gz or *.jsonl of logged requests.")
    kept: list[tuple[float, dict[str, Any]]] = []
    part, read = 1.0, 0
    for file in files:
        for record, row in _rows(file):
            read += 1
            place = float(share(fingerprint(pa.array([f"{record}"])))[0])
            if place < part:
                kept.append((place, row))
            if len(kept) > 2 * most:
                part = sorted(entry[0] for entry in kept)[most]
                kept = [entry for entry in kept if entry[0] < part]
    return Requests(pa.Table.from_pylist([row for _, row in kept], SCHEMA), read)


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A name of each row, the same however files are split, and the row."""
    for number, inputs in enumerate(_json_lines(file) if file.suffix == ".jsonl" else _prediction_logs(file)):
        try:
            rows = list(_batch(inputs))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise DataError(
                f"{file}, record {number} (from 0): not the inputs of a recommendation: {type(error).__name__}: "
                f"{error}. history_item_ids [batch, length] and what is sent beside it are expected."
            ) from error
        for place, row in enumerate(rows):
            yield f"{place} {sorted(row.items(), key=str)} {number}", row


def _json_lines(file: Path) -> Iterator[dict[str, np.ndarray]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                request = json.loads(line)
                inputs = request["inputs"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{file}, line {number + 1}: must be a JSON object with `inputs`, received {line[:80]!r}."
                ) from error
            if request.get("signature_name", "") in SHOPPER_SIGNATURES:
                yield {name: np.array(value) for name, value in inputs.items()}


def _prediction_logs(file: Path) -> Iterator[dict[str, np.ndarray]]:
    records = tf.data.TFRecordDataset(str(file), compression_type=_COMPRESSED.get(file.suffix, ""))
    try:
        for record in records.as_numpy_iterator():
            request = PredictionLog.FromString(record).predict_log.request
            if request.model_spec.signature_name in SHOPPER_SIGNATURES and request.inputs:
                yield {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
    except (tf.errors.DataLossError, ValueError) as error:
        raise DataError(f"{file}: not TFRecords of PredictionLog: {error}. Leave the file out.") from error


def _batch(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Each shopper of one request; empty strings are padding or absent."""
    for row, history in enumerate(inputs["history_item_ids"]):
        filled = [place for place, item in enumerate(history) if item]
        newest = filled[-1] if filled else None
        types = inputs.get("history_event_types")
        yield {
            "item_id": None if newest is None else _text(history[newest]),
            "type": None if newest is None or types is None else _text(types[row][newest]),
            "device": _text(_of(inputs, "context_device", row)),
            "region": _text(_of(inputs, "context_region", row)),
            "timestamp": int(_of(inputs, "context_timestamp", row) or 0) or None,
        }


def _of(inputs: dict[str, np.ndarray], name: str, row: int) -> Any:
    """A value of an optional input; one that was sent once stands for the whole batch, as its default does."""
    values = inputs.get(name)
    return None if values is None else values[min(row, len(values) - 1)]


def _text(value: Any) -> str | None:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)) if value else None
