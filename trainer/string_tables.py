"""Vocabulary files as lookup tables of a graph; the files become assets of the SavedModel."""

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from protos.feature_schema_pb2 import Feature
from transform.tables import PADDING, RESERVED_LINES, UNKNOWN

# The assets lack the first line of a vocabulary, which is empty: TensorFlow's tables refuse empty lines.
_FIRST_LINE = UNKNOWN


def write_asset(vocabulary: Path, directory: Path) -> Path:
    """A copy of a vocabulary file without its empty first line, under the same name in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    asset = directory / vocabulary.name
    with vocabulary.open("rb") as lines, asset.open("wb") as copy:
        first = next(lines, b"")
        if first.decode() != RESERVED_LINES[PADDING] + "\n":
            raise ValueError(f"{vocabulary}: the first line of a vocabulary must be empty, received {first[:80]!r}.")
        copy.writelines(lines)
    return asset


class IdTable(tf.Module):
    """string → id, as `transform.feature_schema.Vocabulary` numbers them."""

    def __init__(self, asset: Path, first_bucket: int = 0, oov_buckets: int = 0) -> None:
        """Args:
        asset: of `write_asset`.
        first_bucket: id of the first bucket, if there are any.
        oov_buckets: ids that strings outside of the vocabulary share; 0 = they are unknown.
        """
        super().__init__(name=f"ids_of_{asset.stem}")
        self._first_bucket = first_bucket
        self._oov_buckets = oov_buckets
        initializer = tf.lookup.TextFileInitializer(
            str(asset),
            key_dtype=tf.string,
            key_index=tf.lookup.TextFileIndex.WHOLE_LINE,
            value_dtype=tf.int64,
            value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self._table = tf.lookup.StaticHashTable(initializer, default_value=UNKNOWN - _FIRST_LINE)

    @classmethod
    def of(cls, feature: Feature, assets: Mapping[str, Path]) -> "IdTable":
        """That of a feature with a vocabulary, by the names of the files."""
        return cls(assets[feature.vocabulary], int(feature.vocabulary_size), int(feature.oov_buckets))

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """Strings of any shape → int32 ids: "" is 0 (padding), what the vocabulary lacks a bucket or 1 (unknown)."""
        found = tf.cast(self._table.lookup(values), tf.int32) + _FIRST_LINE
        if self._oov_buckets:
            hashed = tf.cast(tf.strings.to_hash_bucket_fast(values, self._oov_buckets), tf.int32)
            found = tf.where(found == UNKNOWN, self._first_bucket + hashed, found)
        return tf.where(tf.equal(values, ""), PADDING, found)


class NameTable(tf.Module):
    """id → string."""

    def __init__(self, asset: Path) -> None:
        super().__init__(name=f"names_in_{asset.stem}")
        initializer = tf.lookup.TextFileInitializer(
            str(asset),
            key_dtype=tf.int64,
            key_index=tf.lookup.TextFileIndex.LINE_NUMBER,
            value_dtype=tf.string,
            value_index=tf.lookup.TextFileIndex.WHOLE_LINE,
        )
        self._table = tf.lookup.StaticHashTable(initializer, default_value="")

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """int32 ids of any shape → strings, "" for 0 (padding)."""
        return self._table.lookup(tf.cast(ids, tf.int64) - _FIRST_LINE)
