"""The features of the schema, fitted on what was known before the validation cut: vocabularies, moments and buckets."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from protos.feature_schema_pb2 import Clock, Feature
from transform.arrow_files import read_table, read_tables
from transform.checks import DataError, nearest
from transform.config import TransformConfig
from transform.feature_schema import CLOCK_FEATURES, DEFAULT_CLOCK, VOCABULARY_FOLDER, write_vocabulary
from transform.tables import BEHAVIOUR, BEHAVIOUR_LENGTH, FIRST, PRICE_BUCKET
from transform.vocabularies import (
    COUNTED,
    CROSSED,
    bucket_names,
    content_columns,
    count_values,
    crosses,
    merge_counts,
    price_boundaries,
    price_moments,
    vocabulary,
)

# Circumstances of events that are counted, and can become features of requests.
CONTEXTS = ("device", "region")
# Words of a text that get ids of their own, unless it is configured.
_MOST_WORDS = 20_000


def check_features(config: TransformConfig) -> None:
    """Raises DataError if a setting names a feature that there is not, or asks for one that cannot be made."""
    known = [*COUNTED, *(cross.name for cross in crosses(config)), *CONTEXTS]
    for key, names in (("max_values", config.max_values), ("oov_buckets", config.oov_buckets)):
        for name in names:
            if name not in known:
                raise DataError(
                    f"transform.{key}: features with a vocabulary are {', '.join(known)}, received {name!r}."
                    f"{nearest(name, known)}"
                )
    if config.price_buckets == 1:
        raise DataError("transform.price_buckets: must be 0 (none) or at least 2, received 1: one bucket says nothing.")
    if config.price_buckets and "price" not in config.content_features:
        raise DataError(
            f"transform.price_buckets: received {config.price_buckets}, but transform.content_features leaves the "
            "price out. Add it there, or set price_buckets to 0."
        )
    for number, parts in enumerate(config.crosses):
        _check_cross(parts, config)
        if {*parts} in [{*others} for others in config.crosses[:number]]:
            raise DataError(f"transform.crosses: {list(parts)} is there twice. Leave one of them out.")


def _check_cross(parts: tuple[str, ...], config: TransformConfig) -> None:
    """Raises DataError if the features `parts` cannot be crossed."""
    for name in parts:
        if name not in CROSSED:
            advice = " Set transform.price_buckets and cross price_bucket." if name == "price" else ""
            raise DataError(
                f"transform.crosses: can be made of {', '.join(CROSSED)}, received {name!r} in {list(parts)}."
                f"{advice or nearest(name, CROSSED)}"
            )
        if name == PRICE_BUCKET and not config.price_buckets:
            raise DataError(
                f"transform.crosses: {list(parts)} needs prices in buckets. Set transform.price_buckets, to 10 say."
            )
        if name != PRICE_BUCKET and name not in config.content_features:
            raise DataError(
                f"transform.crosses: {list(parts)} needs {name!r}, which transform.content_features leaves out. "
                "Add it there, or leave the cross out."
            )
    if len({*parts}) < max(2, len(parts)):
        raise DataError(
            f"transform.crosses: a cross is made of two different features or more, received {list(parts)}."
        )


def item_features(files: dict[str, list[str]], output: Path, config: TransformConfig) -> list[Feature]:
    """Features of products: the columns, in the order of `content_columns`, prices in buckets, crosses, behaviour.

    What the catalogue lacks is left out.

    Args:
        files: what `transform.catalogue.PartItems` spilled, by partition.
        output: gets the vocabularies.
        config: which features, and how large their vocabularies may be.
    """
    counts = merge_counts([read_tables(files["values"])] if "values" in files else [])
    prices = _prices(files)
    features = []
    for column in content_columns(config):
        if column.kind == Feature.NUMERIC:
            features += _price_feature(column, prices)
        else:
            features += _with_vocabulary(column, counts, output, config)
    boundaries = price_boundaries(prices, config.price_buckets) if config.price_buckets and len(prices) else []
    features += _price_bucket_feature(boundaries, output)
    features += _crosses(files.get("crossed", []), boundaries, output, config)
    if config.behaviour_feature:
        features.append(Feature(name=BEHAVIOUR, kind=Feature.VECTOR, length=BEHAVIOUR_LENGTH))
    return features


def context_features(counts: pa.Table, output: Path, config: TransformConfig) -> list[Feature]:
    """Features of requests, of the values that training interactions have (COUNT_SCHEMA)."""
    names = [name for name in CONTEXTS if name in config.context_features]
    features = [Feature(name=name, kind=Feature.CATEGORICAL, length=1) for name in names]
    return [made for feature in features for made in _with_vocabulary(feature, counts, output, config)]


def clock(config: TransformConfig) -> Clock | None:
    """What models read of a request's time; None where it is what they read anyway."""
    features = tuple(name for name in CLOCK_FEATURES if name in config.context_features)
    return None if features == DEFAULT_CLOCK else Clock(features=features)


def _prices(files: dict[str, list[str]]) -> np.ndarray:
    """Those that products have, float32."""
    if "prices" not in files:
        return np.empty(0, np.float32)
    return read_tables(files["prices"])["price"].drop_null().to_numpy()


def _price_feature(column: Feature, prices: np.ndarray) -> list[Feature]:
    if not len(prices):
        return []
    column.mean, column.stddev = price_moments(prices)
    return [column]


def _price_bucket_feature(boundaries: list[float], output: Path) -> list[Feature]:
    """None where all prices are the same."""
    if not boundaries:
        return []
    feature = Feature(name=PRICE_BUCKET, kind=Feature.CATEGORICAL, length=1, boundaries=boundaries)
    _write_words(feature, bucket_names(boundaries), output)
    return [feature]


def _crosses(files: list[str], boundaries: list[float], output: Path, config: TransformConfig) -> list[Feature]:
    """Crosses of columns in `files`, one of which is in memory at a time; those with price buckets need boundaries."""
    features = [cross for cross in crosses(config) if boundaries or PRICE_BUCKET not in cross.crossed]
    for cross in features:
        if PRICE_BUCKET in cross.crossed:
            cross.boundaries.extend(boundaries)
    counts = merge_counts([])
    for file in files:
        counts = merge_counts([counts, count_values(read_table(file), features)])
    return [made for cross in features for made in _with_vocabulary(cross, counts, output, config)]


def _with_vocabulary(feature: Feature, counts: pa.Table, output: Path, config: TransformConfig) -> list[Feature]:
    """The feature with its most frequent values, which are written; none if no value is frequent enough."""
    name = feature.name
    most = config.max_values.get(name, _MOST_WORDS if feature.kind == Feature.TEXT else None)
    words = vocabulary(counts, name, config.min_value_count, most)
    if not words:
        return []
    _write_words(feature, words, output)
    feature.oov_buckets = config.oov_buckets.get(name, 0)
    return [feature]


def _write_words(feature: Feature, words: list[str], output: Path) -> None:
    """Gives a feature its vocabulary, without the reserved lines."""
    feature.vocabulary, feature.vocabulary_size = f"{feature.name}.txt", len(words) + FIRST
    write_vocabulary(output / VOCABULARY_FOLDER / feature.vocabulary, words)
