"""`make demo`: a simulated shop, the whole chain, a server, and recommendations asked from it over gRPC."""

import subprocess
import sys
import time
from pathlib import Path

from pipeline.cli import main
from pipeline.shopper_histories import example_shopper, shopper_history

RUN = Path("runs/demo")
DATA = RUN / "data"
_START_SECONDS = 120


def demo() -> int:
    """Runs the chain, skipping what is up to date, then serves it on a free port and asks it. Returns exit status."""
    started = time.monotonic()
    if not (DATA / "dataset.json").is_file() and (status := main(["simulate", str(DATA)])):
        return status
    if status := main(["run", "--config", "demo", "--data", str(DATA), "--out", str(RUN)]):
        return status
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "serve", str(RUN), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        ask = ["recommend", "--target", _target(server), "--run", str(RUN), "-k", "10"]
        shopper = example_shopper(RUN)
        newest = shopper_history(RUN, shopper).item_ids[-1]
        for who, arguments in (
            (f"shopper {shopper}", ["--user", shopper]),
            ("a visitor after one click", ["--history", newest]),
            ("a new visitor", ["--history", ""]),
        ):
            print(f"\nRecommendations over gRPC for {who}", flush=True)
            if status := main([*ask, *arguments]):
                return status
    finally:
        server.terminate()
        server.wait(timeout=30)
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look at {RUN / 'report.html'}, or at the curves with")
    print(f"  .venv/bin/tensorboard --logdir {RUN / 'tensorboard'}")
    print(f"Serve it yourself:  .venv/bin/tandem serve {RUN}")
    return 0


def _target(server: subprocess.Popen[str]) -> str:
    """Address that the server printed on its first line."""
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise RuntimeError(f"the server stopped with exit status {server.wait(_START_SECONDS)} before it was ready.")
    return line.split()[-1]


if __name__ == "__main__":
    sys.exit(demo())
