"""Products as the features of their TFRecords, by a feature schema and its vocabularies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from protos.feature_schema_pb2 import Feature, FeatureSchema
from transform.feature_schema import Vocabulary
from transform.tfrecords import Column, optional, single
from transform.vocabularies import column_of, content_ids, feature_values, normalised_price, source_columns

# Products in one file; with pictures of a few kilobytes about a hundred megabytes.
ITEMS_PER_SHARD = 20_000


@dataclass(frozen=True)
class ItemKeys:
    """What is known of products beside their content; the arrays are int64 [N]."""

    item_ids: pa.Array
    row: np.ndarray
    id_row: np.ndarray
    train_count: np.ndarray
    train_carts: np.ndarray
    train_purchases: np.ndarray
    known_from: np.ndarray  # seconds, 0 = unknown
    available: np.ndarray  # 0 or 1

    def columns(self) -> dict[str, Column]:
        """The features of the same names."""
        return {
            "item_id": single([item_id.encode() for item_id in self.item_ids.to_pylist()]),
            "row": single(self.row),
            "id_row": single(self.id_row),
            "train_count": single(self.train_count),
            "train_carts": single(self.train_carts),
            "train_purchases": single(self.train_purchases),
            "known_from": single(self.known_from),
            "available": single(self.available),
        }


class ItemContent:
    """Canonical columns of products → what the models and people read of them."""

    def __init__(self, directory: Path, schema: FeatureSchema) -> None:
        """Args:
        directory: holds the vocabularies.
        schema: lengths and moments of the features.
        """
        self._schema = schema
        self._vocabularies = {
            feature.name: Vocabulary.of(directory, feature) for feature in schema.item if feature.vocabulary
        }
        self._sources = {f"{feature.name}_ids": source_columns(feature) for feature in schema.item}

    def columns(self, items: pa.Table) -> dict[str, Column]:
        """Raw values by the name of their column, `price_raw` and, of the schema's features, `<name>_ids` or `price`.

        Columns that `items` (canonical, one chunk each) lacks count as null.
        """
        columns = {name: _raw_bytes(items, name) for name in ("title", "description", "category", "brand", "image")}
        prices = column_of(items, "price").to_numpy(zero_copy_only=False).astype(np.float32)
        present = ~np.isnan(prices)
        offsets = np.concatenate([[0], np.cumsum(present)])
        columns["price_raw"] = Column(prices[present], offsets)
        for feature in self._schema.item:
            if feature.kind == Feature.VECTOR:
                # Encoders make it, of which the transform knows nothing (transform/catalogue_vectors.py).
                continue
            if feature.kind == Feature.NUMERIC:
                columns[feature.name] = Column(normalised_price(prices[present], feature.mean, feature.stddev), offsets)
            else:
                known = self._vocabularies[feature.name]
                columns[f"{feature.name}_ids"] = content_ids(feature_values(feature, items), known, feature.length)
        return columns

    def sources(self, name: str) -> tuple[str, ...]:
        """The canonical columns that a feature of `columns` is made from."""
        return self._sources.get(name, (name.removesuffix("_raw"),))


def availability(items: pa.Table) -> np.ndarray:
    """int64 [N]: 1 unless the table says otherwise."""
    if "available" not in items.column_names:
        return np.ones(items.num_rows, np.int64)
    return pc.fill_null(items["available"], True).to_numpy().astype(np.int64)


def items_file(shard: int, shards: int) -> str:
    """Name of a TFRecord file: it holds the rows of its range, in order."""
    return f"items-{shard:05d}-of-{shards:05d}.tfrecord"


def _raw_bytes(items: pa.Table, column: str) -> Column:
    """Bytes as they are; an empty list where absent."""
    if column not in items.column_names:
        return optional([None] * items.num_rows)
    return optional(items[column].cast(pa.binary()).to_pylist())
