"""Filtered retrieval of an exported model against exact filtered search.

    python -m benchmarks.filtered_retrieval RUN [--model DIR] [--shoppers N]

Filters keep 50 %, 10 %, 1 % and 0.1 % of the catalogue: prices about the middle, and prices about the middle among
the largest brands. Asks `retrieve_filtered` with the histories of held-out shoppers, one a request, on one
thread. Recall@20 counts the exact twenty best that are found; an answer is full if it has as many products as pass, up
to the model's C.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.index_speed import embedded
from benchmarks.machine import machine, table
from pipeline.publish import newest_version
from serving.servable import Servable
from trainer.config import EvaluationConfig
from trainer.data import Catalogue, load_catalogue, load_sequences
from trainer.queries import build_queries, load_split, sample_users
from trainer.retrieval import load_retrieval
from transform.tables import FIRST

SHARES = (0.5, 0.1, 0.01, 0.001)
_AT = 20
# Scores this close count as a tie.
_TIE = 1e-5


def price_range(prices: np.ndarray, share: float) -> tuple[float, float]:
    """Limits about the median between which `share` of the prices lie."""
    known = np.sort(prices[np.isfinite(prices)])
    middle, half = len(known) // 2, max(1, round(share * len(known) / 2))
    return float(known[max(middle - half, 0)]), float(known[min(middle + half, len(known)) - 1])


def filters(catalogue: Catalogue, width: int) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Name → which rows pass, bool [V], and the inputs that say so, `width` values at most."""
    found = {}
    names, counts = np.unique(catalogue.brands[catalogue.available].astype(str), return_counts=True)
    largest = names[np.argsort(-counts)][:width]
    of_brands = np.isin(catalogue.brands.astype(str), largest)
    for share in SHARES:
        for name, within in (("price", catalogue.available), ("price and brands", catalogue.available & of_brands)):
            kept_share = share * catalogue.available.sum() / max(within.sum(), 1)
            if kept_share > 1:
                continue
            low, high = price_range(np.where(within, catalogue.prices, np.nan), kept_share)
            given = {"filter_price_min": np.float32([low]), "filter_price_max": np.float32([high])}
            if name != "price":
                given["filter_brands"] = np.array([[*largest, *[""] * (width - len(largest))]], dtype=object)
            passing = within & (catalogue.prices >= np.float32(low)) & (catalogue.prices <= np.float32(high))
            found[f"{name}, {share:.1%}"] = passing, given
    return found


class Shop:
    """A run's catalogue, its products' vectors and its held-out shoppers."""

    def __init__(self, run: Path, shoppers: int, length: int) -> None:
        transform = run / "steps" / "embed-content"
        self.catalogue, sequences = load_catalogue(transform), load_sequences(transform)
        self.vectors = embedded(load_retrieval(run / "steps" / "train-retrieval", self.catalogue), self.catalogue, None)
        self.row_of = {item_id: row for row, item_id in enumerate(self.catalogue.item_ids)}
        queries = build_queries(sequences, self.catalogue, load_split(transform), "test", EvaluationConfig(), length)
        chosen = np.isin(queries.users, sample_users(sequences, queries.users, shoppers, 1))
        queries = queries.take(np.flatnonzero(chosen))
        rows = np.concatenate([queries.batch(*block)["history_rows"] for block in queries.blocks()])
        # [N, 1, L] product ids, oldest first.
        self.histories = np.where(rows < FIRST, "", self.catalogue.item_ids[rows])[:, np.newaxis]


def measured(shop: Shop, servable: Servable, name: str, passing: np.ndarray, given: dict[str, np.ndarray]) -> list[str]:
    """One line of the table.

    Raises:
        AssertionError: an answer holds what does not pass.
    """
    filtered, embed = servable.signature("retrieve_filtered"), servable.signature("embed_user")
    rows = np.flatnonzero(passing)
    hits, full, seconds = [], 0, []
    for history in shop.histories:
        inputs = {"history_item_ids": history}
        query = servable.run(embed, inputs, ["embedding"])["embedding"][0]
        started = time.perf_counter()
        answer = servable.run(filtered, inputs | given, ["item_ids"])["item_ids"][0]
        seconds.append((time.perf_counter() - started) * 1e3)
        found = [shop.row_of[item.decode()] for item in answer if item]
        assert passing[found].all(), name
        best = np.sort(shop.vectors[rows] @ query)[::-1][:_AT]
        hits.append((shop.vectors[found[: len(best)]] @ query >= best[-1] - _TIE).sum() / len(best))
        full += len(found) == min(len(rows), len(answer))
    share = passing.sum() / shop.catalogue.available.sum()
    times = [f"{np.percentile(seconds, percentile):.2f}" for percentile in (50, 99)]
    return [name, f"{share:.4f}", f"{np.mean(hits):.4f}", f"{full}/{len(seconds)}", *times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", type=Path, default=None, help="SavedModel; by default the newest published one")
    parser.add_argument("--shoppers", type=int, default=200)
    arguments = parser.parse_args()
    base = arguments.run / "export" / "recommender"
    directory = arguments.model or base / str(newest_version(base))
    one_thread = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    servable = Servable(directory, one_thread)
    inputs = servable.signature("retrieve_filtered").inputs
    length, width = (inputs[name].shape[1] for name in ("history_item_ids", "filter_brands"))
    shop = Shop(arguments.run, arguments.shoppers, length)
    lines = [measured(shop, servable, name, *wanted) for name, wanted in filters(shop.catalogue, width).items()]
    print(f"\n{directory}, {shop.catalogue.available.sum()} products; {machine()}\n")
    print(table(["filter", "passes", "recall@20", "full answers", "p50 ms", "p99 ms"], lines))


if __name__ == "__main__":
    main()
