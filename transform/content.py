"""The features of the schema, fitted on what was known before the validation cut: vocabularies and moments."""

from pathlib import Path

import pyarrow as pa

from protos.feature_schema_pb2 import Feature
from transform.arrow_files import read_tables
from transform.checks import DataError, nearest
from transform.config import TransformConfig
from transform.feature_schema import VOCABULARY_FOLDER, write_vocabulary
from transform.tables import BEHAVIOUR, BEHAVIOUR_LENGTH, FIRST
from transform.vocabularies import COUNTED, content_columns, merge_counts, price_moments, vocabulary

# Circumstances of events that are counted, and can become features of requests.
CONTEXTS = ("device", "region")
# Words of a text that get ids of their own, unless it is configured.
_MOST_WORDS = 20_000


def check_features(config: TransformConfig) -> None:
    """Raises DataError if a setting names a feature that there is not."""
    known = [*COUNTED, *CONTEXTS]
    for key, names in (("max_values", config.max_values), ("oov_buckets", config.oov_buckets)):
        for name in names:
            if name not in known:
                raise DataError(
                    f"transform.{key}: features with a vocabulary are {', '.join(known)}, received {name!r}."
                    f"{nearest(name, known)}"
                )


def item_features(files: dict[str, list[str]], output: Path, config: TransformConfig) -> list[Feature]:
    """Features of products, in the order of `content_columns`; what the catalogue lacks is left out.

    Args:
        files: what `transform.catalogue.PartItems` spilled, by partition.
        output: gets the vocabularies.
        config: which features, and how large their vocabularies may be.
    """
    counts = merge_counts([read_tables(files["values"])] if "values" in files else [])
    features = []
    for column in content_columns(config):
        if column.kind == Feature.NUMERIC:
            features += _price_feature(files)
            continue
        features += _with_vocabulary(column, counts, output, config)
    if config.behaviour_feature:
        features.append(Feature(name=BEHAVIOUR, kind=Feature.VECTOR, length=BEHAVIOUR_LENGTH))
    return features


def context_features(counts: pa.Table, output: Path, config: TransformConfig) -> list[Feature]:
    """Features of requests, of the values that training interactions have (COUNT_SCHEMA)."""
    features = [Feature(name=name, kind=Feature.CATEGORICAL, length=1) for name in CONTEXTS]
    return [made for feature in features for made in _with_vocabulary(feature, counts, output, config)]


def _price_feature(files: dict[str, list[str]]) -> list[Feature]:
    if "prices" not in files:
        return []
    prices = read_tables(files["prices"])["price"].drop_null().to_numpy()
    if not len(prices):
        return []
    mean, stddev = price_moments(prices)
    return [Feature(name="price", kind=Feature.NUMERIC, length=1, mean=mean, stddev=stddev)]


def _with_vocabulary(feature: Feature, counts: pa.Table, output: Path, config: TransformConfig) -> list[Feature]:
    """The feature with its most frequent values, which are written; none if no value is frequent enough."""
    name = feature.name
    most = config.max_values.get(name, _MOST_WORDS if feature.kind == Feature.TEXT else None)
    words = vocabulary(counts, name, config.min_value_count, most)
    if not words:
        return []
    file = f"{name}.txt"
    write_vocabulary(output / VOCABULARY_FOLDER / file, words)
    feature.MergeFrom(Feature(vocabulary=file, vocabulary_size=len(words) + FIRST))
    feature.oov_buckets = config.oov_buckets.get(name, 0)
    return [feature]
