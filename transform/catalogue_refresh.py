"""The catalogue with products added, changed and withdrawn, written as the transform writes it; nothing is fitted."""

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow.core.example.example_pb2 import Example

from protos.feature_schema_pb2 import Feature, FeatureSchema
from transform.beam_transform import SAMPLES
from transform.catalogue_vectors import VectorEncoder, raw_content, vector_column
from transform.checks import DataError
from transform.content_faults import LACKS
from transform.feature_schema import (
    ITEM_IDS_FILE,
    SCHEMA_FILE,
    VOCABULARY_FOLDER,
    read_schema,
    read_vocabulary,
    write_schema,
    write_vocabulary,
)
from transform.item_examples import ITEMS_PER_SHARD, ItemContent, ItemKeys, availability, items_file
from transform.read_report import Report, add_counts
from transform.read_step import check_report
from transform.reading import DEAD_LETTERS, ItemRows, read_whole
from transform.sources import open_source
from transform.tables import DAYS_FOLDER, FIRST, ITEMS, UNKNOWN
from transform.tfrecords import Column, encode_examples, read_tfrecords, write_tfrecords
from transform.vocabularies import source_columns

# Column → its name in the records, where that is another.
_RAW = {"price": "price_raw"}


@dataclass
class Refreshed:
    """What became of the products that a table names."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    withdrawn: int = 0  # recommended until now
    # Products by fault (transform/content_faults.py) as they stand in the catalogue now, whatever the table named.
    faults: dict[str, int] = field(default_factory=dict)
    created_at: list[int] = field(default_factory=list)  # seconds, of new products that tell it
    digest: str = ""  # of every record that differs from what was there

    @property
    def nothing_to_do(self) -> bool:
        """Whether the catalogue is the same as before."""
        return not self.new + self.changed + self.withdrawn


def read_products(
    items: Path, dead_letters: Path, max_bad_share: float, rows: ItemRows | None = None
) -> tuple[pa.Table, Report]:
    """Good rows of an items table (canonical columns and `row`), and counts of all; bad rows go to `dead_letters`.

    One bad row alone is no mistake of the whole table, however short the table is.

    Args:
        items: items.parquet or a folder that holds it.
        dead_letters: folder for what is refused, as JSON lines with file, row and reason.
        max_bad_share: of the rows.
        rows: which pictures are too large.

    Raises:
        FileNotFoundError: there is no such table.
        DataError: the table is empty, not canonical, cannot be read, or has too many bad rows.
    """
    source = open_source(items, "items")
    products, report = read_whole(source, rows or ItemRows(), dead_letters)
    allowed = 1.0 if sum(report.rejected.values()) == 1 else max_bad_share
    check_report(source, report, allowed, dead_letters, "--max-bad-share")
    return products, report


def refresh_catalogue(
    base: Path, products: pa.Table, output: Path, now: int, encoders: Mapping[str, VectorEncoder] | None = None
) -> Refreshed:
    """Writes to `output` what the transform would have: the catalogue of `base` with `products` in it.

    Vocabularies, moments and sequences are those of `base`, as hard links. A product keeps its catalogue row and its
    id-embedding row; a new one gets a row at the end, in the order of the ids, and no id embedding of its own: its
    content places it. Columns that `products` lacks stay as they were; a null means that the shop has no value.

    Args:
        base: output of the transform, or of an earlier refresh.
        products: canonical columns; each id once.
        output: an empty folder.
        now: seconds; when a new product that does not tell its `created_at` became known.
        encoders: of the VECTOR features of `base`, by name; they read the content that is new or changed.

    Raises:
        DataError: a file of `base` is damaged.
    """
    schema = read_schema(base)
    known = pa.array(read_vocabulary(base / VOCABULARY_FOLDER / ITEM_IDS_FILE)[FIRST:], pa.string())
    ids = products["item_id"].combine_chunks()
    added = ids.filter(pc.invert(pc.is_in(ids, value_set=known)))
    item_ids = pa.concat_arrays([known, added.take(pc.sort_indices(added))])
    row = pc.index_in(ids, value_set=item_ids).to_numpy().astype(np.int64) + FIRST
    order = np.argsort(row)
    products = products.take(pa.array(order)).append_column("catalogue_row", pa.array(row[order])).combine_chunks()
    schema.catalogue_size = len(item_ids) + FIRST
    _link_what_stays(base, output)
    write_vocabulary(output / VOCABULARY_FOLDER / ITEM_IDS_FILE, item_ids.to_pylist())
    write_schema(output, schema)
    merge = _Merge(ItemContent(output, schema), schema, now, encoders or {})
    return _write_items(base, products, output, schema, len(known), merge)


def _link_what_stays(base: Path, output: Path) -> None:
    """Everything but the items, their ids and the schema; what is kept, refused or sampled is the transform's."""
    for path in sorted(base.rglob("*")):
        place = path.relative_to(base)
        ours = place.name in (SCHEMA_FILE, ITEM_IDS_FILE) or place.match("items-*.tfrecord")
        if path.is_file() and not ours and place.parts[0] not in (DAYS_FOLDER, DEAD_LETTERS, SAMPLES):
            (output / place).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, output / place)


def _write_items(
    base: Path, products: pa.Table, output: Path, schema: FeatureSchema, known: int, merge: "_Merge"
) -> Refreshed:
    """Every shard: linked where no product of it is named, else written anew; `known` products are in `base`."""
    count = schema.catalogue_size - FIRST
    shards, base_shards = -(-count // ITEMS_PER_SHARD), -(-known // ITEMS_PER_SHARD)
    shard_of = (products["catalogue_row"].to_numpy() - FIRST) // ITEMS_PER_SHARD
    for number in range(shards):
        old = base / items_file(number, base_shards)
        new = output / items_file(number, shards)
        named = products.filter(pa.array(shard_of == number)).combine_chunks()
        if not named.num_rows:
            os.link(old, new)
            continue
        records = list(read_tfrecords(str(old))) if number < base_shards else []
        expected = max(0, min(ITEMS_PER_SHARD, known - number * ITEMS_PER_SHARD))
        if len(records) != expected:
            raise DataError(f"{old} holds {len(records)} products, expected {expected}. Run `tandem transform` again.")
        write_tfrecords(str(new), merge.records(records, named, number * ITEMS_PER_SHARD + FIRST))
    return merge.outcome()


class _Merge:
    """Records of the catalogue with those of named products in their places; counts what that changes."""

    def __init__(
        self, content: ItemContent, schema: FeatureSchema, now: int, encoders: Mapping[str, VectorEncoder]
    ) -> None:
        """Without a clock a product's times are of no use, and `now` is not told."""
        self._content = content
        self._schema = schema
        self._known_now = now if schema.has_timestamps else 0
        self._encoders = {
            feature.name: encoders[feature.name] for feature in schema.item if feature.kind == Feature.VECTOR
        }
        self._refreshed = Refreshed()
        self._digest = hashlib.sha256()

    def outcome(self) -> Refreshed:
        """What has been counted."""
        self._refreshed.digest = self._digest.hexdigest()
        return self._refreshed

    def records(self, records: list[bytes], named: pa.Table, first: int) -> list[bytes]:
        """The records of one shard.

        Args:
            records: Examples of the products from row `first` on.
            named: products of this shard, by row, the new ones last.
            first: row of the shard's first product.
        """
        places = (named["catalogue_row"].to_numpy() - first).tolist()
        old = [Example.FromString(records[place]) if place < len(records) else Example() for place in places]
        named = self._with_crossed(named, old)
        keys = self._keys(named, old)
        columns = keys.columns() | self._kept(self._content.columns(named), named, old)
        columns |= self._vectors(columns, old)
        result = list(records)
        for place, before, record in zip(places, old, encode_examples(columns), strict=True):
            if place >= len(records):
                result.append(record)
                self._refreshed.new += 1
            elif Example.FromString(record) == before:
                self._refreshed.unchanged += 1
                continue
            else:
                result[place] = record
                self._count_change(before, Example.FromString(record))
            self._digest.update(record)
        self._count_content(columns)
        self._refreshed.created_at += _created_at(named.filter(pa.array(np.array(places) >= len(records))))
        return result

    def _keys(self, named: pa.Table, old: Sequence[Example]) -> ItemKeys:
        known_from = _integers(old, "known_from", self._known_now)
        if "created_at" in named.column_names:
            given = named["created_at"].combine_chunks()
            known_from = pc.coalesce(given, pa.array(known_from)).to_numpy()
        given_available = "available" in named.column_names
        return ItemKeys(
            named["item_id"].combine_chunks(),
            named["catalogue_row"].to_numpy(),
            _integers(old, "id_row", UNKNOWN),
            _integers(old, "train_count", 0),
            _integers(old, "train_carts", 0),
            _integers(old, "train_purchases", 0),
            known_from,
            availability(named) if given_available else _integers(old, "available", 1),
        )

    def _with_crossed(self, named: pa.Table, old: Sequence[Example]) -> pa.Table:
        """With the columns of crosses that the table lacks, as they were: what they are crossed with may change."""
        crossed = {column for feature in self._schema.item if feature.crossed for column in source_columns(feature)}
        for column in sorted(crossed - set(named.column_names)):
            kind = "float_list" if column == "price" else "bytes_list"
            lists = [_values(example, _RAW.get(column, column), kind) for example in old]
            kept = pa.array([values[0] if values else None for values in lists], ITEMS.field(column).type)
            named = named.append_column(column, kept)
        return named

    def _kept(self, columns: dict[str, Column], named: pa.Table, old: Sequence[Example]) -> dict[str, Column]:
        """Features of columns that the table lacks are as they were."""
        given = set(named.column_names)
        return {
            name: column if given.issuperset(self._content.sources(name)) else _column(old, name, column)
            for name, column in columns.items()
        }

    def _vectors(self, columns: dict[str, Column], old: Sequence[Example]) -> dict[str, Column]:
        """Vectors of what is new; of content that is the same, the same vectors to the bit."""
        found = {}
        for name, encoder in self._encoders.items():
            column = columns[encoder.column]
            content = [b"".join(column.values[start:end]) for start, end in itertools.pairwise(column.offsets.tolist())]
            vectors = np.full([len(old), encoder.length], np.nan, np.float32)
            for place, example in enumerate(old):
                if kept := _values(example, f"{name}_vector", "float_list"):
                    vectors[place] = kept
            changed = [
                place for place, example in enumerate(old) if content[place] != raw_content(example, encoder.column)
            ]
            vectors[changed] = encoder.vectors([content[place] for place in changed])
            found[f"{name}_vector"] = vector_column(vectors)
        return found

    def _count_change(self, before: Example, after: Example) -> None:
        was, now = (_integers([example], "available", 1)[0] for example in (before, after))
        if was > now:
            self._refreshed.withdrawn += 1
        else:
            self._refreshed.changed += 1

    def _count_content(self, columns: dict[str, Column]) -> None:
        faults = {name: _absent(columns[_RAW.get(column, column)]) for name, column in LACKS.items()}
        features = {feature.name: feature for feature in self._schema.item}
        if "category" in features:
            unknown = _unknown(columns["category_ids"], features["category"])
            faults["unknown_category"] = int((unknown > 0).sum())
        if "title" in features:
            words = columns["title_ids"]
            lengths = np.diff(words.offsets)
            faults["unknown_words"] = int(((lengths > 0) & (_unknown(words, features["title"]) == lengths)).sum())
        self._refreshed.faults = add_counts(self._refreshed.faults, faults)


def _values(example: Example, name: str, kind: str) -> Sequence[Any]:
    """Of one feature; looking it up by [] would add it to the Example."""
    features = example.features.feature
    return getattr(features[name], kind).value if name in features else ()


def _integers(examples: Sequence[Example], name: str, default: int) -> np.ndarray:
    """The one value of a feature, int64 [N]; `default` where there is none."""
    lists = [_values(example, name, "int64_list") for example in examples]
    return np.array([values[0] if values else default for values in lists], np.int64)


def _column(examples: Sequence[Example], name: str, like: Column) -> Column:
    """A feature as it stands in Examples, of the kind that `like` has."""
    kept = like.values
    kind = "bytes_list" if isinstance(kept, list) else "float_list" if kept.dtype == np.float32 else "int64_list"
    lists = [_values(example, name, kind) for example in examples]
    offsets = np.concatenate([[0], np.cumsum([len(values) for values in lists])]).astype(np.int64)
    flat = [value for values in lists for value in values]
    return Column(flat if isinstance(kept, list) else np.array(flat, kept.dtype), offsets)


def _unknown(column: Column, feature: Feature) -> np.ndarray:
    """How many of each product's values are outside of the vocabulary, int64 [N]."""
    ids = np.asarray(column.values)
    found = np.concatenate([[0], np.cumsum((ids == UNKNOWN) | (ids >= feature.vocabulary_size))])
    return found[column.offsets[1:]] - found[column.offsets[:-1]]


def _absent(column: Column) -> int:
    """Products without a value, or with an empty one."""
    lengths = np.diff(column.offsets)
    if isinstance(column.values, list):
        sizes = np.array([len(value) for value in column.values], np.int64)
        lengths = np.diff(np.concatenate([[0], np.cumsum(sizes)])[column.offsets])
    return int((lengths == 0).sum())


def _created_at(products: pa.Table) -> list[int]:
    if "created_at" not in products.column_names:
        return []
    times: list[int] = products["created_at"].drop_null().to_pylist()
    return times
