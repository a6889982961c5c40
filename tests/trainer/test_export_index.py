"""What an export's indexes are built for: every kind of query that servers get."""

import numpy as np

from tests.trainer.clusters import clustered_vectors
from trainer.config import ExportConfig
from trainer.export_index import PRODUCTS, SHOPPERS, IndexQueries, Products, build_index

DIM, SIZE = 8, 22_000
RNG = np.random.default_rng(3)


def test_kinds_build_evenly_and_tune_with_the_rest() -> None:
    kinds = {SHOPPERS: np.full([900, DIM], 1.0, np.float32), PRODUCTS: np.full([40, DIM], 2.0, np.float32)}
    kinds[SHOPPERS][1::2] = 3.0
    queries = IndexQueries({}, kinds)
    assert queries.building[:, 0].tolist() == [1.0] * 20 + [2.0] * 20
    assert queries.tuning(SHOPPERS)[:, 0].tolist() == [3.0] * 450
    assert len(queries.tuning(PRODUCTS)) == 20


def test_one_query_builds_and_tunes() -> None:
    queries = IndexQueries({}, {PRODUCTS: np.ones([1, DIM], np.float32)})
    assert len(queries.building) == len(queries.tuning(PRODUCTS)) == 1


def test_index_built_for_all_kinds_finds_what_each_asks_for() -> None:
    """Shoppers look along two directions of eight; products, as queries, along all."""
    vectors = np.concatenate([np.zeros([2, DIM], np.float32), clustered_vectors(SIZE, DIM, 60, seed=8)])
    products = Products(vectors, np.arange(2, SIZE + 2, dtype=np.int32))

    def asked(count: int) -> dict[str, np.ndarray]:
        narrow = RNG.normal(size=(count, DIM)).astype(np.float32) * np.array([1, 1] + [0.02] * 6, np.float32)
        return {SHOPPERS: narrow, PRODUCTS: vectors[RNG.integers(2, SIZE, count)]}

    held_out = asked(60)
    for kind in ("portable", "scann"):
        _, report = build_index(kind, products, 120, IndexQueries(held_out, asked(120)), ExportConfig())
        assert report["recall@100"] == report["recall@100_by_query"][SHOPPERS]
        assert min(report["recall@100_by_query"].values()) > 0.95, (kind, report)
