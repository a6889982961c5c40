"""Lists for many shoppers in one Beam job against the server asked one by one, in one run; and whether they agree.

    python -m benchmarks.batch_speed RUN [--shoppers 100000] [--one-by-one 2000] [--batch-sizes 128]

The server is a process of its own (`tandem serve`), asked by one client with histories as the job sends them; so are
the jobs (`tandem batch-recommend`). Jobs are timed whole, imports and loading included, and from the first shard on.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from benchmarks.machine import machine, table
from pipeline.batch_shards import Chosen, choose_shoppers, shopper_shards
from pipeline.server_process import measured
from pipeline.shopper_histories import HistoryReader, transformed
from serving.client import Recommendations, RecommenderClient
from serving.client_query import Shopper
from trainer.data import load_sequences

K = 20
# Scores that differ by less are equal but for rounding.
TOLERANCE = 1e-5
_TANDEM = (sys.executable, "-m", "pipeline.cli")
_WARM_UP = 50


def shoppers_of(run: Path, count: int, total: int) -> dict[str, Shopper]:
    """`count` shoppers evenly drawn from the first `total` of a run's data, by id."""
    directory = transformed(run)
    chosen = choose_shoppers(directory, None)
    drawn = chosen.numbers[:total][:: max(1, min(total, len(chosen.numbers)) // count)][:count]
    (shard,) = shopper_shards(Chosen(chosen.places, drawn), (), len(drawn))
    sequences, reader = load_sequences(directory, shard.records), HistoryReader(directory)
    return {user: reader.read(sequences, number).shopper() for number, user in enumerate(sequences.user_ids)}


@dataclass(frozen=True)
class Timed:
    """Shoppers, seconds, processor seconds, and the largest memory (bytes) of whatever answered and asked."""

    shoppers: int
    seconds: float
    cpu_seconds: float
    memory: int

    def row(self, name: str, more: Sequence[str]) -> list[str]:
        """A line of the table."""
        cpu = f"{1e3 * self.cpu_seconds / self.shoppers:.2f} ms"
        rate = f"{self.shoppers / self.seconds:.0f}"
        return [name, f"{self.shoppers:,}", rate, cpu, f"{self.memory / 2**20:.0f} MiB", *more]


def one_by_one(run: Path, shoppers: dict[str, Shopper]) -> tuple[dict[str, Recommendations], Timed]:
    """The server's answers by shopper."""
    server = subprocess.Popen([*_TANDEM, "serve", str(run), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        with RecommenderClient(server.stdout.readline().split()[-1], timeout=60) as client:
            client.wait_until_ready()
            for shopper in list(shoppers.values())[:_WARM_UP]:
                _ask(client, shopper)
            with measured(server.pid) as usage:
                start, cpu = time.perf_counter(), time.process_time()
                answers = {user: _ask(client, shopper) for user, shopper in shoppers.items()}
                seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert usage is not None
        return answers, Timed(len(answers), seconds, cpu + usage.cpu_seconds, usage.rss_peak)
    finally:
        server.terminate()
        server.wait(timeout=60)


def _ask(client: RecommenderClient, shopper: Shopper) -> Recommendations:
    return client.recommend(shopper.history, K, event_types=shopper.event_types, timestamps=shopper.timestamps)


def in_one_job(run: Path, users: Sequence[str] | None, out: Path, batch_size: int) -> tuple[Timed, float]:
    """The whole command; and shoppers a second between its first shard and its last."""
    asked = []
    if users is not None:
        listed = out.with_suffix(".txt")
        listed.write_text("".join(f"{user}\n" for user in users), encoding="utf-8")
        asked = ["--users", str(listed)]
    start = time.perf_counter()
    command = [*_TANDEM, "batch-recommend", str(run), "--out", str(out), "-k", str(K), "--batch-size", str(batch_size)]
    _, status, usage = os.wait4(subprocess.Popen([*command, *asked]).pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"the job ended with status {os.waitstatus_to_exitcode(status)}")
    told = json.loads((out / "_SUCCESS").read_text())
    # Threads end their first shards together.
    ends = np.sort([part.stat().st_mtime for part in out.glob("part-*")])
    steady = told["shoppers"] / len(ends) * (ends > ends[0] + 0.5).sum() / max(ends[-1] - ends[0], 1e-9)
    return Timed(told["shoppers"], seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), steady


def compared(out: Path, answers: dict[str, Recommendations]) -> Counter[str]:
    """How many lists of a job are the server's."""
    rows = ds.dataset(out, format="parquet").to_table(filter=ds.field("user_id").isin(list(answers))).to_pylist()
    return Counter(_likeness(row["item_ids"], row["scores"], answers[row["user_id"]]) for row in rows)


def _likeness(item_ids: list[str], scores: list[float], expected: Recommendations) -> str:
    # float32 has seven digits: scores of a hundred differ by more than the tolerance from batch to batch.
    near = {"rtol": TOLERANCE, "atol": TOLERANCE}
    if len(item_ids) != len(expected.item_ids) or not np.allclose(scores, expected.scores, **near):
        return "other"
    if tuple(item_ids) == expected.item_ids:
        return "same"
    by_id = dict(zip(expected.item_ids, expected.scores, strict=True))
    # What the other list lacks must tie with its last.
    there = [by_id.get(item, expected.scores[-1]) for item in item_ids]
    return "same but for ties" if np.allclose(there, expected.scores, **near) else "other"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--shoppers", type=int, default=100_000, help="in a job, at most")
    parser.add_argument("--one-by-one", type=int, default=2_000, help="asked of the server")
    parser.add_argument("--batch-sizes", default="128", metavar="N,N,…", help="one job each")
    arguments = parser.parse_args()
    chosen = choose_shoppers(transformed(arguments.run), None)
    everybody = [user.decode() for user in chosen.places.user_ids[: arguments.shoppers]]
    users = everybody if len(everybody) < len(chosen.numbers) else None
    answers, alone = one_by_one(arguments.run, shoppers_of(arguments.run, arguments.one_by_one, len(everybody)))
    rows = [alone.row("server, one by one", ["", "1.0", "1.0", ""])]
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, arguments.batch_sizes.split(",")):
            out = Path(folder) / f"lists-{size}"
            job, steady = in_one_job(arguments.run, users, out, size)
            found = compared(out, answers)
            lists = ", ".join(f"{number:,} {what}" for what, number in sorted(found.items(), reverse=True))
            times = [
                f"{alone_each / each:.1f}"
                for alone_each, each in (
                    (alone.seconds / alone.shoppers, job.seconds / job.shoppers),
                    (alone.cpu_seconds / alone.shoppers, job.cpu_seconds / job.shoppers),
                )
            ]
            rows.append(job.row(f"job, batches of {size}", [f"{steady:.0f}", *times, lists]))
    heads = ["", "shoppers", "a second", "processor time a shopper", "memory", "a second once running", "× as fast"]
    heads += ["× less processor time", f"lists of {K}"]
    print(f"\nrecommend, {arguments.run}. {machine()}\n\n{table(heads, rows)}")


if __name__ == "__main__":
    main()
