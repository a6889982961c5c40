"""The input of training alone: TFRecords to arrays, and arrays to the batches that the ranker's steps read.

    python -m benchmarks.reading_speed [RUN/transform] [--length 100] [--batch 128]

Without a folder a shop is simulated and transformed first. No model computes beside it. Sequences are read once at the
start of a training; windows are cut anew in each epoch, in the thread that works ahead of the device.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf

from benchmarks.machine import machine, table
from trainer.config import RankerConfig, TrainingConfig
from trainer.data import Sequences, load_catalogue, load_sequences
from trainer.prefetch import prefetched
from trainer.ranker_training import RankerSteps
from trainer.windows import TrainingWindows
from transform.beam_transform import run_transform
from transform.config import TransformConfig
from transform.simulator import SimulatorConfig, simulate

_AHEAD = 2
_EPOCHS = 3


def windows_of_an_epoch(folder: Path, sequences: Sequences, length: int, batch: int) -> tuple[int, float]:
    """Windows of the best of some epochs as the ranker reads them, and its seconds."""
    config = RankerConfig(training=TrainingConfig(batch_size=batch))
    windows = TrainingWindows(sequences, length, batch, seed=1)
    steps = RankerSteps(windows, load_catalogue(folder), config)
    best: tuple[int, float] = (0, float("inf"))
    for epoch in range(_EPOCHS):
        started, count = time.perf_counter(), 0
        tensors = ({name: tf.constant(value) for name, value in step.inputs.items()} for step in steps.epoch(epoch))
        for inputs in prefetched(tensors, _AHEAD):
            count += int(tf.math.count_nonzero(inputs["history_rows"][:, -1]))
        seconds = time.perf_counter() - started
        best = max(best, (count, seconds), key=lambda found: found[0] / found[1])
    return best


def measure(folder: Path, length: int, batch: int) -> None:
    """Prints both tables' rows for one transform's output."""
    started = time.perf_counter()
    sequences = load_sequences(folder)
    read = time.perf_counter() - started
    count, seconds = windows_of_an_epoch(folder, sequences, length, batch)
    megabytes = sum(file.stat().st_size for file in folder.glob("sequences-*.tfrecord")) / 1e6
    shoppers, interactions = len(sequences.user_ids), len(sequences.rows)
    print(
        f"\nInput of training, {shoppers:,} shoppers, {interactions:,} interactions, {megabytes:,.0f} MB; windows of "
        f"{length}, {batch} in a batch. {machine()}\n"
    )
    rows = [
        ["TFRecords to arrays, once", f"{read:.2f}", f"{shoppers / read:,.0f}", f"{interactions / read:,.0f}"],
        ["arrays to batches, each epoch", f"{seconds:.2f}", f"{count / seconds:,.0f}", ""],
    ]
    print(table(["", "seconds", "sequences/s", "interactions/s"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("transform", type=Path, nargs="?")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--batch", type=int, default=128)
    wanted = parser.parse_args()
    if wanted.transform:
        measure(wanted.transform, wanted.length, wanted.batch)
        return
    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / "data", Path(folder) / "transform"
        simulate(data, SimulatorConfig(events=wanted.events, shoppers=wanted.events // 25, pictures=False))
        output.mkdir()
        run_transform(data, output, TransformConfig())
        measure(output, wanted.length, wanted.batch)


if __name__ == "__main__":
    main()
