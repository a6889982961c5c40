"""Content of products as lists of values, the vocabularies made of them, and their ids."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from protos.feature_schema_pb2 import Feature
from transform.config import TransformConfig
from transform.feature_schema import Vocabulary, tokenize
from transform.tables import category_levels
from transform.tfrecords import Column

# One row for each value of a feature: the form in which counts travel.
COUNT_SCHEMA = pa.schema([("feature", pa.string()), ("value", pa.string()), ("count", pa.int64())])


def category_prefixes(paths: pa.Array, depth: int) -> pa.ListArray:
    """Each path as the paths to its levels, root first, at most `depth`: "A > B" → ["A", "A > B"]."""
    encoded = paths.dictionary_encode()
    lists = [category_levels(path)[:depth] for path in encoded.dictionary.to_pylist()]
    return pa.array(lists, pa.list_(pa.string())).take(encoded.indices)


def _single(values: pa.Array, length: int) -> pa.ListArray:
    """Each value as a list of itself, of nothing where it is null or empty."""
    del length
    present = pc.fill_null(pc.not_equal(values, ""), False)
    offsets = np.concatenate([[0], np.cumsum(present.to_numpy(zero_copy_only=False))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values.filter(present))


def _as_they_are(lists: pa.ListArray, length: int) -> pa.ListArray:
    del length
    return lists


def _tokens(texts: pa.Array, length: int) -> pa.ListArray:
    """The first `length` words: none that no model will read enters a vocabulary."""
    lists = tokenize(texts)
    lengths = np.diff(lists.offsets.to_numpy())
    kept = np.arange(len(lists.values)) - np.repeat(lists.offsets.to_numpy()[:-1], lengths) < length
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, length))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), lists.values.filter(pa.array(kept)))


# Feature with a vocabulary → how its column becomes lists of values.
_VALUES: dict[str, Callable[[pa.Array, int], pa.ListArray]] = {
    "category": category_prefixes,
    "brand": _single,
    "attributes": _as_they_are,
    "title": _tokens,
    "description": _tokens,
}
# Features of products that have a vocabulary.
COUNTED = tuple(_VALUES)


def feature_values(feature: str, column: pa.Array, length: int) -> pa.ListArray:
    """Values of a feature of `length`, of each product: list<string> [products]; perhaps more than are read."""
    return _VALUES[feature](column, length)


def content_columns(config: TransformConfig) -> list[Feature]:
    """Columns of the items table that the configuration lets in, as features that nothing has been fitted of."""
    columns = [
        Feature(name="category", kind=Feature.CATEGORICAL, length=config.category_depth),
        Feature(name="brand", kind=Feature.CATEGORICAL, length=1),
        Feature(name="attributes", kind=Feature.CATEGORICAL, length=config.attributes_length),
        Feature(name="price", kind=Feature.NUMERIC, length=1),
        Feature(name="title", kind=Feature.TEXT, length=config.title_length),
        Feature(name="description", kind=Feature.TEXT, length=config.description_length),
    ]
    return [column for column in columns if column.name in config.content_features]


def count_content(items: pa.Table, config: TransformConfig) -> pa.Table:
    """How often each value occurs in `items` (canonical columns): COUNT_SCHEMA."""
    parts = [COUNT_SCHEMA.empty_table()]
    for column in content_columns(config):
        if column.name in _VALUES and column.name in items.column_names:
            lists = feature_values(column.name, items.column(column.name).combine_chunks(), column.length)
            values, counts = pc.value_counts(lists.flatten()).flatten()
            features = pa.array([column.name] * len(values), pa.string())
            parts.append(pa.table([features, values, counts], schema=COUNT_SCHEMA))
    return pa.concat_tables(parts)


def merge_counts(tables: list[pa.Table]) -> pa.Table:
    """Sums counts by feature and value: COUNT_SCHEMA."""
    merged = pa.concat_tables([COUNT_SCHEMA.empty_table(), *tables])
    grouped = merged.group_by(["feature", "value"]).aggregate([("count", "sum")])
    return pa.table([grouped[name] for name in ("feature", "value", "count_sum")], schema=COUNT_SCHEMA)


def vocabulary(counts: pa.Table, feature: str, min_count: int, size: int | None = None) -> list[str]:
    """Values of `feature` seen at least `min_count` times, the most frequent first, ties by bytes; at most `size`."""
    chosen = counts.filter(pc.equal(counts["feature"], feature)).select(["value", "count"])
    # A path that begins with a separator has an empty first level.
    chosen = chosen.filter(pc.not_equal(chosen["value"], ""))
    chosen = chosen.filter(pc.greater_equal(chosen["count"], max(min_count, 1)))
    order = pc.sort_indices(chosen, sort_keys=[("count", "descending"), ("value", "ascending")])
    values: list[str] = chosen["value"].take(order).to_pylist()
    return values if size is None else values[:size]


def content_ids(lists: pa.ListArray, known: Vocabulary, length: int) -> Column:
    """Ids of the first `length` values of each list, as int64 lists."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    ids = known.ids(lists.flatten())
    place = np.arange(len(ids)) - np.repeat(starts, lengths)
    return Column(ids[place < length], np.concatenate([[0], np.cumsum(np.minimum(lengths, length))]))


def price_moments(prices: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of log(1 + price), as float32 holds them; 1 where all prices are the same.

    `prices` [products]; sorted first, so that the sum does not depend on the order in which they were read.
    """
    logs = np.log1p(np.sort(prices).astype(np.float64))
    # Equal values have a deviation of some 1e-16 by rounding.
    deviation = logs.std() if logs[0] < logs[-1] else 1.0
    return float(np.float32(logs.mean())), float(np.float32(deviation))


def normalised_price(prices: np.ndarray, mean: float, stddev: float) -> np.ndarray:
    """(log(1 + price) − mean) / stddev, float32 [products]; NaN stays NaN."""
    return ((np.log1p(prices.astype(np.float64)) - mean) / stddev).astype(np.float32)
