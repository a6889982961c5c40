"""What a batch job writes: shards of lists as Parquet, JSON lines or TFRecord, each whole or not at all."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transform.arrow_files import replaced_when_whole
from transform.tfrecords import Column, encode_examples, single, write_tfrecords

Format = Literal["parquet", "jsonl", "tfrecord"]
FORMATS: tuple[Format, ...] = get_args(Format)
ITEM_IDS, SCORES = "item_ids", "scores"


def shard_name(number: int, shards: int, format: Format) -> str:
    """File of one shard."""
    return f"part-{number:05d}-of-{shards:05d}.{format}"


def lists_table(key: str, asked: Iterable[str], item_ids: np.ndarray, scores: np.ndarray, k: int) -> pa.Table:
    """The lists of one shard: columns `key`, item_ids and scores, a row for each that was asked.

    Args:
        key: name of the first column.
        asked: shoppers or products [n].
        item_ids: object [n, K], UTF-8, best first; empty ones are padding and are left out.
        scores: float32 [n, K].
        k: longest list.
    """
    kept = item_ids != b""
    kept &= np.cumsum(kept, axis=1) <= k
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), pa.int32())
    ids = pa.array(item_ids[kept], pa.binary()).cast(pa.string())
    return pa.table(
        {
            key: pa.array(asked, pa.string()),
            ITEM_IDS: pa.ListArray.from_arrays(offsets, ids),
            SCORES: pa.ListArray.from_arrays(offsets, pa.array(scores[kept], pa.float32())),
        }
    )


def write_lists(path: Path, lists: pa.Table, format: Format) -> None:
    """Writes a shard under a temporary name, which becomes `path` when it is whole."""
    _WRITERS[format](str(path), lists)


def _write_parquet(path: str, lists: pa.Table) -> None:
    with replaced_when_whole(path) as file:
        pq.write_table(lists, file)


def _write_json_lines(path: str, lists: pa.Table) -> None:
    with replaced_when_whole(path) as file:
        for row in lists.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def _write_tfrecord(path: str, lists: pa.Table) -> None:
    """An Example a row: the key and item_ids as bytes, scores as floats."""
    key = lists.column_names[0]
    ids, scores = (lists[name].combine_chunks() for name in (ITEM_IDS, SCORES))
    offsets = ids.offsets.to_numpy()
    columns = {
        key: single([asked.encode() for asked in lists[key].to_pylist()]),
        ITEM_IDS: Column(ids.values.cast(pa.binary()).to_pylist(), offsets),
        SCORES: Column(scores.values.to_numpy(), offsets),
    }
    write_tfrecords(path, encode_examples(columns))


_WRITERS: dict[Format, Callable[[str, pa.Table], None]] = {
    "parquet": _write_parquet,
    "jsonl": _write_json_lines,
    "tfrecord": _write_tfrecord,
}
