"""Reads the transform's TFRecords into arrays: the catalogue aligned by row, the sequences end to end."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from protos.feature_schema_pb2 import Feature, FeatureSchema
from transform.feature_schema import Vocabulary, read_schema, tokenize
from transform.tables import BEHAVIOUR, FIRST, PADDING, RESERVED_LINES

_PARSE_BATCH = 1_024
_INTEGERS: dict[str, type[np.generic]] = {
    "rows": np.int32,
    "types": np.int8,
    "labels": np.int32,
    "timestamps": np.int64,
    "sessions": np.int32,
    "baskets": np.int32,
    "devices": np.int32,
    "regions": np.int32,
    "positions": np.int32,
    "surfaces": np.int32,
}
_SEQUENCE_FEATURES = {
    "user_id": tf.io.FixedLenFeature([], tf.string),
    "train_end": tf.io.FixedLenFeature([], tf.int64),
    "validation_end": tf.io.FixedLenFeature([], tf.int64),
    **{name: tf.io.RaggedFeature(tf.int64) for name in _INTEGERS},
    "propensities": tf.io.RaggedFeature(tf.float32),
}
# What a shop may not know of any interaction, with the value that says so.
_WAY_IN: dict[str, int | float] = {"positions": 0, "surfaces": 0, "propensities": np.nan}


class DamagedRecordError(ValueError):
    """A TFRecord file that cannot be read to its end."""


@dataclass(frozen=True)
class Words:
    """The texts of a catalogue as the words they are made of, each word once."""

    strings: np.ndarray  # object [W]; 0 is "", no word
    ids: np.ndarray  # int32 [W] in the feature's vocabulary
    places: np.ndarray  # int32 [V, length]: which word stands where

    @classmethod
    def of(cls, texts: np.ndarray, vocabulary: Vocabulary, length: int) -> "Words":
        """The first `length` words of texts, object [V]."""
        lists = tokenize(pa.array(texts.tolist(), pa.string()))
        starts, stops = lists.offsets.to_numpy()[:-1], lists.offsets.to_numpy()[1:]
        encoded = lists.values.dictionary_encode()
        places = np.zeros((len(texts), length), np.int32)
        for slot in range(length):
            there = starts + slot < stops
            places[there, slot] = 1 + encoded.indices.to_numpy()[starts[there] + slot]
        strings = np.array(["", *encoded.dictionary.to_pylist()], dtype=object)
        ids = vocabulary.ids(encoded.dictionary)
        return cls(strings, np.concatenate([[PADDING], ids]).astype(np.int32), places)


@dataclass(frozen=True)
class Catalogue:
    """Every product, in arrays aligned by catalogue row; rows 0 (padding) and 1 (unknown) are reserved and empty."""

    schema: FeatureSchema
    item_ids: np.ndarray  # object [V]; rows 0 and 1 hold the reserved lines
    id_rows: np.ndarray  # int32 [V]: id-embedding row; 0 padding, 1 out of vocabulary
    features: dict[str, np.ndarray]  # feature name → int32 ids [V, length]; float32 [V, 1] or [V, length], NaN = absent
    train_counts: np.ndarray  # int64 [V]: interactions in the training span
    known_from: np.ndarray  # int64 [V], seconds
    available: np.ndarray  # bool [V]
    titles: np.ndarray  # object [V], "" = absent
    categories: np.ndarray  # object [V], path, "" = absent
    prices: np.ndarray  # float32 [V], NaN = absent
    images: list[bytes]  # [V], b"" = none
    words: dict[str, Words] = field(default_factory=dict)  # of each text feature
    # object [V], "" = absent; left out (empty) means that no product has one
    brands: np.ndarray = field(default_factory=lambda: np.empty(0, object))

    def __post_init__(self) -> None:
        if not len(self.brands):
            object.__setattr__(self, "brands", np.full(self.size, "", dtype=object))
        elif len(self.brands) != self.size:
            raise ValueError(f"brands: must have a value for each of {self.size} rows, received {len(self.brands)}.")

    @property
    def size(self) -> int:
        """V: catalogue rows, reserved ones included."""
        return len(self.item_ids)

    @property
    def trained_rows(self) -> np.ndarray:
        """Rows that a training may learn from, the reserved ones first: int32 [T].

        Products that nobody met in the training span are no negatives: most of them were not there yet. As negatives
        that are never positives they would be learned to be wanted by nobody, by words that only they have.
        """
        trained = self.train_counts > 0
        if not trained.any():
            trained[:] = True
        trained[:FIRST] = True
        return np.flatnonzero(trained).astype(np.int32)


@dataclass(frozen=True)
class Sequences:
    """All interactions of all shoppers end to end; shopper u owns [offsets[u], offsets[u + 1]), in time order."""

    user_ids: np.ndarray  # object [U]
    offsets: np.ndarray  # int64 [U + 1]
    train_end: np.ndarray  # int64 [U]: interactions of the training span, counted from the shopper's first
    validation_end: np.ndarray  # int64 [U]: of training and validation span
    rows: np.ndarray  # int32 [N] catalogue rows
    types: np.ndarray  # int8 [N] strongest event type
    labels: np.ndarray  # int32 [N] bit mask of all merged event types
    timestamps: np.ndarray  # int64 [N] seconds; the order where the data has no clock
    sessions: np.ndarray  # int32 [N]
    baskets: np.ndarray  # int32 [N]
    devices: np.ndarray  # int32 [N]; all 0 where absent
    regions: np.ndarray  # int32 [N]; all 0 where absent
    # How the shopper met the product; left out (empty) means unknown for all. Only training reads them: whoever asks
    # for a recommendation does not know yet where it will be shown.
    positions: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))  # int32 [N], 1 = first, 0 = unknown
    surfaces: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))  # int32 [N] ids of surface.txt
    propensities: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))  # float32 [N] logged, or NaN

    def __post_init__(self) -> None:
        for name, unknown in _WAY_IN.items():
            values = getattr(self, name)
            if not len(values):
                object.__setattr__(self, name, np.full(len(self.rows), unknown, values.dtype))
            elif len(values) != len(self.rows):
                raise ValueError(
                    f"{name}: must have a value for each of {len(self.rows)} interactions, received {len(values)}."
                )

    @property
    def lengths(self) -> np.ndarray:
        """Interactions per shopper, int64 [U]."""
        return np.diff(self.offsets)


def load_catalogue(transform_dir: Path) -> Catalogue:
    """The catalogue that `tandem transform` wrote.

    Raises:
        DamagedRecordError: a file is truncated or corrupt, or rows are missing.
    """
    schema = read_schema(transform_dir)
    size = schema.catalogue_size
    item_ids, titles, categories, brands, descriptions = (np.full(size, "", dtype=object) for _ in range(5))
    item_ids[:FIRST] = RESERVED_LINES
    id_rows = np.zeros(size, np.int32)
    id_rows[1] = 1
    prices = np.full(size, np.nan, np.float32)
    train_counts, known_from = np.zeros(size, np.int64), np.zeros(size, np.int64)
    available = np.zeros(size, bool)
    images = [b""] * size
    features = {feature.name: _empty_feature(feature, size) for feature in schema.item}

    seen = 0
    for example in _examples(transform_dir, "items"):
        row = example["row"].int64_list.value[0]
        seen += 1
        item_ids[row] = example["item_id"].bytes_list.value[0].decode()
        id_rows[row] = example["id_row"].int64_list.value[0]
        train_counts[row] = example["train_count"].int64_list.value[0]
        known_from[row] = example["known_from"].int64_list.value[0]
        available[row] = bool(example["available"].int64_list.value[0])
        titles[row] = b"".join(example["title"].bytes_list.value).decode()
        descriptions[row] = b"".join(example["description"].bytes_list.value).decode()
        categories[row] = b"".join(example["category"].bytes_list.value).decode()
        brands[row] = b"".join(example["brand"].bytes_list.value).decode()
        images[row] = b"".join(example["image"].bytes_list.value)
        if example["price_raw"].float_list.value:
            prices[row] = example["price_raw"].float_list.value[0]
        for feature in schema.item:
            if feature.name == BEHAVIOUR:
                values = _behaviour(example)
            elif feature.kind == Feature.NUMERIC:
                values = example[feature.name].float_list.value
            elif feature.kind == Feature.VECTOR:
                values = example[f"{feature.name}_vector"].float_list.value
            else:
                values = example[f"{feature.name}_ids"].int64_list.value
            features[feature.name][row, : len(values)] = values
    if seen != size - FIRST:
        raise DamagedRecordError(
            f"{transform_dir}: the items TFRecords hold {seen} products, the feature schema says {size - FIRST}. "
            "Run `tandem transform` again."
        )
    texts = {"title": titles, "description": descriptions}
    words = {
        feature.name: Words.of(texts[feature.name], Vocabulary.of(transform_dir, feature), feature.length)
        for feature in schema.item
        if feature.kind == Feature.TEXT
    }
    return Catalogue(
        *(schema, item_ids, id_rows, features, train_counts, known_from, available),
        *(titles, categories, prices, images, words, brands),
    )


def load_sequences(transform_dir: Path, records: Mapping[str, np.ndarray] | None = None) -> Sequences:
    """The sequences that `tandem transform` wrote, in the order of the files.

    Args:
        transform_dir: output of the transform.
        records: only these, file name → numbers in increasing order, at least one; None = all.

    Raises:
        DamagedRecordError: a file is truncated or corrupt.
    """
    user_ids: list[str] = []
    ends: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*_INTEGERS, "propensities")}
    for batch in _records(transform_dir, "sequences", records):
        parsed = tf.io.parse_example(batch, _SEQUENCE_FEATURES)
        user_ids += [user_id.decode() for user_id in parsed["user_id"].numpy().tolist()]
        ends.append(np.column_stack([parsed["train_end"], parsed["validation_end"]]))
        length = parsed["rows"].row_lengths().numpy()
        lengths.append(length)
        for name, dtype in _INTEGERS.items():
            parts[name].append(_of_each(parsed[name], length, 0).astype(dtype))
        parts["propensities"].append(_of_each(parsed["propensities"], length, np.nan))
    if not user_ids:
        raise DamagedRecordError(f"{transform_dir}: the sequences TFRecords hold no shopper. Check the events table.")
    end_array = np.concatenate(ends)
    return Sequences(
        np.array(user_ids, dtype=object),
        np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
        end_array[:, 0],
        end_array[:, 1],
        **{name: np.concatenate(values) for name, values in parts.items()},
    )


def _of_each(values: tf.RaggedTensor, lengths: np.ndarray, unknown: float) -> np.ndarray:
    """A value of each interaction, end to end; `unknown` for shoppers who have not as many as interactions.

    Args:
        values: [batch, (values)].
        lengths: int64 [batch], interactions.
    """
    found = values.flat_values.numpy()
    known = values.row_lengths().numpy()
    complete = known == lengths
    if complete.all():
        return found
    every = np.full(lengths.sum(), unknown, found.dtype)
    every[np.repeat(complete, lengths)] = found[np.repeat(complete, known)]
    return every


def _behaviour(example: Mapping[str, tf.train.Feature]) -> list[float]:
    """log(1 + interactions), log(1 + those with a cart), log(1 + purchases) of the training span, and the shares of
    carts and of purchases among interactions; nothing for a product that training never met."""
    names = ("train_count", "train_carts", "train_purchases")
    count, carts, purchases = (example[name].int64_list.value[0] for name in names)
    if not count:
        return []
    return [math.log1p(count), math.log1p(carts), math.log1p(purchases), carts / count, purchases / count]


def _empty_feature(feature: Feature, size: int) -> np.ndarray:
    if feature.kind == Feature.NUMERIC:
        return np.full((size, 1), np.nan, np.float32)
    if feature.kind == Feature.VECTOR:
        return np.full((size, feature.length), np.nan, np.float32)
    return np.zeros((size, feature.length), np.int32)


def record_files(transform_dir: Path, kind: str) -> list[Path]:
    """The files `<kind>-*.tfrecord`, in order.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(transform_dir.glob(f"{kind}-*.tfrecord"))
    if not files:
        raise FileNotFoundError(f"no {kind}-*.tfrecord in {transform_dir}: run `tandem transform` first.")
    return files


def batches_of_records(file: Path, first: int = 0, count: int = -1) -> Iterator[np.ndarray]:
    """Serialised Examples of one file, object [up to 1,024] each, from record `first` on; count −1 = all that follow.

    Raises:
        DamagedRecordError: the file is truncated or corrupt.
    """
    batches = tf.data.TFRecordDataset(str(file)).skip(first).take(count).batch(_PARSE_BATCH).as_numpy_iterator()
    number = first
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except tf.errors.DataLossError as error:
            raise DamagedRecordError(
                f"{file} is damaged after about record {number}: {error.message}. "
                "Delete the step's folder and run `tandem transform` again."
            ) from error
        yield batch
        number += len(batch)


def _examples(transform_dir: Path, kind: str) -> Iterator[dict[str, tf.train.Feature]]:
    """Features of each Example of `<kind>-*.tfrecord`, files in order, records in order."""
    for batch in _records(transform_dir, kind):
        for record in batch:
            yield tf.train.Example.FromString(record).features.feature


def _records(transform_dir: Path, kind: str, records: Mapping[str, np.ndarray] | None = None) -> Iterator[np.ndarray]:
    """Serialised Examples of `<kind>-*.tfrecord`, object [up to 1,024] each, files in order, records in order.

    `records`: only these, file name → numbers in increasing order; None = all.
    """
    for file in record_files(transform_dir, kind):
        if records is None:
            yield from batches_of_records(file)
        elif file.name in records:
            yield from _chosen_records(file, records[file.name])


def _chosen_records(file: Path, numbers: np.ndarray) -> Iterator[np.ndarray]:
    first = start = int(numbers[0])
    for batch in batches_of_records(file, first, int(numbers[-1]) + 1 - first):
        inside = numbers[np.searchsorted(numbers, start) : np.searchsorted(numbers, start + len(batch))]
        if len(inside):
            yield batch[inside - start]
        start += len(batch)
