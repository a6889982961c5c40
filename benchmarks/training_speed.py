"""Training steps of the ranker against RecTools' SASRec (PyTorch) at equal shape, side by side in one run.

    python -m benchmarks.training_speed [--windows 2560] [--items 3416]

Both train the same windows: every shopper has one, all of full length, absolute positions, next-item cross-entropy over
the whole catalogue (ours without what the window has met, which costs a little more), Adam. Beside them stands the
floor: the matrix products of an epoch at the rate that TensorFlow reaches here in a large one. RecTools runs in an
environment of its own, .venv-rectools, made on the first call from benchmarks/rectools.txt. An epoch before the
measured ones takes compilation and first touches.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.machine import machine, table
from protos.feature_schema_pb2 import FeatureSchema
from trainer.config import Precision, RankerConfig, TrainingConfig
from trainer.data import Catalogue, Sequences
from trainer.loop import TrainingLoop, make_deterministic
from trainer.ranker import Ranker
from trainer.ranker_training import RankerSteps
from trainer.windows import TrainingWindows
from transform.tables import FIRST

LENGTH, DIM, BLOCKS, HEADS, BATCH, EPOCHS = 200, 64, 2, 2, 128, 3
# Of the square matrices whose product tells the machine's rate, and how many products are timed.
SIDE, PRODUCTS = 2_048, 10
ROOT = Path(__file__).parent.parent
RIVAL = ROOT / ".venv-rectools"


def make_windows(windows: int, items: int) -> np.ndarray:
    """Zipf-distributed products, int [windows, LENGTH + 1], numbered from 1."""
    share = 1 / np.arange(1, items + 1)
    rng = np.random.default_rng(1)
    return rng.choice(np.arange(1, items + 1), (windows, LENGTH + 1), p=share / share.sum())


def catalogue(items: int) -> Catalogue:
    """Products with an id and nothing else, as the rival sees them."""
    size = items + FIRST
    schema = FeatureSchema(catalogue_size=size, id_embedding_size=size)
    texts = np.full(size, "", dtype=object)
    numbers = np.zeros(size, np.int64)
    return Catalogue(
        schema,
        np.array([str(row) for row in range(size)], dtype=object),
        np.arange(size, dtype=np.int32),
        {},
        numbers,
        numbers,
        np.ones(size, bool),
        texts,
        texts,
        np.full(size, np.nan, np.float32),
        [b""] * size,
    )


def sequences(rows: np.ndarray) -> Sequences:
    """One shopper per window; all of it is training."""
    users, length = rows.shape
    zeros = np.zeros(rows.size, np.int32)
    return Sequences(
        user_ids=np.arange(users).astype(str).astype(object),
        offsets=np.arange(0, rows.size + 1, length, dtype=np.int64),
        train_end=np.full(users, length, np.int64),
        validation_end=np.full(users, length, np.int64),
        rows=(rows.reshape(-1) - 1 + FIRST).astype(np.int32),
        types=np.full(rows.size, 2, np.int8),
        labels=zeros,
        timestamps=np.tile(np.arange(length, dtype=np.int64), users),
        sessions=zeros,
        baskets=np.tile(np.arange(length, dtype=np.int32), users),
        devices=zeros,
        regions=zeros,
    )


def ranker_config(jit_compile: bool = False, precision: Precision = "float32") -> RankerConfig:
    """SASRec as the rival trains it."""
    return RankerConfig(
        training=TrainingConfig(
            epochs=EPOCHS, batch_size=BATCH, patience=EPOCHS, jit_compile=jit_compile, precision=precision
        ),
        dim=DIM,
        history_length=LENGTH,
        blocks=BLOCKS,
        heads=HEADS,
        positions=("absolute",),
        time_bias=False,
        repeats="excluded",
    )


def floor_seconds(windows: int, items: int) -> tuple[float, float]:
    """Seconds that the matrix products of an epoch take at the rate of a large one, and that rate in operations/s.

    Forward: each weight matrix of the blocks once for every slot, attention's two products of all slot pairs, the
    softmax's logits. The gradients take twice as much.
    """
    model = Ranker(catalogue(items), ranker_config())
    kernels = sum(
        weight.shape.num_elements() for block in model.blocks for weight in block.weights if weight.shape.rank == 2
    )
    slot = 2 * kernels + 4 * LENGTH * DIM * BLOCKS + 2 * DIM * items
    one = tf.random.stateless_normal([SIDE, SIDE], [1, 1])
    product = tf.function(lambda matrix: tf.matmul(matrix, matrix))
    product(one)
    seconds = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        product(one).numpy()
        seconds.append(time.perf_counter() - start)
    rate = 2 * SIDE**3 / min(seconds)
    return 3 * windows * LENGTH * slot / rate, rate


def tandem_seconds(rows: np.ndarray, items: int, config: RankerConfig) -> list[float]:
    """Seconds of each epoch."""
    training = config.training
    make_deterministic(training.seed)
    products = catalogue(items)
    # The slot before the first interaction is one of the window's: LENGTH − 1 interactions fill it, and one more would
    # be cut into two windows.
    windows = TrainingWindows(sequences(rows[:, 2:]), LENGTH, BATCH, training.seed)
    if windows.count != len(rows):
        raise ValueError(f"one window for each of {len(rows)} shoppers is expected, received {windows.count}.")
    steps = RankerSteps(windows, products, config)
    ends = [time.perf_counter()]

    def clock() -> float:
        ends.append(time.perf_counter())
        return float(len(ends))

    with tempfile.TemporaryDirectory() as folder:
        loop = TrainingLoop(Ranker(products, config), training, Path(folder) / "out", Path(folder) / "log")
        loop.run(steps.epoch, windows.steps, clock)
    return [end - start for start, end in pairwise(ends)]


def rival_seconds(rows: np.ndarray) -> tuple[list[float], str]:
    """Seconds of each epoch, and the rival's versions."""
    python = RIVAL / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", RIVAL], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", ROOT / "benchmarks/rectools.txt"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "windows.npz", rows=rows)
        shape = [str(number) for number in (LENGTH, DIM, BLOCKS, HEADS, BATCH, EPOCHS)]
        command = [python, ROOT / "benchmarks/rectools_sasrec.py", f"{folder}/windows.npz", *shape]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["seconds"], f"rectools {result['rectools']}, torch {result['torch']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=2_560)
    parser.add_argument("--items", type=int, default=3_416)
    arguments = parser.parse_args()
    rows = make_windows(arguments.windows, arguments.items)
    configs = {
        "Tandem": ranker_config(),
        "Tandem, jit_compile": ranker_config(jit_compile=True),
        "Tandem, mixed_bfloat16": ranker_config(precision="mixed_bfloat16"),
    }
    measured = {name: tandem_seconds(rows, arguments.items, config) for name, config in configs.items()}
    measured["RecTools SASRec"], versions = rival_seconds(rows)
    best = {name: min(seconds[1:]) for name, seconds in measured.items()}
    print(
        f"\nSASRec training, {LENGTH} slots × {DIM}, {BLOCKS} blocks, {HEADS} heads, batch {BATCH}, full softmax over"
    )
    print(f"{arguments.items:,} items, {arguments.windows:,} windows; best epoch after the first.")
    print(f"{machine()}; {versions}")
    floor, rate = floor_seconds(len(rows), arguments.items)
    print(f"A product of {SIDE:,}² matrices: {rate / 1e9:.0f} GFLOP/s.\n")
    best["Floor: matrix products at that rate"] = floor
    rival = best["RecTools SASRec"]
    lines = [
        [name, f"{seconds:.1f}", f"{len(rows) / seconds:.0f}", f"{rival / seconds:.1f}×"]
        for name, seconds in best.items()
    ]
    print(table(["", "seconds an epoch", "sequences/s", "against RecTools"], lines))


if __name__ == "__main__":
    main()
