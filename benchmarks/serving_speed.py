"""Requests over gRPC against calls of the same SavedModel in process, in one run.

    python -m benchmarks.serving_speed [RUN] [--seconds 5]

Asks `recommend` for one shopper a request, with the requests of the run's own shoppers. The server is a process of its
own (`tandem serve`), the callers are threads of this one: both share the machine's cores. For other servers, rates
instead of callers, and a plot: `tandem bench serve`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import machine, table
from pipeline import bench_page
from pipeline.bench_load import OK, closed_loop
from pipeline.bench_results import Result, result
from pipeline.bench_serve import BenchOptions, bench_serve, read_shoppers, requests_for
from pipeline.publish import newest_version

CALLERS = (1, 4, 16)


class InProcess:
    """Calls of the SavedModel's signature, without a server."""

    def __init__(self, run: Path, requests: Sequence[bytes]) -> None:
        import tensorflow as tf
        from scann.scann_ops.py import scann_ops  # noqa: F401  registers the ops
        from tensorflow_serving.apis.predict_pb2 import PredictRequest

        base = run / "export" / "recommender"
        self._model = tf.saved_model.load(str(base / str(newest_version(base))))
        self._call = self._model.signatures["recommend"]
        empty = {
            name: tf.fill([1, *spec.shape[1:]], tf.constant("" if spec.dtype == tf.string else 0, spec.dtype))
            for name, spec in self._call.structured_input_signature[1].items()
        }
        self._inputs = [
            empty
            | {
                name: tf.constant(tf.make_ndarray(tensor), empty[name].dtype)
                for name, tensor in PredictRequest.FromString(request).inputs.items()
            }
            for request in requests
        ]

    def send(self, number: int, waited: float) -> tuple[str, int]:
        """As `Sender.send`; a call that returns is a good one."""
        del waited
        self._call(**self._inputs[number % len(self._inputs)])["item_ids"].numpy()
        return OK, 0


def in_process(options: BenchOptions, requests: Sequence[bytes]) -> Result:
    """One caller."""
    assert options.run is not None
    model = InProcess(options.run, requests)
    closed_loop(model, 1, 1.0)
    return result(closed_loop(model, 1, options.seconds), None, 1, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "serve", str(arguments.run), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        target = server.stdout.readline().split()[-1]
        options = BenchOptions(target, run=arguments.run, seconds=arguments.seconds, closed_loop=CALLERS)
        requests = requests_for(options, read_shoppers(options))
        over_grpc = bench_serve(options)
    finally:
        server.terminate()
        server.wait(timeout=60)
    # After the server has ended: it would share the cores even when idle.
    lines = bench_page.table([in_process(options, requests), *over_grpc])
    rows = [[row.name, *(cell.text for cell in row.cells)] for row in lines.rows]
    rows[0][0] = "in process, 1 caller"
    index = json.loads((arguments.run / "metrics.json").read_text())["index"]
    print(f"\nrecommend, {index.get('n', '?')} products, index {index['kind']}, one shopper a request. {machine()}\n")
    print(table(lines.heads, rows))


if __name__ == "__main__":
    main()
