"""Full-catalogue evaluation after the forward pass: seconds of each part, for one system and all shoppers of ML-1M.

    python -m benchmarks.evaluation_speed [--shoppers 6040] [--items 3416] [--run RUN]

Random scores of that shape under leave-one-out, histories of 165 products and three content features a product; with
--run the sequences and the catalogue that `tandem transform` left in RUN. Scores are made beforehand, so that nothing
of a model is in the figures. Best of three. The processor's seconds stand beside those of the clock: they are what the
work costs on a machine that others use too.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy import sparse

from benchmarks.machine import machine, table
from benchmarks.training_speed import catalogue, make_windows, sequences
from trainer.cold_start import cold_start_report, product_groups
from trainer.config import EvaluationConfig
from trainer.evaluation import Shop, load_shop
from trainer.fairness import fairness_report
from trainer.metrics import mean_ndcg
from trainer.protocol_report import (
    protocol_report,
    query_metrics,
    segment_report,
)
from trainer.queries import Queries, Split
from trainer.rank_systems import rank_systems
from trainer.scorers import Scorer, block_size
from trainer.segments import groupings
from transform.tables import FIRST

HISTORY, CONTENT, REPEATS = 165, 3, 3
Result = TypeVar("Result")


@dataclass(frozen=True)
class GivenScores:
    """Scores that were made beforehand."""

    values: np.ndarray  # float32 [Q, V]

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        """Scores for the queries [start, stop): float32 [B, V]."""
        return self.values[start:stop]


class Stopwatch:
    """Seconds of named parts, the best of all repeats: of the clock and of the processor."""

    def __init__(self) -> None:
        self.best: dict[str, tuple[float, float]] = {}

    def time(self, part: str, work: Callable[[], Result]) -> Result:
        """Does the work."""
        clock, processor = time.perf_counter(), time.process_time()
        result = work()
        took = time.perf_counter() - clock, time.process_time() - processor
        before = self.best.get(part, took)
        self.best[part] = min(before[0], took[0]), min(before[1], took[1])
        return result


def random_shop(shoppers: int, items: int) -> Shop:
    """Zipf-distributed histories; the last product is the test, the one before it the validation."""
    products = catalogue(items)
    everything = sequences(make_windows(shoppers, items)[:, :HISTORY])
    held_out = replace(
        everything,
        train_end=everything.train_end - 2,
        validation_end=everything.validation_end - 1,
        labels=np.left_shift(1, everything.types.astype(np.int32)),
    )
    products.train_counts[:] = np.bincount(everything.rows, minlength=products.size)
    # One of twenty values of each feature, as unit vectors.
    values = np.random.default_rng(2).integers(0, 20, (products.size, CONTENT)) + 20 * np.arange(CONTENT)
    rows = np.repeat(np.arange(FIRST, products.size), CONTENT)
    lengths = np.full(len(rows), CONTENT**-0.5)
    content = sparse.csr_matrix((lengths, (rows, values[FIRST:].ravel())), (products.size, 20 * CONTENT))
    return Shop(products, held_out, Split("leave_one_out", None, None), content, EvaluationConfig())


def measure(shop: Shop) -> tuple[dict[str, tuple[float, float]], int]:
    """Seconds of each part, and the number of queries."""
    test, validation = shop.queries("test"), shop.queries("validation")
    size = max(len(test), len(validation)), shop.catalogue.size
    given = GivenScores(np.random.default_rng(3).standard_normal(size, np.float32))
    watch = Stopwatch()
    for _ in range(REPEATS):
        evaluate_once(shop, test, given, watch)
        watch.time("validation", lambda: mean_ndcg(lambda start, stop: given.values[start:stop], validation))
    return watch.best, len(test)


def evaluate_once(shop: Shop, test: Queries, given: GivenScores, watch: Stopwatch) -> None:
    """What `trainer.evaluation` does with one system under one protocol."""
    settings = (shop.catalogue, shop.content, shop.config)
    queries: list[tuple[Queries, dict[str, Scorer]]] = [(test, {"ranker": given})]
    block = block_size(shop.catalogue.size)
    unlearned = product_groups(shop.catalogue, None)
    (protocol,) = watch.time(
        "ranks and lists", lambda: rank_systems("speed", queries, shop.config.candidates, block, groups=unlearned)
    )
    watch.time("metrics of each query", lambda: query_metrics(protocol, *settings))
    attributes = watch.time("groups", lambda: groupings(test, shop.catalogue, shop.context_names))
    watch.time("segments", lambda: segment_report(protocol, attributes))
    watch.time("new and rare products", lambda: cold_start_report(protocol, shop.catalogue, unlearned, shop.config))
    watch.time("report", lambda: protocol_report(protocol, *settings))
    watch.time("fairness", lambda: fairness_report(protocol, attributes, shop.config))


def _lines(best: dict[str, tuple[float, float]]) -> list[list[str]]:
    def line(name: str, seconds: np.ndarray) -> list[str]:
        return [name, f"{seconds[0]:.2f}", f"{seconds[1]:.2f}"]

    seconds = {part: np.array(both) for part, both in best.items()}
    parts = ["ranks and lists", "metrics of each query", "groups", "segments", "new and rare products"]
    # The report computes each query's metrics too; the rest of it is resampling, but for a few means.
    resampling = np.maximum(seconds["report"] - seconds["metrics of each query"], 0)
    return [
        *(line(part, seconds[part]) for part in parts),
        line("**all of it**", np.sum([seconds[part] for part in parts], axis=0)),
        line("bootstrap of every metric, 1,000 resamples", resampling),
        line("fairness table with its bootstrap", seconds["fairness"]),
        line("validation NDCG@10 of an epoch", seconds["validation"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shoppers", type=int, default=6_040)
    parser.add_argument("--items", type=int, default=3_416)
    parser.add_argument("--run", type=Path)
    given = parser.parse_args()
    transform = given.run and given.run / "steps" / "transform"
    shop = load_shop(transform, EvaluationConfig()) if transform else random_shop(given.shoppers, given.items)
    best, queries = measure(shop)
    print(f"\nEvaluation of one system after the forward pass: {queries:,} queries × {shop.catalogue.size:,} rows,")
    print(f"{given.run or 'random histories'}. {machine()}\n")
    print(table(["", "seconds", "processor seconds"], _lines(best)))


if __name__ == "__main__":
    main()
