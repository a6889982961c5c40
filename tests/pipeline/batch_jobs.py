"""Batch jobs in tests: what they wrote, and whether it is what a server answers."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from pipeline.batch_recommend import BatchOptions, batch_recommend
from pipeline.shopper_histories import shopper_history
from serving.client import Recommendations, RecommenderClient
from serving.client_query import NO_CONTEXT, Context

# Scores of one shopper differ by so much between batches of several lengths.
TOLERANCE = 1e-5
# Of the runs of these tests, named shopper-0, shopper-1 …; and the products that each gets.
SHOPPERS, K = 23, 6


def lists(out: Path) -> dict[str, Recommendations]:
    """What stands in the Parquet shards, by the first column."""
    table = ds.dataset(out, format="parquet").to_table()
    key = table.column_names[0]
    rows = table.to_pylist()
    assert len({row[key] for row in rows}) == len(rows), "rows are repeated"
    return {row[key]: Recommendations(tuple(row["item_ids"]), tuple(row["scores"]), 1) for row in rows}


def assert_same(found: Recommendations, expected: Recommendations) -> None:
    """The same products in the same order; those whose scores are equal but for rounding may have changed places."""
    np.testing.assert_allclose(found.scores, expected.scores, atol=TOLERANCE)
    scores = dict(zip(expected.item_ids, expected.scores, strict=True))
    last = expected.scores[-1]
    for place, item in enumerate(found.item_ids):
        assert abs(scores.get(item, last) - expected.scores[place]) < TOLERANCE, (found, expected)


def asked(client: RecommenderClient, run: Path, user: str, k: int, context: Context = NO_CONTEXT) -> Recommendations:
    """What the server answers a client that knows the shopper's history."""
    history = shopper_history(run, user)
    return client.recommend(
        history.item_ids, k, event_types=history.event_types, timestamps=history.timestamps, context=context
    )


def whole_job(run: Path) -> BatchOptions:
    """A job over all shoppers, done: 23 shoppers in shards of 5, asked for 4 at once."""
    options = BatchOptions(run, run.parent / "whole", k=K, batch_size=4, shard_size=5)
    batch_recommend(options)
    return options


def assert_every_shopper_has_the_list_of_the_server(job: BatchOptions, client: RecommenderClient) -> None:
    """One list of K products for each shopper of the run."""
    found = lists(job.out)
    assert sorted(found) == sorted(f"shopper-{number}" for number in range(SHOPPERS))
    for user, answer in found.items():
        assert len(answer.item_ids) == K
        assert_same(answer, asked(client, job.run, user, K))


def command(options: BatchOptions, *more: str) -> list[str]:
    """The same job in a process of its own."""
    sizes = ["-k", str(options.k), "--batch-size", str(options.batch_size), "--shard-size", str(options.shard_size)]
    job = ["batch-recommend", str(options.run), "--out", str(options.out), *sizes]
    return [sys.executable, "-m", "pipeline.cli", *job, *more]
