"""Lists for many shoppers in one Beam job against the server asked one by one, in one run; and whether they agree.

    python -m benchmarks.batch_speed RUN [--shoppers 100000] [--one-by-one 2000] [--batch-sizes 128]

The server is a process of its own (`tandem serve`), asked by one client with histories as the job sends them; so are
the jobs (`tandem batch-recommend`). Jobs are timed whole, imports and loading included, and from the first shard on.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from benchmarks.machine import machine, table
from pipeline.batch_shards import Chosen, choose_shoppers, shopper_shards
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


def one_by_one(run: Path, shoppers: dict[str, Shopper]) -> tuple[dict[str, Recommendations], float]:
    """The server's answers by shopper, and seconds for all."""
    server = subprocess.Popen([*_TANDEM, "serve", str(run), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        with RecommenderClient(server.stdout.readline().split()[-1], timeout=60) as client:
            client.wait_until_ready()
            for shopper in list(shoppers.values())[:_WARM_UP]:
                _ask(client, shopper)
            start = time.perf_counter()
            answers = {user: _ask(client, shopper) for user, shopper in shoppers.items()}
            return answers, time.perf_counter() - start
    finally:
        server.terminate()
        server.wait(timeout=60)


def _ask(client: RecommenderClient, shopper: Shopper) -> Recommendations:
    return client.recommend(shopper.history, K, event_types=shopper.event_types, timestamps=shopper.timestamps)


def in_one_job(run: Path, users: Sequence[str] | None, out: Path, batch_size: int) -> tuple[int, float, float]:
    """Shoppers answered, seconds of the command, and shoppers a second between its first shard and its last."""
    asked = []
    if users is not None:
        listed = out.with_suffix(".txt")
        listed.write_text("".join(f"{user}\n" for user in users), encoding="utf-8")
        asked = ["--users", str(listed)]
    start = time.perf_counter()
    command = [*_TANDEM, "batch-recommend", str(run), "--out", str(out), "-k", str(K), "--batch-size", str(batch_size)]
    subprocess.run([*command, *asked], check=True)
    seconds = time.perf_counter() - start
    told = json.loads((out / "_SUCCESS").read_text())
    # Threads end shards together: those of the first moment are the start.
    ends = np.sort([part.stat().st_mtime for part in out.glob("part-*")])
    steady = told["shoppers"] / len(ends) * (ends > ends[0] + 0.5).sum() / max(ends[-1] - ends[0], 1e-9)
    return told["shoppers"], seconds, steady


def compared(out: Path, answers: dict[str, Recommendations]) -> Counter[str]:
    """How many lists of a job are the server's."""
    rows = ds.dataset(out, format="parquet").to_table(filter=ds.field("user_id").isin(list(answers))).to_pylist()
    return Counter(_likeness(row["item_ids"], row["scores"], answers[row["user_id"]]) for row in rows)


def _likeness(item_ids: list[str], scores: list[float], expected: Recommendations) -> str:
    if tuple(item_ids) == expected.item_ids:
        return "same"
    of = dict(zip(expected.item_ids, expected.scores, strict=True))
    # What the other list lacks must tie with its last.
    near = (abs(of.get(item, expected.scores[-1]) - score) < TOLERANCE for item, score in zip(item_ids, scores))  # noqa: B905
    return "same but for ties" if all(near) else "other"


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
    answers, seconds = one_by_one(arguments.run, shoppers_of(arguments.run, arguments.one_by_one, len(everybody)))
    alone = len(answers) / seconds
    rows = [["server, one by one", f"{len(answers):,}", f"{alone:.0f}", "", "1.0", ""]]
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, arguments.batch_sizes.split(",")):
            out = Path(folder) / f"lists-{size}"
            count, seconds, steady = in_one_job(arguments.run, users, out, size)
            found = compared(out, answers)
            lists = ", ".join(f"{number:,} {what}" for what, number in sorted(found.items(), reverse=True))
            rate = count / seconds
            rows.append(
                [f"job, batches of {size}", f"{count:,}", f"{rate:.0f}", f"{steady:.0f}", f"{rate / alone:.1f}", lists]
            )
    heads = ["", "shoppers", "shoppers/s", "once running", "× server", f"lists of {K}"]
    print(f"\nrecommend, {arguments.run}. {machine()}\n\n{table(heads, rows)}")


if __name__ == "__main__":
    main()
