"""Requests over gRPC against calls of the same SavedModel in process, in one run.

    python -m benchmarks.serving_speed [RUN] [--requests 2000]

Asks `recommend` for one shopper a request, with histories of the run's own shoppers. The server is a process of its
own (`tandem serve`), the clients are threads of this one: both share the machine's cores.
"""

import argparse
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import machine, table
from pipeline.publish import newest_version
from serving.client import RecommenderClient

WARM_UP = 50
K = 20


def histories(run: Path, count: int) -> list[list[str]]:
    """Product ids of the run's shoppers, oldest first, in the order of the files."""
    from trainer.data import load_catalogue, load_sequences

    directory = run / "steps" / "transform"
    catalogue, sequences = load_catalogue(directory), load_sequences(directory)
    bounds = itertools.islice(itertools.pairwise(sequences.offsets), count)
    return [catalogue.item_ids[sequences.rows[start:end]].tolist() for start, end in bounds]


def in_process(run: Path) -> Callable[[list[str]], object]:
    """One call of the SavedModel's signature, without a server."""
    import tensorflow as tf
    from scann.scann_ops.py import scann_ops  # noqa: F401  registers the ops

    base = run / "export" / "recommender"
    model = tf.saved_model.load(str(base / str(newest_version(base))))
    call = model.signatures["recommend"]
    sizes = {name: spec.shape[1] for name, spec in call.structured_input_signature[1].items() if spec.shape.rank == 2}
    length = sizes["history_item_ids"]
    empty = {
        name: tf.fill([1, *spec.shape[1:]], tf.constant("" if spec.dtype == tf.string else 0, spec.dtype))
        for name, spec in call.structured_input_signature[1].items()
    }

    def ask(history: list[str]) -> object:
        newest = history[-length:]
        padded = [""] * (length - len(newest)) + newest
        outputs = call(**{**empty, "history_item_ids": tf.constant([padded])})
        return outputs["item_ids"].numpy()

    return ask


def measure(ask: Callable[[list[str]], object], asked: list[list[str]], threads: int) -> tuple[float, np.ndarray]:
    """Requests a second and each request's seconds, with `threads` callers."""
    for history in asked[:WARM_UP]:
        ask(history)
    seconds = np.zeros(len(asked))
    numbers = iter(range(len(asked)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            started = time.perf_counter()
            ask(asked[number])
            seconds[number] = time.perf_counter() - started

    workers = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(asked) / (time.perf_counter() - started), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--requests", type=int, default=2_000)
    arguments = parser.parse_args()
    asked = histories(arguments.run, arguments.requests)
    results = [("in process, 1 caller", *measure(in_process(arguments.run), asked, 1))]
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "serve", str(arguments.run), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        target = server.stdout.readline().split()[-1]
        with RecommenderClient(target) as client:
            for threads in (1, 4, 16):
                name = f"gRPC, {threads} caller{'s' * (threads > 1)}"
                results.append((name, *measure(lambda history: client.recommend(history, K), asked, threads)))
    finally:
        server.terminate()
        server.wait(timeout=60)
    index = json.loads((arguments.run / "metrics.json").read_text())["index"]
    print(f"\nrecommend, {index.get('n', '?')} products, index {index['kind']}, one shopper a request. {machine()}\n")
    rows = [
        [name, f"{rate:.0f}", *(f"{np.percentile(seconds, q) * 1_000:.1f}" for q in (50, 90, 99))]
        for name, rate, seconds in results
    ]
    print(table(["", "requests/s", "p50 ms", "p90 ms", "p99 ms"], rows))


if __name__ == "__main__":
    main()
