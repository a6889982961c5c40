"""Transform against plain Beam with one element per event, on the same simulated events, in one run.

    python -m benchmarks.transform_speed [--events 500000]

Both read events.parquet and write sequence TFRecords on one process. Ours does more in its time: it checks rows, merges
exact duplicates, splits, builds vocabularies and writes the catalogue. The sequences of both are compared.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from benchmarks.machine import machine, table
from benchmarks.plain_beam import plain_transform
from trainer.data import load_catalogue, load_sequences
from transform.beam_transform import run_transform
from transform.config import TransformConfig
from transform.simulator import SimulatorConfig, simulate
from transform.tables import table_files


def plain_sequences(folder: Path) -> dict[str, int]:
    """Interactions per shopper as plain Beam wrote them."""
    lengths = {}
    for file in folder.glob("*.tfrecord"):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            lengths[features["user_id"].bytes_list.value[0].decode()] = len(features["rows"].int64_list.value)
    return lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=500_000)
    wanted = parser.parse_args().events
    config = TransformConfig()
    with tempfile.TemporaryDirectory() as folder:
        data, ours, plain = Path(folder) / "data", Path(folder) / "ours", Path(folder) / "plain"
        simulate(data, SimulatorConfig(events=wanted, shoppers=wanted // 25, pictures=False))
        events = pq.ParquetFile(table_files(data, "events")[0]).metadata.num_rows
        ours.mkdir()
        plain.mkdir()
        started = time.perf_counter()
        run_transform(data, ours, config)
        ours_seconds = time.perf_counter() - started
        started = time.perf_counter()
        history_types = frozenset(config.history_types)
        plain_transform(table_files(data, "events")[0], plain, history_types, config.session_gap_minutes)
        plain_seconds = time.perf_counter() - started

        load_catalogue(ours)
        sequences = load_sequences(ours)
        theirs = plain_sequences(plain)
        same = np.mean([theirs[user] == n for user, n in zip(sequences.user_ids, sequences.lengths, strict=True)])
    rows = [
        [name, f"{seconds:.1f}", f"{events / seconds:,.0f}", f"{plain_seconds / seconds:.1f}×"]
        for name, seconds in (("Tandem, columnar", ours_seconds), ("plain Beam, one element per event", plain_seconds))
    ]
    print(f"\nTransform, {events:,} events to TFRecords, one process. {machine()}\n")
    print(table(["", "seconds", "events/s", "against plain"], rows))
    print(f"\nShoppers with sequences of equal length: {same:.2%}; ours merges nothing across the cuts of the split.")


if __name__ == "__main__":
    main()
