"""Who and what is in the transform's TFRecords, and in which record, without reading the rest of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import batches_of_records, record_files


@dataclass(frozen=True)
class ShopperPlaces:
    """The shoppers of the sequences TFRecords, in the order of files and records."""

    files: tuple[str, ...]  # names
    user_ids: np.ndarray  # object [U], UTF-8
    file_of: np.ndarray  # int32 [U], into `files`
    record_of: np.ndarray  # int64 [U], within the file
    lengths: np.ndarray  # int64 [U], interactions


def find_shoppers(transform_dir: Path) -> ShopperPlaces:
    """Every shopper that `tandem transform` wrote.

    Raises:
        FileNotFoundError: there are no sequences.
        DamagedRecordError: a file is truncated or corrupt.
    """
    spec = {"user_id": tf.io.FixedLenFeature([], tf.string), "rows": tf.io.VarLenFeature(tf.int64)}
    files = record_files(transform_dir, "sequences")
    user_ids: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    counts = []
    for file in files:
        before = sum(map(len, lengths))
        for parsed in _parsed(file, spec):
            user_ids.append(parsed["user_id"].numpy())
            found = parsed["rows"].indices.numpy()[:, 0]
            lengths.append(np.bincount(found, minlength=len(user_ids[-1])))
        counts.append(sum(map(len, lengths)) - before)
    return ShopperPlaces(
        tuple(file.name for file in files),
        np.concatenate([*user_ids, np.empty(0, object)]),
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        np.concatenate([np.arange(count) for count in counts]),
        np.concatenate([*lengths, np.empty(0, np.int64)]),
    )


def available_items(transform_dir: Path) -> list[str]:
    """Ids of the products that may be recommended, in the order of the catalogue.

    Raises:
        FileNotFoundError: there are no items.
        DamagedRecordError: a file is truncated or corrupt.
    """
    spec = {name: tf.io.FixedLenFeature([], dtype) for name, dtype in (("item_id", tf.string), ("available", tf.int64))}
    found: list[str] = []
    for file in record_files(transform_dir, "items"):
        for parsed in _parsed(file, spec):
            ids = parsed["item_id"].numpy()[parsed["available"].numpy() > 0]
            found += [item_id.decode() for item_id in ids]
    return found


def _parsed(file: Path, spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The features named of a file's Examples, up to 1,024 at a time."""
    for batch in batches_of_records(file):
        yield tf.io.parse_example(batch, spec)
