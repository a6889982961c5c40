"""The features of the schema, fitted on what was known before the validation cut: vocabularies and moments."""

from pathlib import Path

import pyarrow as pa

from protos.feature_schema_pb2 import Feature
from transform.arrow_files import read_tables
from transform.config import TransformConfig
from transform.feature_schema import VOCABULARY_FOLDER, write_vocabulary
from transform.tables import BEHAVIOUR, BEHAVIOUR_LENGTH, FIRST
from transform.vocabularies import content_columns, merge_counts, price_moments, vocabulary

# Circumstances of events that are counted, and can become features of requests.
CONTEXTS = ("device", "region")


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
        words = vocabulary(counts, column.name, config.min_value_count, column.vocabulary_size)
        if words:
            features.append(_with_vocabulary(column.name, column.kind, column.length, words, output))
    if config.behaviour_feature:
        features.append(Feature(name=BEHAVIOUR, kind=Feature.VECTOR, length=BEHAVIOUR_LENGTH))
    return features


def context_features(counts: pa.Table, output: Path, config: TransformConfig) -> list[Feature]:
    """Features of requests, of the values that training interactions have (COUNT_SCHEMA)."""
    words = {name: vocabulary(counts, name, config.min_value_count) for name in CONTEXTS}
    return [_with_vocabulary(name, Feature.CATEGORICAL, 1, words[name], output) for name in CONTEXTS if words[name]]


def _price_feature(files: dict[str, list[str]]) -> list[Feature]:
    if "prices" not in files:
        return []
    prices = read_tables(files["prices"])["price"].drop_null().to_numpy()
    if not len(prices):
        return []
    mean, stddev = price_moments(prices)
    return [Feature(name="price", kind=Feature.NUMERIC, length=1, mean=mean, stddev=stddev)]


def _with_vocabulary(name: str, kind: "Feature.Kind", length: int, words: list[str], output: Path) -> Feature:
    file = f"{name}.txt"
    write_vocabulary(output / VOCABULARY_FOLDER / file, words)
    return Feature(name=name, kind=kind, length=length, vocabulary=file, vocabulary_size=len(words) + FIRST)
