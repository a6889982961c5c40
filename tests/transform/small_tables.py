"""Tiny canonical tables for tests, written row by row, and readers of what the transform makes of them."""

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from transform.beam_transform import run_transform
from transform.config import SplitConfig, TransformConfig
from transform.tables import SCHEMAS

# Monday, 1 January 2024, 00:00 UTC.
START = 1_704_067_200
# A picture of one grey pixel.
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    """A canonical table with the columns that any of `rows` names."""
    present = [field for field in SCHEMAS[name] if any(field.name in row for row in rows)]
    return pa.Table.from_pylist(rows, schema=pa.schema(present))


def write(folder: Path, name: str, rows: list[dict[str, Any]], row_group_size: int = 1_000) -> Path:
    """Writes one canonical table into `folder`, which it returns."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(name, rows), folder / f"{name}.parquet", row_group_size=row_group_size)
    return folder


def event(user: str, item: str | None, seconds: int, type: str = "view", **more: Any) -> dict[str, Any]:
    """One event, `seconds` after START."""
    return {"user_id": user, "item_id": item, "type": type, "timestamp": START + seconds, **more}


def config(**more: Any) -> TransformConfig:
    """A split at fixed days (validation from day 8, test from day 9) and few buckets."""
    return TransformConfig(
        **{
            "split": SplitConfig(validation_start="2024-01-09", test_start="2024-01-10"),
            "buckets": 3,
            "min_item_count": 1,
            "min_value_count": 1,
            **more,
        }
    )


def transformed(folder: Path, items: list[dict[str, Any]], events: list[dict[str, Any]], **more: Any) -> Path:
    """Output of the transform over two tables, with `config(**more)`."""
    write(write(folder / "data", "events", events), "items", items)
    (folder / "transform").mkdir()
    run_transform(folder / "data", folder / "transform", config(**more))
    return folder / "transform"


def examples(folder: Path, pattern: str) -> list[dict[str, list[Any]]]:
    """Every Example of the matching TFRecord files: feature → values."""
    files = [str(path) for path in sorted(folder.glob(pattern))]
    parsed = []
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        parsed.append({name: list(getattr(value, value.WhichOneof("kind")).value) for name, value in features.items()})
    return parsed


def by_user(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """The sequences by shopper."""
    return {example["user_id"][0].decode(): example for example in examples(folder, "sequences-*.tfrecord")}


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
