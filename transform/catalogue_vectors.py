"""Vectors of pictures and texts enter a catalogue that the transform wrote; everything else of it is linked."""

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorflow.core.example.example_pb2 import Example

from protos.feature_schema_pb2 import Feature
from transform.feature_schema import SCHEMA_FILE, read_schema, write_schema
from transform.tables import DAYS_FOLDER, FIRST
from transform.tfrecords import Column, encode_examples, read_tfrecords, write_tfrecords

_LOG = logging.getLogger(__name__)

_ITEMS = "items-*.tfrecord"
# Records in memory at one time.
_AT_ONCE = 512
# Seconds between two lines of the log.
_TOLD_EVERY = 20.0


@dataclass(frozen=True)
class VectorEncoder:
    """What gives a VECTOR feature its values."""

    column: str  # raw bytes of the records: "image", "title"
    length: int
    vectors: Callable[[Sequence[bytes]], np.ndarray]  # float32 [N, length], all NaN = nothing to encode


def write_vectors(base: Path, output: Path, encoders: Mapping[str, VectorEncoder]) -> dict[str, int]:
    """The catalogue of `base` with features of kind VECTOR; without encoders the same catalogue.

    Args:
        base: output of the transform.
        output: folder to write into; what an attempt before left there is replaced.
        encoders: by the name of the feature.

    Returns:
        Products that got a vector, by feature.

    Raises:
        DataError: a file of `base` is damaged.
        ValueError: `base` has a feature of that name already.
    """
    schema = read_schema(base)
    for name, encoder in encoders.items():
        if name in (feature.name for feature in schema.item):
            raise ValueError(f"{base} has a feature {name!r} already; give vectors to what the transform wrote.")
        schema.item.append(Feature(name=name, kind=Feature.VECTOR, length=encoder.length))
    counts = dict.fromkeys(encoders, 0)
    started = told = time.monotonic()
    done = 0
    for path in sorted(base.rglob("*")):
        target = output / path.relative_to(base)
        if path.is_dir() or path == base / SCHEMA_FILE or path.is_relative_to(base / DAYS_FOLDER):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if not (encoders and path.parent == base and path.match(_ITEMS)):
            os.link(path, target)
            continue

        def records(shard: Path = path) -> Iterator[bytes]:
            nonlocal done, told
            stored = read_tfrecords(str(shard))
            while block := list(itertools.islice(stored, _AT_ONCE)):
                yield from _with_vectors(block, encoders, counts)
                done += len(block)
                if time.monotonic() - told > _TOLD_EVERY:
                    told = time.monotonic()
                    speed = done / (told - started)
                    _LOG.info("content: %d of %d products, %.0f a second", done, schema.catalogue_size - FIRST, speed)

        write_tfrecords(str(target), records())
    write_schema(output, schema)
    return counts


def vector_column(vectors: np.ndarray) -> Column:
    """Vectors, float32 [N, length], as lists of `length` numbers, or of none where all are NaN."""
    present = ~np.isnan(vectors).all(axis=1)
    offsets = np.concatenate([[0], np.cumsum(present) * vectors.shape[1]]).astype(np.int64)
    return Column(vectors[present].ravel().astype(np.float32), offsets)


def _with_vectors(
    records: list[bytes], encoders: Mapping[str, VectorEncoder], counts: dict[str, int]
) -> Iterator[bytes]:
    examples = [Example.FromString(record) for record in records]
    columns: dict[str, Column] = {}
    for name, encoder in encoders.items():
        vectors = encoder.vectors([raw_content(example, encoder.column) for example in examples])
        columns[f"{name}_vector"] = vector_column(vectors)
        counts[name] += int((~np.isnan(vectors).all(axis=1)).sum())
    for record, added in zip(records, encode_examples(columns), strict=True):
        # Two messages end to end are one message with the fields of both (protobuf's encoding): nothing is re-encoded.
        yield record + added


def raw_content(example: Example, column: str) -> bytes:
    """The bytes of a column of a product, empty where it has none."""
    # Looking it up by [] would add the feature to the Example.
    features = example.features.feature
    return b"".join(features[column].bytes_list.value) if column in features else b""
