"""The catalogue: every product of the items table and of the events by row, its content, and its TFRecords."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from protos.feature_schema_pb2 import FeatureSchema
from transform.arrow_files import Spill, read_table, read_tables, write_table
from transform.config import TransformConfig
from transform.item_examples import ITEMS_PER_SHARD, ItemContent, ItemKeys, availability, items_file
from transform.tables import FIRST, ITEMS, UNKNOWN
from transform.tfrecords import encode_examples, write_tfrecords
from transform.vocabularies import column_of, content_columns, count_values, crosses, source_columns


@dataclass(frozen=True)
class Catalogue:
    """Products by row; entry i is row i + FIRST."""

    item_ids: pa.Array  # sorted by bytes
    source_row: np.ndarray  # place in the items table, -1: only in events
    known_from: np.ndarray  # seconds, 0 = unknown
    train_count: np.ndarray  # interactions in the training span
    train_carts: np.ndarray  # of them, with a cart
    train_purchases: np.ndarray  # of them, with a purchase
    id_row: np.ndarray  # id-embedding row
    in_events: np.ndarray  # bool: some event names the product
    category: pa.Array  # path or null

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def listed(self) -> np.ndarray:
        """Bool: the product is in the items table."""
        return self.source_row >= 0

    def rows(self, item_ids: pa.Array) -> np.ndarray:
        """Catalogue row of each id, int64; all ids must be known."""
        return pc.index_in(item_ids, value_set=self.item_ids).to_numpy().astype(np.int64) + FIRST


def make_catalogue(products: pa.Table, keys: pa.Table, min_item_count: int) -> Catalogue:
    """Joins what the events know with what the items table says.

    Args:
        products: item_id, first_seen, train_count, train_carts, train_purchases; an id may occur in several rows, one
            for each bucket.
        keys: item_id, row and, where the shop has them, created_at and category. Of several rows with one id the
            first counts.
        min_item_count: training interactions that give a product an id-embedding row of its own.
    """
    counts = ("train_count", "train_carts", "train_purchases")
    seen = products.group_by(["item_id"]).aggregate([("first_seen", "min"), *((name, "sum") for name in counts)])
    keys = keys.take(pc.sort_indices(keys["row"]))
    ids = pc.unique(pa.chunked_array([*seen["item_id"].chunks, *keys["item_id"].chunks], pa.string()))
    ids = ids.take(pc.sort_indices(ids))
    count = len(ids)
    listed = pc.index_in(ids, value_set=keys["item_id"].combine_chunks())  # the first of equal keys
    in_events = pc.index_in(ids, value_set=seen["item_id"].combine_chunks())

    def of_items(column: str, kind: pa.DataType) -> pa.Array:
        present = column in keys.column_names
        return keys[column].combine_chunks().take(listed) if present else pa.nulls(count, kind)

    first_seen = seen["first_seen_min"].combine_chunks().take(in_events)
    train_count, train_carts, train_purchases = (
        pc.fill_null(seen[f"{name}_sum"].combine_chunks().take(in_events), 0).to_numpy() for name in counts
    )
    return Catalogue(
        ids,
        pc.fill_null(of_items("row", pa.int64()), -1).to_numpy(),
        pc.fill_null(pc.coalesce(of_items("created_at", pa.int64()), first_seen), 0).to_numpy(),
        train_count,
        train_carts,
        train_purchases,
        id_embedding_rows(train_count, min_item_count),
        pc.is_valid(in_events).to_numpy(zero_copy_only=False),
        of_items("category", pa.string()),
    )


def id_embedding_rows(train_count: np.ndarray, min_item_count: int) -> np.ndarray:
    """Id-embedding row of each product, int64: 2, 3 … by descending count, ties by catalogue row; rare ones share 1."""
    by_count = np.argsort(-train_count, kind="stable")
    frequent = by_count[train_count[by_count] >= min_item_count]
    rows = np.full(len(train_count), UNKNOWN, np.int64)
    rows[frequent] = np.arange(len(frequent)) + FIRST
    return rows


def write_catalogue(path: str, catalogue: Catalogue) -> None:
    """Keeps the catalogue for the workers."""
    write_table(path, pa.table(vars(catalogue)))


def read_catalogue(path: str) -> Catalogue:
    """The catalogue that `write_catalogue` kept."""
    table = read_table(path).combine_chunks()
    arrays = {name: table[name].combine_chunks() for name in table.column_names}
    strings = ("item_ids", "category")
    return Catalogue(
        **{name: array if name in strings else array.to_numpy(zero_copy_only=False) for name, array in arrays.items()}
    )


class PartItems(beam.DoFn):
    """Spilled products → (partition, file): the shards by catalogue row, `values` (counts), `prices`, `crossed`."""

    def __init__(self, catalogue_path: str, folder: str, known_before: int | None, config: TransformConfig) -> None:
        """`known_before`, seconds: products known from then on do not enter vocabularies; None = all do."""
        self._catalogue_path = catalogue_path
        self._folder = folder
        self._known_before = known_before
        self._config = config

    def setup(self) -> None:
        """Once for each worker."""
        self._catalogue = read_catalogue(self._catalogue_path)

    def start_bundle(self) -> None:
        """Nothing is carried over from a bundle that failed."""
        self._spill = Spill(self._folder)

    def process(self, file: str) -> Iterator[tuple[str, str]]:
        """Parts the products of one spilled file."""
        items = read_table(file).combine_chunks()
        row = self._catalogue.rows(items["item_id"].combine_chunks())
        items = items.append_column("catalogue_row", pa.array(row))
        items = items.filter(pa.array(self._catalogue.source_row[row - FIRST] == items["row"].to_numpy()))
        row = items["catalogue_row"].to_numpy()
        shard = (row - FIRST) // ITEMS_PER_SHARD
        for number in np.unique(shard).tolist():
            yield from self._spill.add(f"{number:05d}", items.filter(pa.array(shard == number)))
        if self._known_before is not None:
            items = items.filter(pa.array(self._catalogue.known_from[row - FIRST] < self._known_before))
        yield from self._spill.add("values", count_values(items, content_columns(self._config)))
        if "price" in items.column_names:
            yield from self._spill.add("prices", items.select(["price"]))
        crossed = {column for cross in crosses(self._config) for column in source_columns(cross)}
        if crossed:
            # Counted once it is known where the buckets of prices begin.
            yield from self._spill.add("crossed", pa.table({name: column_of(items, name) for name in sorted(crossed)}))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Writes what is still held."""
        window = GlobalWindow()
        for entry in self._spill.flush():
            yield WindowedValue(entry, window.max_timestamp(), [window])


class WriteItems(beam.DoFn):
    """(shard, files of products) → the path of the shard's TFRecord file, all rows of its range in order."""

    def __init__(self, catalogue_path: str, output: str, shards: int, schema: FeatureSchema) -> None:
        self._catalogue_path = catalogue_path
        self._output = output
        self._shards = shards
        self._schema_bytes = schema.SerializeToString()

    def setup(self) -> None:
        """Once for each worker."""
        self._catalogue = read_catalogue(self._catalogue_path)
        self._content = ItemContent(Path(self._output), FeatureSchema.FromString(self._schema_bytes))

    def process(self, shard: tuple[int, list[str]]) -> Iterator[str]:
        """Writes one shard."""
        number, files = shard
        rows = np.arange(number * ITEMS_PER_SHARD, min((number + 1) * ITEMS_PER_SHARD, len(self._catalogue)))
        items = self._items(rows, files)
        columns = self._keys(rows, items).columns() | self._content.columns(items)
        path = FileSystems.join(self._output, items_file(number, self._shards))
        write_tfrecords(path, encode_examples(columns))
        yield path

    def _items(self, rows: np.ndarray, files: list[str]) -> pa.Table:
        """Canonical columns of the products at `rows`, null for those that only events know."""
        if not files:
            return pa.table({name: pa.nulls(len(rows), ITEMS.field(name).type) for name in ITEMS.names})
        items = read_tables(files).combine_chunks()
        places = np.full(len(rows), -1)
        places[items["catalogue_row"].to_numpy() - FIRST - rows[0]] = np.arange(items.num_rows)
        return items.take(pa.array(places, mask=places < 0)).combine_chunks()

    def _keys(self, rows: np.ndarray, items: pa.Table) -> ItemKeys:
        known = self._catalogue
        return ItemKeys(
            known.item_ids.take(pa.array(rows)),
            rows + FIRST,
            known.id_row[rows],
            known.train_count[rows],
            known.train_carts[rows],
            known.train_purchases[rows],
            known.known_from[rows],
            availability(items),
        )
