"""Content of products as lists of values, the vocabularies made of them, and their ids."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from protos.feature_schema_pb2 import Feature
from transform.config import TransformConfig
from transform.feature_schema import Vocabulary, tokenize
from transform.tables import CROSS_SEPARATOR, ITEMS, PRICE_BUCKET, category_levels
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
# What can be crossed.
CROSSED = ("brand", "category", PRICE_BUCKET)


def column_of(items: pa.Table, name: str) -> pa.Array:
    """A canonical column; null where `items` lacks it."""
    if name not in items.column_names:
        return pa.nulls(items.num_rows, ITEMS.field(name).type)
    return items[name].combine_chunks()


def source_columns(feature: Feature) -> tuple[str, ...]:
    """The canonical columns that a feature of products is made from."""
    return tuple("price" if name == PRICE_BUCKET else name for name in feature.crossed or (feature.name,))


def feature_values(feature: Feature, items: pa.Table) -> pa.ListArray:
    """Values of a feature with a vocabulary, of each product: list<string> [products]; perhaps more than are read."""
    if feature.crossed:
        parts = [_part(name, feature, items) for name in feature.crossed]
        return _single(pc.binary_join_element_wise(*parts, CROSS_SEPARATOR), 1)
    if feature.name == PRICE_BUCKET:
        return _single(price_buckets(column_of(items, "price"), feature.boundaries), 1)
    return _VALUES[feature.name](column_of(items, feature.name), feature.length)


def _part(name: str, cross: Feature, items: pa.Table) -> pa.Array:
    """One of a cross's values, string [products], null where absent."""
    if name == PRICE_BUCKET:
        return price_buckets(column_of(items, "price"), cross.boundaries)
    values = column_of(items, name)
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)


def price_buckets(prices: pa.Array, boundaries: Sequence[float]) -> pa.Array:
    """Number of each price's bucket as a string [products], null where there is no price; compared as float32."""
    numbers = prices.to_numpy(zero_copy_only=False).astype(np.float32)
    places = np.searchsorted(np.array(boundaries, np.float32), numbers, side="right")
    return pa.array(bucket_names(boundaries)).take(pa.array(places, mask=np.isnan(numbers)))


def bucket_names(boundaries: Sequence[float]) -> list[str]:
    """Values of the buckets between boundaries, the lowest first."""
    return [str(number) for number in range(len(boundaries) + 1)]


def price_boundaries(prices: np.ndarray, buckets: int) -> list[float]:
    """Prices at which buckets of about as many products each begin, the first left out; no bucket is empty.

    Quantiles that are equal are one boundary: where many products have the same price there are fewer buckets.

    Args:
        prices: float32 [products], at least one.
        buckets: at most.
    """
    ordered = np.sort(prices)
    quantiles = np.unique(ordered[np.arange(1, buckets) * len(ordered) // buckets])
    boundaries: list[float] = quantiles[quantiles > ordered[0]].tolist()
    return boundaries


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


def crosses(config: TransformConfig) -> list[Feature]:
    """The crosses that the configuration asks for, as features that nothing has been fitted of."""
    return [
        Feature(name="_x_".join(parts), kind=Feature.CATEGORICAL, length=1, crossed=parts) for parts in config.crosses
    ]


def count_values(items: pa.Table, features: Iterable[Feature]) -> pa.Table:
    """How often each value of features occurs in `items` (canonical columns): COUNT_SCHEMA."""
    parts = [COUNT_SCHEMA.empty_table()]
    for feature in features:
        if feature.kind != Feature.NUMERIC:
            values, counts = pc.value_counts(feature_values(feature, items).flatten()).flatten()
            names = pa.array([feature.name] * len(values), pa.string())
            parts.append(pa.table([names, values, counts], schema=COUNT_SCHEMA))
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
