"""Interactions of a bucket to its TFRecords: one Example a shopper, and a flat sample for data validation."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from protos.feature_schema_pb2 import FeatureSchema
from transform.arrow_files import SpilledFile, read_table, write_table
from transform.catalogue import Catalogue, read_catalogue
from transform.clock import hour_of_day, weekday
from transform.event_cap import NewestEvents
from transform.feature_schema import Vocabulary
from transform.fingerprints import fingerprint, share
from transform.interactions import SPANS, TEST, TRAIN, Bucket, Rules, build_bucket
from transform.tables import CATEGORY_SEPARATOR, EVENT_TYPES, FIRST, PADDING
from transform.tfrecords import Column, encode_examples, optional, single, write_tfrecords

# Events that the window of days leaves out, by count.
BEFORE_WINDOW = "before_window"
# What precedes the last level of a category's path.
_LEVELS_ABOVE = f"^(?s:.)*{CATEGORY_SEPARATOR}"


@dataclass(frozen=True)
class BucketFiles:
    """Where one bucket's interactions, products, contexts, positions, days and sample stand between the steps."""

    interactions: str
    products: str
    contexts: str
    positions: str
    days: str
    sample: str


def bucket_files(folder: str, bucket: int) -> BucketFiles:
    """Names are the same at each attempt, so that a repeated one replaces the first."""
    names = ("interactions", "products", "contexts", "positions", "days", "sample")
    return BucketFiles(*(FileSystems.join(folder, f"{name}-{bucket:05d}.arrow") for name in names))


class BuildBuckets(beam.DoFn):
    """(bucket, spilled files) → counts; writes the interactions and what was counted and drawn of the events."""

    def __init__(self, rules: Rules, folder: str, most: int) -> None:
        """`most`: events of one shopper that are kept."""
        self._rules = rules
        self._folder = folder
        self._most = most

    def process(self, spilled: tuple[int, list[SpilledFile]]) -> Iterator[dict[str, int]]:
        """One bucket at a time is in memory; one without events in the window leaves no files."""
        number, files = spilled
        newest = NewestEvents(self._most)
        since = self._rules.since
        before = 0
        for file in files:
            table = file.read()
            within = table if since is None else table.filter(pc.greater_equal(table["timestamp"], since))
            before += table.num_rows - within.num_rows
            newest.add(within)
        counts = {BEFORE_WINDOW: before}
        if newest.counts["events"]:
            bucket = build_bucket(newest.table(), self._rules)
            self._write(bucket_files(self._folder, number), bucket)
            counts |= bucket.counts
        yield counts | newest.counts

    @staticmethod
    def _write(places: BucketFiles, bucket: Bucket) -> None:
        write_table(places.interactions, bucket.interactions)
        write_table(places.products, bucket.products)
        write_table(places.contexts, bucket.contexts)
        write_table(places.positions, bucket.positions)
        write_table(places.days, bucket.days)
        write_table(places.sample, bucket.sample)


@dataclass(frozen=True)
class SequenceTask:
    """What the writer of sequences needs besides the buckets."""

    catalogue_path: str
    folder: str  # of the buckets' interactions, and of the samples' parts
    output: str
    buckets: int
    has_timestamps: bool
    # Vocabulary of the surfaces, without the reserved lines.
    surfaces: tuple[str, ...]
    # Share of shoppers in the sample of each span.
    sample_shares: tuple[float, ...]


class WriteSequences(beam.DoFn):
    """Bucket number → the path of its TFRecord file; the sample of each span goes to a part of its own."""

    def __init__(self, task: SequenceTask, schema: FeatureSchema) -> None:
        self._task = task
        self._schema_bytes = schema.SerializeToString()

    def setup(self) -> None:
        """Once for each worker."""
        self._catalogue = read_catalogue(self._task.catalogue_path)
        self._contexts = {
            feature.name: Vocabulary.of(Path(self._task.output), feature)
            for feature in FeatureSchema.FromString(self._schema_bytes).context
        }
        self._surfaces = Vocabulary(self._task.surfaces)

    def process(self, bucket: int) -> Iterator[str]:
        """Writes one bucket; a bucket without shoppers is a file without records."""
        task = self._task
        path = FileSystems.join(task.output, f"sequences-{bucket:05d}-of-{task.buckets:05d}.tfrecord")
        place = bucket_files(task.folder, bucket).interactions
        if not FileSystems.exists(place):
            write_tfrecords(path, [])
        else:
            table = read_table(place).combine_chunks()
            rows = rows_of(table, self._catalogue)
            columns = sequence_columns(table, rows, self._contexts, self._surfaces)
            write_tfrecords(path, encode_examples(columns))
            self._write_samples(bucket, table, rows)
        yield path

    def _write_samples(self, bucket: int, table: pa.Table, rows: np.ndarray) -> None:
        user = table["user_id"].combine_chunks()
        drawn = share(fingerprint(user.dictionary))[user.indices.to_numpy()]
        spans = table["span"].to_numpy()
        for number, part in enumerate(self._task.sample_shares):
            chosen = np.flatnonzero((spans == number) & (drawn < part))
            columns = sample_columns(
                table.take(pa.array(chosen)).combine_chunks(), rows[chosen], self._catalogue, self._task.has_timestamps
            )
            write_tfrecords(sample_part(self._task.folder, number, bucket), encode_examples(columns))


def sample_part(folder: str, span: int, bucket: int) -> str:
    """Sampled interactions of one bucket and span."""
    return FileSystems.join(folder, f"sample-{SPANS[span]}-{bucket:05d}.tfrecord")


def rows_of(table: pa.Table, catalogue: Catalogue) -> np.ndarray:
    """Catalogue row of each interaction, int64."""
    items = table["item_id"].combine_chunks()
    return catalogue.rows(items.dictionary)[items.indices.to_numpy()]


def sequence_columns(
    table: pa.Table, rows: np.ndarray, contexts: dict[str, Vocabulary], surfaces: Vocabulary
) -> dict[str, Column]:
    """The features of the sequences TFRecords, one Example for each shopper in `table`.

    Args:
        table: interactions as transform/interactions.py makes them, a shopper's together and in time order.
        rows: catalogue row of each interaction.
        contexts: vocabulary of each context feature that the models use.
        surfaces: vocabulary of the surfaces.
    """
    user = table["user_id"].combine_chunks()
    codes = user.indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    offsets = np.append(starts, len(codes))
    span = table["span"].to_numpy()
    ids = user.dictionary.take(pa.array(codes[starts]))
    none = np.zeros(len(ids) + 1, np.int64)
    columns = {"user_id": single(ids), "rows": Column(rows, offsets)}
    for feature, column in _SEQUENCE_FEATURES.items():
        columns[feature] = Column(table[column].to_numpy().astype(np.int64), offsets)
    for feature, column in (("devices", "device"), ("regions", "region")):
        if column in contexts:
            encoded = table[column].combine_chunks()
            columns[feature] = Column(_coded_ids(encoded, contexts[column]), offsets)
        else:
            columns[feature] = Column(np.empty(0, np.int64), none)
    for feature, column in (("prices", "price"), ("quantities", "quantity")):
        present = column in table.column_names
        values = table[column].to_numpy().astype(np.float32) if present else np.empty(0, np.float32)
        columns[feature] = Column(values, offsets if present else none)
    before = np.concatenate([[0], np.cumsum(span == TRAIN)]), np.concatenate([[0], np.cumsum(span < TEST)])
    for feature, running in zip(("train_end", "validation_end"), before, strict=True):
        columns[feature] = single(running[offsets[1:]] - running[offsets[:-1]])
    return columns | _way_in_columns(table, offsets, surfaces)


def _way_in_columns(table: pa.Table, offsets: np.ndarray, surfaces: Vocabulary) -> dict[str, Column]:
    """Where the shopper met each product: features that a shop without such columns does not get at all.

    positions (1 = first, 0 = not from a list), surfaces (ids, 0 = absent) and propensities (NaN = absent; left out
    where none of the shoppers in `table` has one).
    """
    columns: dict[str, Column] = {}
    if "position" in table.column_names:
        columns["positions"] = Column(table["position"].to_numpy().astype(np.int64), offsets)
        if "surface" in table.column_names:
            columns["surfaces"] = Column(_coded_ids(table["surface"].combine_chunks(), surfaces), offsets)
    if "propensity" in table.column_names:
        propensities = table["propensity"].to_numpy().astype(np.float32)
        if not np.isnan(propensities).all():
            columns["propensities"] = Column(propensities, offsets)
    return columns


_SEQUENCE_FEATURES = {
    "types": "type",
    "labels": "label",
    "timestamps": "timestamp",
    "sessions": "session",
    "baskets": "basket",
}


def _coded_ids(encoded: pa.DictionaryArray, vocabulary: Vocabulary) -> np.ndarray:
    """Vocabulary ids int64 [rows] of a dictionary-encoded column; 0 where null."""
    ids = np.append(vocabulary.ids(encoded.dictionary), PADDING)
    return ids[pc.fill_null(encoded.indices, len(ids) - 1).to_numpy()]


def sample_columns(table: pa.Table, rows: np.ndarray, catalogue: Catalogue, has_timestamps: bool) -> dict[str, Column]:
    """The features of the samples: one Example for each interaction, absent values as empty lists."""
    names, numbers = pa.array(list(EVENT_TYPES)), pa.array(list(EVENT_TYPES.values()), pa.int8())
    places = pa.array(rows - FIRST)
    columns = {
        "item_id": optional(catalogue.item_ids.take(places)),
        "type": single(names.take(pc.index_in(table["type"].combine_chunks(), value_set=numbers))),
        "known_item": single(catalogue.listed[rows - FIRST].astype(np.int64)),
    }
    for name in ("device", "region"):
        if name in table.column_names:
            encoded = table[name].combine_chunks()
            columns[name] = optional(encoded.dictionary.take(encoded.indices))
    if has_timestamps:
        timestamps = table["timestamp"].to_numpy()
        columns["hour"] = single(hour_of_day(timestamps))
        columns["weekday"] = single(weekday(timestamps))
    for name in ("price", "quantity"):
        if name in table.column_names:
            values = table[name].to_numpy().astype(np.float32)
            present = ~np.isnan(values)
            columns[name] = Column(values[present], np.concatenate([[0], np.cumsum(present)]))
    if "position" in table.column_names:
        positions = table["position"].to_numpy().astype(np.int64)
        columns["position"] = Column(positions[positions > 0], np.concatenate([[0], np.cumsum(positions > 0)]))
    if catalogue.category.null_count < len(catalogue):
        paths = catalogue.category.take(places)
        columns["category"] = optional(pc.replace_substring_regex(paths, _LEVELS_ABOVE, ""))
    return columns
